"""Tests of :mod:`ccmproxy.credentials.pool.members`: which members of a pool can serve a request."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.pool.members import Members, best, is_for_last, lasting
from ccmproxy.policy.balancing import Selection
from ccmproxy.policy.sessions import Assignment, RecentAssignments
from ccmproxy.state.holds import Combination
from ccmproxy.state.inputs import AccountRefused, Denied, PollSucceeded, Rests
from ccmproxy.state.limits import LimitsUpdate
from tests.credentials.fixtures import NOW, PlainCredential

ASKED = Combination("/v1/messages", "claude-opus-4-5")


class MembersTests(SynchronousTestCase):
    """Members a, b, an API key and a remote instance."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.a, self.b = (PlainCredential(tag, self.clock) for tag in "ab")
        self.key = PlainCredential("key", self.clock, key=True)
        self.theirs = PlainCredential("theirs", self.clock, external=True)
        self.recent = RecentAssignments()
        self.every = (self.a, self.b, self.key, self.theirs)
        for credential in self.every:
            self.addCleanup(credential.stop)
        self.members = Members(self.every, self.recent, True)

    def fit(self, assignment: Assignment | None = None, **options: object) -> str:
        """The candidates of a request, separated by spaces."""
        selection = Selection("s", asked=ASKED, **options)  # type: ignore[arg-type]
        found = self.members.candidates(selection, None, self.clock.seconds(), assignment)
        return " ".join(each.tag for each in found)

    def test_who_may_serve(self) -> None:
        """Spec 6.6, 3.7."""
        self.assertEqual(list(self.members.credentials(True)), list(self.every))
        self.assertEqual(list(self.members.credentials(False)), [self.a, self.b, self.key])
        members = Members(self.every, self.recent, False)
        self.assertEqual(list(members.credentials(True)), [self.a, self.b, self.theirs])
        self.assertIsNone(members.allowed(Selection(), "key"))
        self.assertIs(self.members.allowed(Selection(), "key"), self.key)
        self.assertIsNone(self.members.allowed(Selection(), "theirs"))
        self.assertIsNone(self.members.allowed(Selection(), "nobody"))

    def test_candidates(self) -> None:
        self.assertEqual(self.fit(), "a b key")
        self.assertEqual(self.fit(allow_external=True, excluded=frozenset("b")), "a key theirs")
        self.assertEqual(self.fit(allow_external=True, only_accounts=True), "a b")

    def test_recent_assignments_count(self) -> None:
        self.recent.add("b", NOW)
        found = self.members.candidates(Selection(), None, NOW)
        self.assertEqual([each.assigned for each in found], [0, 1, 0])

    def test_those_that_take_it(self) -> None:
        self.a.learn(Rests(ASKED, "u", 30.0))
        self.b.learn(Denied(ASKED, "u"))
        self.assertEqual(self.fit(), "key")
        here = Assignment("a", NOW, NOW, served_at=NOW)
        self.assertEqual(self.fit(here), "a key")
        here = Assignment("key", NOW, NOW, rested="a", rested_at=NOW)
        self.clock.advance(30)
        self.assertEqual(self.fit(), "a key")
        self.assertEqual(self.fit(here), "key")

    def test_the_best_that_there_are(self) -> None:
        """Usable ones; else those whose polls fail; else refused accounts whose interval is over (spec 12.3)."""
        self.members = Members((self.a, self.b), self.recent, True)
        self.a.learn(AccountRefused("disabled"))
        self.assertEqual(self.fit(), "b")
        self.clock.advance(60)
        self.assertTrue(is_for_last(self.a.snapshot(self.clock.seconds())))
        self.b.fail_poll()
        self.assertEqual(self.fit(), "b")
        self.b.lose_token()
        self.assertEqual(self.fit(), "a")
        self.b.gain_token()
        self.a.learn(PollSucceeded(LimitsUpdate()))
        self.assertFalse(is_for_last(self.a.snapshot(self.clock.seconds())))
        self.assertEqual(self.fit(), "a", "one request may find out, and polls of b fail")
        self.b.use(1.0)
        self.assertEqual(self.fit(), "a b")

    def test_together(self) -> None:
        self.assertTrue(self.members.availability(Selection(), None, NOW).usable)
        self.assertEqual(
            Members((), self.recent, True).availability(Selection(), None, NOW).state, "unavailable"
        )

    def test_the_best_and_those_that_last(self) -> None:
        """Spec 6.5: whoever is assigned where rebalancing would take it away again moves at once."""
        self.a.use(80.0)
        self.b.use(10.0)
        self.recent.add("b", NOW)
        found = Members((self.a, self.b), self.recent, True).candidates(Selection(), None, NOW)
        self.assertEqual(best(found, NOW).tag, "b")
        self.assertEqual([each.tag for each in lasting(found, 0.0, NOW)], ["a", "b"])
        self.assertEqual([each.tag for each in lasting(found, 70.0, NOW)], ["a", "b"])
        self.assertEqual([each.tag for each in lasting(found, 69.0, NOW)], ["b"])
