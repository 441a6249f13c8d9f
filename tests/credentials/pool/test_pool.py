"""Tests of :mod:`ccmproxy.credentials.pool.pool`: sessions are distributed, are sticky, and fail over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ccmproxy.credentials.destination import upstream_of
from ccmproxy.credentials.key import KeyAccount
from ccmproxy.credentials.pool.pool import Pool, PoolRules
from ccmproxy.credentials.pool.single import SingleProvider
from ccmproxy.dialects.oauth import ApiKey
from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.interfaces.credentials import ICredential, ILease, IProvider
from ccmproxy.policy.balancing import NoCredential, Selection, score
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.policy.sessions import JUST_ASSIGNED, SESSION_LIFE, WARM_TIME
from ccmproxy.state.availability import Availability
from ccmproxy.state.holds import PROBE_WAIT, Combination
from ccmproxy.state.inputs import (
    AccountRefused,
    Denied,
    Input,
    ModelDenied,
    PollSucceeded,
    Rests,
    SocketsRest,
)
from ccmproxy.state.limits import LimitsUpdate
from ccmproxy.testing.pump import MemoryNetwork
from tests.credentials.fixtures import NOW, URLS, PlainCredential

HOUR = 3600.0
OPUS = "claude-opus-4-5"
ASKED = Combination("/v1/messages", OPUS)
LEAST_USED = PoolRules("least-used")
FALLBACK = PoolRules("fallback")
ROUND_ROBIN = PoolRules("round-robin")
REBALANCING = PoolRules("least-used", rebalance_threshold=20.0)


class PoolTestCase(SynchronousTestCase):
    """Pools of credentials without logins, on one clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.credentials: list[PlainCredential] = []
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.addCleanup(self.finish)

    def finish(self) -> None:
        """Assert that there is no open lease, no listener and no timer."""
        for credential in self.credentials:
            self.assertEqual(credential.leases, set(), credential)
            self.assertEqual(credential._listeners, {}, credential)
            credential.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def credential(
        self,
        tag: str,
        used: float = 0.0,
        hours: float = 168.0,
        *,
        weight: float = 1.0,
        external: bool = False,
        key: bool = False,
    ) -> PlainCredential:
        """Return a usable credential with this utilization of its week (percent)."""
        credential = PlainCredential(tag, self.clock, weight=weight, external=external, key=key)
        credential.use(used, hours)
        self.credentials.append(credential)
        return credential

    def pool(
        self,
        members: Sequence[ICredential],
        rules: PoolRules = LEAST_USED,
        tag: str = "pool",
        takes_keys: bool = True,
    ) -> Pool:
        return Pool(tag, members, rules, self.clock.seconds, lambda: 0.0, takes_keys=takes_keys)

    def hold(
        self,
        pool: Pool,
        session: str | None = "s",
        *,
        user: str = "alice",
        model: str | None = OPUS,
        external: bool = False,
        excluded: Iterable[str] = (),
        agent: str | None = None,
    ) -> ILease:
        """A lease that stays open."""
        return pool.select(Selection(session, model, external, frozenset(excluded), user, agent))

    def ask(
        self,
        pool: Pool,
        session: str | None = "s",
        *,
        user: str = "alice",
        model: str | None = OPUS,
        external: bool = False,
        excluded: Iterable[str] = (),
        agent: str | None = None,
    ) -> str:
        """The tag of the credential that serves one request of this session."""
        lease = self.hold(
            pool, session, user=user, model=model, external=external, excluded=excluded, agent=agent
        )
        lease.close(LeaseOutcome.SERVED)
        return lease.tag

    def refused(self, pool: Pool, selection: Selection = Selection("s")) -> Availability:  # noqa: B008 - frozen
        """Return why no member serves this request."""
        error: NoCredential = self.assertRaises(NoCredential, pool.select, selection)
        return error.availability

    def where(self, pool: Pool, user: str = "alice") -> dict[str, str]:
        """Return the sessions of a user and their credentials."""
        return {key.session: assignment.credential for key, assignment in pool.sessions(user)}

    def logged(self) -> list[str]:
        """Return the log messages of pools since the last call."""
        lines = [eventAsText(event, includeTimestamp=False) for event in self.events if "pool" in event]
        self.events.clear()
        return [line.partition("] ")[2] if line.startswith("[") else line for line in lines]


class SessionTests(PoolTestCase):
    """A session keeps its credential until the credential cannot serve it (spec 6.2)."""

    def test_provides_its_interface(self) -> None:
        pool = self.pool([self.credential("a")])
        self.assertTrue(verifyObject(IProvider, pool))
        self.assertFalse(pool.is_single_account)
        self.assertIn("least-used members=1", repr(pool))

    def test_real_accounts(self) -> None:
        """The lease that select() returns belongs to the chosen account."""
        network = MemoryNetwork(self.clock)
        accounts = []
        for tag in "ab":
            connections = ConnectionPool(network.endpoint(f"{tag}.example", 443), self.clock)
            upstream = upstream_of(URLS.api_url, connections)
            account = KeyAccount(tag, ApiKey(tag), upstream, self.clock, now=self.clock.seconds)
            account.start()
            self.addCleanup(account.stop)
            accounts.append(account)
        pool = self.pool(accounts)
        first, second = self.hold(pool, "s"), self.hold(pool, "t")
        self.assertEqual((first.tag, second.tag), ("a", "b"))
        self.assertEqual([account.in_flight for account in accounts], [1, 1])
        first.rate_limited(NOW + HOUR, True)
        self.assertEqual(self.ask(pool, "s"), "b")
        for lease in (first, second):
            lease.close(LeaseOutcome.SERVED)

    def test_stays_whatever_the_strategy_would_choose_now(self) -> None:
        for strategy in ("least-used", "round-robin", "random"):
            a, b = self.credential("a", 10), self.credential("b", 20)
            pool = self.pool([a, b], PoolRules(strategy))
            first = self.ask(pool)
            {"a": a, "b": b}[first].use(90)
            for _ in range(5):
                self.ask(pool, None)
                self.assertEqual(self.ask(pool), first)
            self.assertEqual(self.where(pool), {"s": first})

    def test_forgotten_after_a_day_of_silence(self) -> None:
        a, b = self.credential("a", 10, 400), self.credential("b", 20, 400)
        pool = self.pool([a, b])
        self.assertEqual(self.ask(pool), "a")
        a.use(90, 400)
        self.clock.advance(SESSION_LIFE)
        self.assertEqual(self.ask(pool), "a")
        self.clock.advance(SESSION_LIFE + 1)
        self.assertEqual(self.where(pool), {})
        self.assertEqual(self.ask(pool), "b")

    def test_f9_what_cannot_serve_is_left_at_once(self) -> None:
        for spoil in (
            lambda credential: credential.rate_limited(NOW + HOUR, True),
            lambda credential: credential.learn(AccountRefused("disabled")),
            PlainCredential.lose_token,
            lambda credential: credential.use(100.0),
        ):
            a, b = self.credential("a"), self.credential("b", 50)
            pool = self.pool([a, b])
            self.assertEqual(self.ask(pool), "a")
            spoil(a)
            self.assertEqual(self.ask(pool), "b")
            self.assertEqual(self.where(pool), {"s": "b"})

    def test_and_not_returned_to_when_it_recovers(self) -> None:
        """The prompt cache of the conversation is on the other credential by now."""
        a, b = self.credential("a"), self.credential("b", 50)
        pool = self.pool([a, b])
        self.ask(pool)
        a.rate_limited(NOW + 600, True)
        self.assertEqual(self.ask(pool), "b")
        self.clock.advance(600)
        self.assertTrue(a.is_usable())
        self.assertEqual(self.ask(pool), "b")

    def test_failed_polls_move_nobody(self) -> None:
        """Failed polls say nothing about the account, and a session that moves loses its cache. New sessions go
        elsewhere."""
        a, b = self.credential("a"), self.credential("b", 50)
        pool = self.pool([a, b])
        self.ask(pool)
        a.fail_poll()
        self.assertEqual(self.ask(pool), "a")
        self.assertEqual(self.ask(pool, "new"), "b")

    def test_failed_polls_move_nobody_in_a_fallback(self) -> None:
        """Nor back: what is not moved need not return once polls succeed again."""
        a, b = self.credential("a"), self.credential("b")
        pool = Pool("pool", [a, b], PoolRules("fallback"), self.clock.seconds, lambda: 0.5)
        self.assertEqual(self.ask(pool), "a")
        a.fail_poll()
        self.assertEqual([self.ask(pool), self.ask(pool)], ["a", "a"])
        a.use(1.0)
        self.assertEqual(self.ask(pool), "a")

    def test_where_all_are_as_bad_it_stays(self) -> None:
        """A session without an alternative stays in spite of a failing usage endpoint, or of a refusal that may be over
        (spec 12.3): each move would lose its cache."""
        for strategy in ("least-used", "round-robin", "random", "fallback"):
            a, b = self.credential("a"), self.credential("b")
            pool = Pool(
                "pool", [a, b], PoolRules(strategy), self.clock.seconds, iter([0.1, 0.6] * 9).__next__
            )
            first = self.ask(pool)
            others = {"a": "b", "b": "a"}
            for credential in (a, b):
                credential.fail_poll()
            self.assertEqual([self.ask(pool) for _ in range(4)], [first] * 4, strategy)
            self.assertEqual(self.ask(pool, excluded=[first]), others[first])

    def test_what_did_not_serve_the_request_is_left(self) -> None:
        """Spec 6.4: the session stays on the next choice."""
        pool = self.pool([self.credential(tag, used) for tag, used in (("a", 0), ("b", 50), ("c", 60))])
        self.assertEqual(self.ask(pool), "a")
        self.assertEqual(self.ask(pool, excluded=["a"]), "b")
        self.assertEqual(self.ask(pool), "b")
        self.assertEqual(self.ask(pool, excluded=["a", "b"]), "c")
        self.assertEqual(self.where(pool), {"s": "c"})

    def test_nobody_serves_the_request(self) -> None:
        """The session returns to its first credential, which has its prompt cache, unless that is the cause of the
        failure."""
        for limited, back in ((False, "a"), (True, "c")):
            a, b, c = (self.credential(tag, used) for tag, used in (("a", 0), ("b", 50), ("c", 60)))
            pool = self.pool([a, b, c])
            self.ask(pool)
            for excluded, tag in (("a", "b"), ("ab", "c")):
                self.assertEqual(self.ask(pool, excluded=excluded), tag)
            if limited:
                a.rate_limited(NOW + 600, True)
            self.refused(pool, Selection("s", user="alice", excluded=frozenset("abc")))
            self.assertEqual(self.where(pool), {"s": back})

    def test_a_window_of_a_model(self) -> None:
        """The window closes the credential for its model only; a session with another model is not moved."""
        a, b = self.credential("a"), self.credential("b", 50)
        pool = self.pool([a, b])
        self.ask(pool, "s")
        self.ask(pool, "haiku", model="claude-haiku-4-5", excluded=["b"])
        a.close_model("opus", HOUR)
        self.assertEqual(self.ask(pool, "haiku", model="claude-haiku-4-5"), "a")
        self.assertEqual(self.ask(pool, "s"), "b")
        self.assertEqual(self.ask(pool, "s", model="claude-haiku-4-5"), "b")
        b.close_model("opus", HOUR)
        self.assertEqual(self.refused(pool, Selection("s", OPUS)).reason, "model_window")

    def test_a_request_without_a_model_goes_where_the_last_one_is_served(self) -> None:
        """The handshake of a WebSocket names no model."""
        a, b = self.credential("a"), self.credential("b", 50)
        pool = self.pool([a, b])
        self.ask(pool)
        a.close_model("opus", HOUR)
        self.assertEqual(self.ask(pool, model=None), "b")
        self.assertEqual(self.ask(pool, "new", model=None), "a")

    def test_no_id_is_not_remembered(self) -> None:
        pool = self.pool([self.credential("a"), self.credential("b")], ROUND_ROBIN)
        self.assertEqual([self.ask(pool, None) for _ in range(4)], ["a", "b", "a", "b"])
        self.assertEqual(self.where(pool), {})

    def test_users_share_nothing(self) -> None:
        pool = self.pool([self.credential("a"), self.credential("b")], ROUND_ROBIN)
        self.assertEqual([self.ask(pool, user=user) for user in ("alice", "bob", "alice")], ["a", "b", "a"])
        self.assertEqual((self.where(pool, "bob"), self.where(pool, "carol")), ({"s": "b"}, {}))

    def test_scopes_share_nothing(self) -> None:
        pool = self.pool([self.credential("a"), self.credential("b")], ROUND_ROBIN)
        self.assertEqual([self.ask(pool, external=each) for each in (True, False, True)], ["a", "b", "a"])
        self.assertEqual(len(pool.sessions("alice")), 2)

    def test_subagents_belong_to_their_session(self) -> None:
        pool = self.pool([self.credential("a"), self.credential("b")], ROUND_ROBIN)
        self.assertEqual([self.ask(pool, agent=agent) for agent in (None, "x", "y")], ["a"] * 3)

    def test_f11_unless_they_are_to_be_spread(self) -> None:
        members = [self.credential(tag) for tag in "abc"]
        pool = self.pool(members, PoolRules("round-robin", spread_subagents=True))
        for _ in range(2):
            self.assertEqual([self.ask(pool, agent=agent) for agent in (None, "x", "y")], ["a", "b", "c"])
        self.assertEqual({key.agent for key, _ in pool.sessions("alice")}, {"", "x", "y"})
        self.assertEqual(self.ask(pool, None, agent="x"), "a", "nothing to remember it by")

    def test_sessions_as_shown(self) -> None:
        pool = self.pool([self.credential("a")])
        self.ask(pool, "s")
        self.clock.advance(10)
        self.ask(pool, "t")
        self.clock.advance(10)
        self.ask(pool, "s", model="claude-haiku-4-5")
        shown = [(key.session, each.since - NOW, each.last_use - NOW) for key, each in pool.sessions("alice")]
        self.assertEqual(shown, [("s", 0, 20), ("t", 10, 10)])
        self.assertEqual(pool.sessions("alice")[0][1].models, [OPUS, "claude-haiku-4-5"])


class ChoiceTests(PoolTestCase):
    """The choice of a credential for new sessions."""

    def test_f8_sessions_that_move_together_are_spread(self) -> None:
        """After one exhaustion with 100 sessions, each other member gets a share in proportion to its score."""
        a = self.credential("a")
        b, c = self.credential("b", weight=3), self.credential("c", weight=1)
        pool = self.pool([a, b, c])
        for number in range(100):
            self.assertEqual(self.ask(pool, f"s{number}", excluded=["b", "c"]), "a")
        self.clock.advance(JUST_ASSIGNED)
        a.rate_limited(NOW + HOUR, True)
        moved = Counter(self.ask(pool, f"s{number}") for number in range(100))
        self.assertEqual(score(b.snapshot(NOW), NOW), 3 * score(c.snapshot(NOW), NOW))
        self.assertLessEqual(abs(moved["b"] - 75), 1)
        self.assertLessEqual(abs(moved["c"] - 25), 1)

    def test_what_was_assigned_counts_for_a_minute(self) -> None:
        pool = self.pool([self.credential("a", 10), self.credential("b", 40)])
        self.assertEqual([self.ask(pool, None) for _ in range(3)], ["a", "b", "a"])
        self.clock.advance(JUST_ASSIGNED)
        self.assertEqual(self.ask(pool, None), "a")

    def test_fallback_returns_to_the_better_one(self) -> None:
        a, b, c = (self.credential(tag) for tag in "abc")
        pool = self.pool([a, b, c], FALLBACK)
        self.assertEqual(self.ask(pool), "a")
        a.rate_limited(NOW + 600, True)
        b.rate_limited(NOW + 300, True)
        self.assertEqual(self.ask(pool), "c")
        self.clock.advance(300)
        self.assertEqual(self.ask(pool), "b")
        self.clock.advance(300)
        self.assertEqual(self.ask(pool), "a")

    def test_round_robin_passes_over_what_cannot_serve(self) -> None:
        a, b, c = (self.credential(tag) for tag in "abc")
        pool = self.pool([a, b, c], ROUND_ROBIN)
        b.lose_token()
        self.assertEqual([self.ask(pool, None) for _ in range(4)], ["a", "c", "a", "c"])
        b.gain_token()
        self.assertEqual([self.ask(pool, None) for _ in range(3)], ["a", "b", "c"])

    def test_random(self) -> None:
        numbers = iter([0.0, 0.5, 0.99])
        members = [self.credential(tag) for tag in "abc"]
        pool = Pool("pool", members, PoolRules("random"), self.clock.seconds, lambda: next(numbers))
        self.assertEqual([self.ask(pool, None) for _ in range(3)], ["a", "b", "c"])

    def test_where_none_is_fit_one_that_is_worth_trying(self) -> None:
        a, b, c = (self.credential(tag) for tag in "abc")
        pool = self.pool([a, b, c])
        a.rate_limited(NOW + HOUR, True)
        b.fail_poll()
        c.lose_token()
        self.assertEqual(self.ask(pool), "b")
        self.assertEqual(self.ask(pool, "blocked"), "b")
        b.lose_token()
        self.assertEqual(self.refused(pool).state, "rate_limited")


class PermissionTests(PoolTestCase):
    """Spec 6.6, 3.7."""

    def test_externals_never_serve_those_who_may_not(self) -> None:
        ours, theirs = self.credential("ours", 90), self.credential("theirs", external=True)
        pool = self.pool([theirs, ours])
        for number in range(20):
            self.assertEqual(self.ask(pool, f"s{number}"), "ours")
        self.assertEqual(self.ask(pool, "s0", external=True), "theirs")
        self.assertEqual(self.ask(pool, "s0"), "ours")
        ours.lose_token()
        refusal = self.refused(pool)
        self.assertEqual((refusal.state, "ours" in refusal.message), ("unavailable", True))
        self.assertEqual(self.ask(pool, external=True), "theirs")

    def test_a_pool_of_externals_alone(self) -> None:
        pool = self.pool([self.credential("theirs", external=True)])
        self.assertEqual(self.refused(pool).message, "no credential may serve this user")
        self.assertEqual(pool.credentials(False), [])

    def test_who_may_be_seen_is_who_may_serve(self) -> None:
        ours, theirs = self.credential("ours"), self.credential("theirs", external=True)
        ours.lose_token()
        pool = self.pool([theirs, ours])
        self.assertEqual(list(pool.credentials(True)), [theirs, ours])
        self.assertEqual(list(pool.credentials(False)), [ours])

    def test_keys_are_passed_over_where_they_cannot_stand_in(self) -> None:
        """A member that becomes a key later is skipped too, and its sessions leave."""
        a, b = self.credential("a"), self.credential("b", 90)
        pool = self.pool([a, b], takes_keys=False)
        self.assertEqual(self.ask(pool), "a")
        a.is_api_key = True
        self.assertEqual(self.ask(pool), "b")
        self.assertEqual(list(pool.credentials(True)), [b])
        self.assertEqual(self.ask(self.pool([a, b]), "s"), "a")


class RebalancingTests(PoolTestCase):
    """Spec 6.5."""

    def interrupts(self, *leases: ILease) -> list[str]:
        """Return a list that collects the tag of each interrupted lease and the cause."""
        told: list[str] = []
        for place, lease in enumerate(leases):

            def interrupted(availability: Availability, place: int = place) -> None:
                told.append(f"{place} {availability.reason}")

            lease.on_interrupt(interrupted)
        return told

    def close(self, *leases: ILease) -> None:
        for lease in leases:
            lease.close(LeaseOutcome.INTERRUPTED)

    def test_moves_when_the_other_is_less_used(self) -> None:
        a, b = self.credential("a", 10), self.credential("b", 20)
        pool = self.pool([a, b], REBALANCING)
        self.assertEqual(self.ask(pool), "a")
        self.clock.advance(JUST_ASSIGNED)
        for used, expected in ((40.0, "a"), (40.1, "b"), (90.0, "b")):
            a.use(used)
            self.assertEqual(self.ask(pool), expected, used)

    def test_the_threshold_is_of_the_plan(self) -> None:
        a, b = self.credential("a", 10, weight=10), self.credential("b", 20, weight=10)
        pool = self.pool([a, b], REBALANCING)
        self.ask(pool)
        self.clock.advance(JUST_ASSIGNED)
        a.use(22.0)
        self.assertEqual(self.ask(pool), "a")
        a.use(22.1)
        self.assertEqual(self.ask(pool), "b")

    def test_off(self) -> None:
        a, b = self.credential("a", 10), self.credential("b", 20)
        for rules in (LEAST_USED, PoolRules("round-robin", rebalance_threshold=20.0)):
            a.use(10)
            pool = self.pool([a, b], rules)
            self.assertEqual(self.ask(pool), "a")
            a.use(98)
            self.assertEqual(self.ask(pool), "a")

    def test_all_sessions_there_leave_and_requests_in_flight_are_interrupted(self) -> None:
        a, b = self.credential("a", 10), self.credential("b", 60)
        pool = self.pool([a, b], REBALANCING)
        leases = [self.hold(pool, f"s{number}", excluded=["b"]) for number in range(3)]
        elsewhere = self.hold(pool, "t", excluded=["a"])
        told = self.interrupts(*leases[:2], elsewhere)
        self.clock.advance(JUST_ASSIGNED)
        a.use(95)
        self.assertEqual(self.ask(pool, "s2"), "b")
        self.close(*leases, elsewhere)
        self.assertEqual(sorted(told), ["0 rebalanced", "1 rebalanced"])
        self.assertEqual(self.where(pool), {"s2": "b", "t": "b"})
        self.assertTrue(a.is_usable())

    def test_requests_of_one_session_stay_together(self) -> None:
        """A waiting request is interrupted, and reassigns the session before the request that rebalanced does."""
        a, b, c = self.credential("a", 10), self.credential("b", 20), self.credential("c", 20)
        pool = self.pool([a, b, c], REBALANCING)
        waiting = self.hold(pool)
        moved: list[str] = []

        def interrupted(availability: Availability) -> None:
            waiting.close(LeaseOutcome.INTERRUPTED)
            moved.append(self.ask(pool, excluded=["a"]))

        waiting.on_interrupt(interrupted)
        self.clock.advance(JUST_ASSIGNED)
        a.use(95)
        self.assertEqual([self.ask(pool)], moved)
        self.assertEqual(self.where(pool), {"s": moved[0]})

    def test_of_this_pool_and_scope_alone(self) -> None:
        a, b = self.credential("a", 10), self.credential("b", 60)
        pool, other = self.pool([a, b], REBALANCING), self.pool([a, b], REBALANCING, tag="other")
        leases = [
            self.hold(pool, "s"),
            self.hold(pool, "t", external=True, excluded=["b"]),
            self.hold(other, "s"),
            a.lease(),
        ]
        told = self.interrupts(*leases)
        self.clock.advance(JUST_ASSIGNED)
        a.use(95)
        self.assertEqual(self.ask(pool, "s"), "b")
        self.assertEqual(told, ["0 rebalanced"])
        self.assertEqual((self.where(pool), self.where(other)), ({"s": "b", "t": "a"}, {"s": "a"}))
        self.assertEqual(self.ask(pool, "t", external=True), "b")
        self.assertEqual(told, ["0 rebalanced", "1 rebalanced"])
        self.assertEqual(self.ask(other, "s"), "b")
        self.assertEqual(told[2:], ["2 rebalanced"])
        self.close(*leases)

    def test_never_to_one_that_this_user_may_not_use(self) -> None:
        ours, theirs = self.credential("ours", 90), self.credential("theirs", external=True)
        pool = self.pool([ours, theirs], REBALANCING)
        self.assertEqual([self.ask(pool) for _ in range(3)], ["ours"] * 3)

    def test_logged_once(self) -> None:
        a, b = self.credential("a", 10), self.credential("b", 60)
        pool = self.pool([a, b], REBALANCING)
        for number in range(10):
            self.ask(pool, f"s{number}", excluded=["b"])
        self.clock.advance(JUST_ASSIGNED)
        a.use(95)
        self.logged()
        for number in range(10):
            self.ask(pool, f"s{number}")
        lines = [line for line in self.logged() if "rebalances" in line]
        self.assertEqual(
            lines,
            ["pool pool rebalances: 10 sessions leave a, b is less used (least-used, scores b 40, a 5)"],
        )

    def count_rebalances(self, pool: Pool, sessions: int, rounds: int) -> int:
        """Return how often ``pool`` rebalances while this many sessions send requests in turn, in one state of its
        members."""
        self.logged()
        for _ in range(rounds):
            for number in range(sessions):
                self.ask(pool, f"s{number}")
            self.clock.advance(0.5)
        return len([line for line in self.logged() if "rebalances" in line])

    def test_within_one_state_nobody_is_moved(self) -> None:
        """This holds whatever the recent assignments are, and for as long as they count."""
        for used in ((10, 60, 40), (90, 10, 13), (10, 10, 10), (50, 45, 5)):
            for hours in ((168, 168, 168), (4, 168, 100), (168, 24, 12)):
                members = [
                    self.credential(tag, float(percent), float(left), weight=10)
                    for tag, percent, left in zip("abc", used, hours, strict=True)
                ]
                pool = self.pool(members, REBALANCING)
                for rounds in (5, 150):
                    self.assertEqual(self.count_rebalances(pool, 12, rounds), 0, (used, hours))
                best = max(members, key=lambda each: score(each.snapshot(self.clock.seconds()), NOW)).tag
                self.assertIn(best, self.where(pool).values())

    def test_moved_sessions_stay_where_they_went(self) -> None:
        a, b, c = self.credential("a", 10), self.credential("b", 20), self.credential("c", 60)
        pool = self.pool([a, b, c], REBALANCING)
        for number in range(12):
            self.ask(pool, f"s{number}", excluded=["b", "c"])
        self.clock.advance(JUST_ASSIGNED)
        a.use(90)
        self.assertEqual(self.count_rebalances(pool, 12, 1), 1)
        self.assertEqual(set(self.where(pool).values()), {"b"}, "c is so full that nobody would stay there")
        self.assertEqual(self.count_rebalances(pool, 12, 150), 0)

    def test_a_session_is_not_moved_for_having_come(self) -> None:
        """A recent assignment makes a credential look more used to other sessions only, not to the assigned one."""
        a, b = self.credential("a", 60, 84), self.credential("b", 30)
        pool = self.pool([a, b], REBALANCING)
        self.assertGreater(score(a.snapshot(NOW), NOW), score(b.snapshot(NOW), NOW))
        self.assertEqual([self.ask(pool) for _ in range(5)], ["a"] * 5)


class KeepsTests(PoolTestCase):
    """Whether a new turn may use the existing connection (F39)."""

    def keeps(self, pool: Pool, tag: str, **options: object) -> bool:
        selection = Selection("s", OPUS, user="alice", **options)  # type: ignore[arg-type]
        return pool.keeps(selection, tag)

    def test_as_long_as_it_can_serve(self) -> None:
        a, b = self.credential("a"), self.credential("b", 50)
        pool = self.pool([a, b])
        self.ask(pool)
        self.assertTrue(self.keeps(pool, "a"))
        a.fail_poll()
        self.assertTrue(self.keeps(pool, "a"))
        a.rate_limited(NOW + HOUR, True)
        self.assertFalse(self.keeps(pool, "a"))

    def test_no_member_or_not_allowed_any_more(self) -> None:
        a, b = self.credential("a", external=True), self.credential("b")
        pool = self.pool([a, b])
        self.assertFalse(self.keeps(pool, "c"))
        self.assertFalse(self.keeps(pool, "a"))
        self.assertTrue(self.keeps(pool, "a", allow_external=True))
        pool.reconfigure([b], LEAST_USED)
        self.assertFalse(self.keeps(pool, "a", allow_external=True))

    def test_a_model_that_is_closed_here(self) -> None:
        """A new connection helps only if another credential can serve that model."""
        a, b = self.credential("a"), self.credential("b", 50)
        pool = self.pool([a, b])
        self.ask(pool)
        a.close_model("opus", HOUR)
        self.assertFalse(self.keeps(pool, "a"))
        b.close_model("opus", HOUR)
        self.assertTrue(self.keeps(pool, "a"))

    def test_a_limit_of_connections_or_a_rest_closes_none(self) -> None:
        """Spec 12.2: neighbours stay, and a rest is not looked at per turn."""
        a, b = self.credential("a"), self.credential("b", 50)
        pool = self.pool([a, b])
        a.learn(SocketsRest(NOW + 60))
        a.learn(Rests(ASKED, "alice", 60.0))
        self.assertTrue(self.keeps(pool, "a", asked=ASKED))
        a.learn(AccountRefused("disabled"))
        self.assertFalse(self.keeps(pool, "a", asked=ASKED))

    def test_fallback_goes_back(self) -> None:
        a, b = self.credential("a"), self.credential("b")
        pool = self.pool([a, b], FALLBACK)
        self.assertFalse(self.keeps(pool, "b"))
        a.lose_token()
        self.assertTrue(self.keeps(pool, "b"))

    def test_rebalanced(self) -> None:
        a, b = self.credential("a", 10), self.credential("b", 20)
        pool = self.pool([a, b], REBALANCING)
        self.ask(pool)
        self.clock.advance(JUST_ASSIGNED)
        self.assertTrue(self.keeps(pool, "a"))
        a.use(90)
        self.assertFalse(self.keeps(pool, "a"))
        self.assertEqual(self.ask(pool), "b")

    def test_it_is_a_use_of_the_session(self) -> None:
        pool = self.pool([self.credential("a", hours=400)])
        self.ask(pool)
        self.clock.advance(SESSION_LIFE)
        self.assertTrue(self.keeps(pool, "a"))
        self.clock.advance(SESSION_LIFE)
        self.assertEqual(self.where(pool), {"s": "a"})


class RestTests(PoolTestCase):
    """A rest turns away cold work and nothing else (spec 12.2)."""

    def selection(self, session: str | None = "s", **options: object) -> Selection:
        return Selection(session, OPUS, user="alice", asked=ASKED, **options)  # type: ignore[arg-type]

    def serve(self, pool: Pool, session: str | None = "s", **options: object) -> str:
        """The tag of the credential that serves one request, which makes the session warm there."""
        selection = self.selection(session, **options)
        lease = pool.select(selection)
        lease.close(LeaseOutcome.SERVED)
        pool.served(selection, lease.tag)
        return lease.tag

    def rest(self, credential: PlainCredential, seconds: float | None = 30.0) -> None:
        credential.learn(Rests(ASKED, "bob", seconds))

    def test_cold_sessions_go_elsewhere_warm_ones_stay(self) -> None:
        a, b = self.credential("a"), self.credential("b", 50)
        pool = self.pool([a, b])
        self.assertEqual(self.serve(pool, "warm"), "a")
        cold = pool.select(self.selection("cold", excluded=frozenset("b")))
        cold.close(LeaseOutcome.CANCELLED)
        self.rest(a)
        self.assertEqual(self.serve(pool, "warm"), "a")
        self.assertEqual(self.serve(pool, "cold"), "b")
        self.assertEqual(self.serve(pool, "new"), "b")
        self.assertEqual(self.serve(pool, None), "b")
        other = replace(self.selection("other"), asked=Combination("/v1/messages", "claude-haiku-4-5"))
        lease = pool.select(replace(other, excluded=frozenset("b")))
        lease.close(LeaseOutcome.SERVED)
        self.assertEqual(lease.tag, "a", "another combination does not rest")

    def test_warm_is_who_was_served_within_five_minutes(self) -> None:
        a, b = self.credential("a"), self.credential("b", 50)
        pool = self.pool([a, b])
        selection = self.selection("s")
        self.assertFalse(pool.is_warm(selection, "a"))
        self.serve(pool)
        self.assertTrue(pool.is_warm(selection, "a"))
        self.assertFalse(pool.is_warm(selection, "b"))
        self.assertFalse(pool.is_warm(self.selection(None), "a"))
        self.clock.advance(WARM_TIME)
        self.assertFalse(pool.is_warm(selection, "a"))
        self.rest(a)
        self.assertEqual(self.serve(pool), "b")

    def test_one_served_elsewhere_warms_nothing_here(self) -> None:
        a, b = self.credential("a"), self.credential("b", 50)
        pool = self.pool([a, b])
        self.assertEqual(self.ask(pool), "a")
        pool.served(self.selection(), "b")
        self.assertFalse(pool.is_warm(self.selection(), "a"))

    def test_where_all_rest_the_earliest_end_is_told(self) -> None:
        a, b, c, d = (self.credential(tag) for tag in "abcd")
        theirs = self.credential("theirs", external=True)
        pool = self.pool([a, b, c, d, theirs])
        for credential, seconds in ((a, 40.0), (b, 20.0), (c, 10.0), (d, 5.0), (theirs, 2.0)):
            self.rest(credential, seconds)
        c.rate_limited(NOW + HOUR, True)
        error: NoCredential = self.assertRaises(
            NoCredential, pool.select, self.selection(excluded=frozenset("d"))
        )
        self.assertEqual(error.free_at, NOW + 20, "not of c, which is used up, nor of d, nor of theirs")
        self.assertTrue(error.availability.usable)
        self.clock.advance(20)
        self.assertEqual(self.serve(pool, excluded=frozenset("d")), "b")

    def test_a_cold_session_does_not_go_where_it_was_if_all_rest(self) -> None:
        a, b = self.credential("a"), self.credential("b", 50)
        pool = self.pool([a, b])
        self.ask(pool)
        for credential in (a, b):
            self.rest(credential)
        error: NoCredential = self.assertRaises(NoCredential, pool.select, self.selection())
        self.assertEqual(error.free_at, NOW + 30)
        self.clock.advance(30)
        self.assertEqual(self.serve(pool), "a", "it was not moved, so that it does not avoid its account")

    def test_nobody_waits_for_rests_of_what_was_not_asked_for(self) -> None:
        a = self.credential("a")
        pool = self.pool([a])
        self.rest(a)
        self.assertEqual(self.ask(pool), "a")

    def test_one_request_goes_first_at_the_end(self) -> None:
        a = self.credential("a")
        pool = self.pool([a])
        self.rest(a, 10.0)
        self.clock.advance(10)
        first = pool.select(self.selection("first"))
        a.sending(ASKED)
        error: NoCredential = self.assertRaises(NoCredential, pool.select, self.selection("second"))
        self.assertEqual(error.free_at, NOW + 10 + PROBE_WAIT)
        self.clock.advance(1)
        a.served(ASKED, NOW + 10, True)
        first.close(LeaseOutcome.SERVED)
        self.assertEqual(self.serve(pool, "second"), "a")

    def test_moved_by_a_rest_it_does_not_return_within_five_minutes(self) -> None:
        """Neither where the strategy is fallback."""
        for rules in (LEAST_USED, FALLBACK):
            a, b = self.credential("a"), self.credential("b", 50)
            pool = self.pool([a, b], rules)
            self.assertEqual(self.ask(pool), "a")
            self.rest(a)
            self.assertEqual(self.serve(pool), "b")
            self.clock.advance(WARM_TIME - 1)
            self.assertEqual(self.serve(pool), "b")
            self.assertTrue(pool.keeps(self.selection(), "b"), "a relay stays as well")
            b.rate_limited(self.clock.seconds() + 1.0, True)
            self.assertEqual(self.serve(pool), "a", "where there is nothing else it returns")

    def test_after_five_minutes_fallback_returns(self) -> None:
        a, b = self.credential("a"), self.credential("b")
        pool = self.pool([a, b], FALLBACK)
        self.ask(pool)
        self.rest(a)
        self.assertEqual(self.serve(pool), "b")
        self.clock.advance(WARM_TIME)
        self.assertEqual(self.serve(pool), "a")

    def test_the_request_that_was_refused_moves_its_session_likewise(self) -> None:
        """It is asked elsewhere before it is known that it was a rest: that is charged once it is served there."""
        a, b = self.credential("a"), self.credential("b")
        pool = self.pool([a, b], FALLBACK)
        self.assertEqual(self.serve(pool), "a")
        lease = pool.select(self.selection(excluded=frozenset("a")))
        self.assertEqual(lease.tag, "b")
        self.rest(a, 5.0)
        lease.close(LeaseOutcome.SERVED)
        pool.served(self.selection(excluded=frozenset("a")), "b")
        self.clock.advance(10)
        self.assertEqual(self.serve(pool), "b")
        self.assertEqual(self.serve(pool, "new"), "a")
        self.clock.advance(WARM_TIME)
        self.assertEqual(self.serve(pool), "a")

    def test_it_returns_rather_than_to_be_told_to_wait(self) -> None:
        a, b = self.credential("a"), self.credential("b", 50)
        pool = self.pool([a, b])
        self.ask(pool)
        self.rest(a, 5.0)
        lease = pool.select(self.selection())
        lease.close(LeaseOutcome.CANCELLED)
        self.assertEqual(lease.tag, "b")
        self.clock.advance(5)
        self.rest(b)
        self.assertEqual(self.serve(pool), "a")

    def test_where_it_returned_it_stays(self) -> None:
        """For want of anything else it went back; then it does not leave again because it once left."""
        a, b = self.credential("a"), self.credential("b", 50)
        pool = self.pool([a, b])
        self.ask(pool)
        self.rest(a, 5.0)
        self.assertEqual(self.serve(pool), "b")
        self.clock.advance(5)
        b.rate_limited(self.clock.seconds() + 10, True)
        self.assertEqual(self.serve(pool), "a")
        self.clock.advance(10)
        self.assertTrue(b.is_usable())
        self.assertEqual(self.serve(pool), "a")

    def test_a_request_that_nobody_serves_makes_its_session_not_cold(self) -> None:
        """It returns to where it was served within the last minutes, and is warm there as before."""
        a, b, c = self.credential("a"), self.credential("b", 50), self.credential("c", 60)
        pool = self.pool([a, b, c])
        self.assertEqual(self.serve(pool), "a")
        for excluded, tag in (("a", "b"), ("ab", "c")):
            lease = pool.select(self.selection(excluded=frozenset(excluded)))
            lease.close(LeaseOutcome.UNREACHABLE)
            self.assertEqual(lease.tag, tag)
        self.assertRaises(NoCredential, pool.select, self.selection(excluded=frozenset("abc")))
        self.assertTrue(pool.is_warm(self.selection(), "a"))
        self.rest(a)
        self.assertEqual(self.serve(pool), "a")

    def test_patience_is_of_the_rules(self) -> None:
        pool = self.pool([self.credential("a")])
        self.assertEqual(pool.patience, 5.0)
        pool.reconfigure([], PoolRules("least-used", patience=0.0))
        self.assertEqual(pool.patience, 0.0)

    def test_refused_in_mid_stream_the_next_request_goes_to_another_account(self) -> None:
        """Spec 12.1: within 60 s, and never to a key or a remote instance for this alone."""
        a, b = self.credential("a"), self.credential("b", 90)
        key, theirs = self.credential("key", key=True), self.credential("theirs", external=True)
        for members, expected in (((a, key, theirs, b), "b"), ((a, key, theirs), "a")):
            pool = self.pool(members, ROUND_ROBIN)
            selection = self.selection(allow_external=True)
            self.assertEqual(self.serve(pool, allow_external=True), "a")
            pool.refused(selection, "key")
            self.assertEqual(self.serve(pool, allow_external=True), "a", "the session is not at the key")
            pool.refused(selection, "a")
            self.assertEqual(pool.keeps(selection, "a"), expected == "a")
            self.assertEqual(self.serve(pool, allow_external=True), expected)
            self.assertEqual(self.serve(pool, allow_external=True), expected)

    def test_refused_in_mid_stream_is_forgotten_after_a_minute(self) -> None:
        a, b = self.credential("a"), self.credential("b", 50)
        pool = self.pool([a, b])
        self.serve(pool)
        pool.refused(self.selection(), "a")
        self.clock.advance(60)
        self.assertEqual(self.serve(pool), "a")

    def test_only_accounts(self) -> None:
        """Spec 12.1: keys and remote instances give no second opinion."""
        a, key = self.credential("a", 90), self.credential("key", key=True)
        theirs = self.credential("theirs", external=True)
        pool = self.pool([key, theirs, a])
        self.assertEqual(self.serve(pool, None, allow_external=True, only_accounts=True), "a")
        self.rest(key)
        selection = self.selection(None, excluded=frozenset("a"), allow_external=True, only_accounts=True)
        error: NoCredential = self.assertRaises(NoCredential, pool.select, selection)
        self.assertEqual(error.free_at, 0)

    def test_only_accounts_and_a_session_that_is_at_none(self) -> None:
        """Another request of the session may have moved it to a remote meanwhile, where it stays if no account is
        left."""
        a, b, theirs = self.credential("a", 50), self.credential("b", 90), self.credential("t", external=True)
        pool = self.pool([a, b, theirs])
        self.assertEqual(self.serve(pool, allow_external=True), "t")
        wanted: dict[str, Any] = {"allow_external": True, "only_accounts": True}
        nobody = self.selection(excluded=frozenset("ab"), **wanted)
        refusal: NoCredential = self.assertRaises(NoCredential, pool.select, nobody)
        self.assertTrue(refusal.availability.usable)
        self.assertEqual([each.credential for _, each in pool.sessions("alice")], ["t"])
        self.assertEqual(self.serve(pool, excluded=frozenset("a"), **wanted), "b")

    def test_a_request_that_nobody_serves_moves_no_session_that_another_has_moved(self) -> None:
        a, b = self.credential("a", 50), self.credential("b", 90)
        theirs = self.credential("t", 60, external=True)
        pool = self.pool([a, b, theirs])
        self.assertEqual(self.serve(pool, allow_external=True), "a")
        self.assertEqual(self.serve(pool, allow_external=True, excluded=frozenset("a")), "t")
        self.assertRaises(
            NoCredential,
            pool.select,
            self.selection(excluded=frozenset("ab"), allow_external=True, only_accounts=True),
        )
        self.assertEqual([each.credential for _, each in pool.sessions("alice")], ["t"])


class DenialTests(PoolTestCase):
    """What an account refuses and others serve (spec 12.1), and refused accounts (spec 12.3)."""

    def serve(self, pool: Pool, session: str | None = "s", excluded: str = "") -> str:
        lease = pool.select(Selection(session, OPUS, user="alice", asked=ASKED, excluded=frozenset(excluded)))
        lease.close(LeaseOutcome.SERVED)
        return lease.tag

    def test_goes_elsewhere_and_back_where_nobody_else_can_serve(self) -> None:
        for event in (Denied(ASKED, "bob"), ModelDenied(OPUS)):
            a, b = self.credential("a"), self.credential("b", 50)
            pool = self.pool([a, b])
            self.assertEqual(self.serve(pool), "a")
            a.learn(event)
            self.assertEqual(self.serve(pool), "b", "warm or not")
            self.assertEqual(self.serve(pool, "new"), "b")
            b.lose_token()
            self.assertEqual(self.serve(pool), "a")
            self.assertEqual(self.serve(pool), "a")

    def test_a_refused_account_is_left(self) -> None:
        for strategy in ("least-used", "round-robin", "fallback"):
            a, b = self.credential("a"), self.credential("b", 50)
            pool = self.pool([a, b], PoolRules(strategy))
            self.assertEqual(self.serve(pool), "a")
            a.learn(AccountRefused("disabled"))
            self.assertEqual([self.serve(pool), self.serve(pool, "new")], ["b", "b"])
            self.clock.advance(60)
            self.assertEqual([self.serve(pool), self.serve(pool, "newer")], ["b", "b"], "nor is it the turn")

    def test_after_a_good_poll_one_request_is_let_through(self) -> None:
        a, b = self.credential("a"), self.credential("b", 50)
        pool = self.pool([a, b])
        a.learn(AccountRefused("disabled"))
        self.clock.advance(60)
        a.learn(PollSucceeded(LimitsUpdate()))
        self.assertEqual(self.serve(pool, "one"), "a")
        self.assertEqual(self.serve(pool, "two"), "b", "although the first may wait for its token yet")

    def test_one_per_interval_where_nobody_else_can_serve(self) -> None:
        a, b = self.credential("a"), self.credential("b")
        pool = self.pool([a, b])
        self.assertEqual(self.serve(pool), "a")
        b.lose_token()
        a.learn(AccountRefused("This organization has been disabled."))
        refusal = self.refused(pool, Selection("s", asked=ASKED))
        self.assertIn("This organization has been disabled.", refusal.message)
        self.clock.advance(60)
        self.assertEqual(self.serve(pool), "a")
        self.refused(pool, Selection("s", asked=ASKED))

    def test_only_a_request_for_a_model_finds_out(self) -> None:
        """Counting tokens shows nothing of a refused account, and would use up what the interval lets through."""
        counting = Combination("/v1/messages/count_tokens", OPUS)
        a, b = self.credential("a"), self.credential("b", 50)
        pool = self.pool([a, b])
        single = SingleProvider(a, self.clock.seconds)
        a.learn(AccountRefused("disabled"))
        self.clock.advance(60)
        a.learn(PollSucceeded(LimitsUpdate()))
        lease = pool.select(Selection("s", OPUS, user="alice", asked=counting))
        self.assertEqual(lease.tag, "b")
        lease.close(LeaseOutcome.SERVED)
        self.assertRaises(NoCredential, single.select, Selection("s", OPUS, user="alice", asked=counting))
        self.assertEqual(self.serve(pool, "one"), "a")

    def test_one_whose_polls_fail_comes_before_one_that_is_refused(self) -> None:
        for strategy in ("least-used", "fallback"):
            a, b = self.credential("a"), self.credential("b", 50)
            pool = self.pool([a, b], PoolRules(strategy))
            self.assertEqual(self.serve(pool), "a")
            a.learn(AccountRefused("disabled"))
            b.fail_poll()
            self.clock.advance(60)
            self.assertEqual([self.serve(pool), self.serve(pool, "new")], ["b", "b"], strategy)

    def test_fallback_never_returns_to_a_used_up_member(self) -> None:
        a, b = self.credential("a"), self.credential("b")
        pool = self.pool([a, b], FALLBACK)
        self.assertEqual(self.serve(pool), "a")
        events: tuple[Input, ...] = (AccountRefused("disabled"), Denied(ASKED, "bob"))
        a.use(100.0, 1.0)
        self.assertEqual([self.serve(pool) for _ in range(3)], ["b"] * 3)
        b.fail_poll()
        self.assertEqual([self.serve(pool) for _ in range(3)], ["b"] * 3)
        for event in events:
            a.learn(event)
            self.assertEqual(self.serve(pool), "b", event)


class ListenerTests(PoolTestCase):
    """Listeners of the pool receive the changes of every member."""

    def setUp(self) -> None:
        super().setUp()
        self.told = 0

    def tell(self) -> None:
        self.told += 1

    def test_of_every_member_once(self) -> None:
        a, b = self.credential("a"), self.credential("b")
        pool = self.pool([a, b])
        ends = [pool.subscribe(self.tell) for _ in range(2)]
        self.assertEqual((len(a._listeners), len(b._listeners)), (1, 1))
        a.use(50)
        b.use(50)
        self.assertEqual(self.told, 4)
        ends[0]()
        ends[0]()
        a.use(60)
        self.assertEqual(self.told, 5)
        ends[1]()
        a.use(70)
        self.assertEqual((self.told, a._listeners, b._listeners), (5, {}, {}))

    def test_follows_a_reload(self) -> None:
        a, b, c = (self.credential(tag) for tag in "abc")
        pool = self.pool([a, b])
        end = pool.subscribe(self.tell)
        pool.reconfigure([b, c], LEAST_USED)
        self.assertEqual(self.told, 1, "that is a change as well")
        for credential, told in ((a, 1), (b, 2), (c, 3)):
            credential.use(50)
            self.assertEqual(self.told, told, credential.tag)
        end()
        pool.reconfigure([a], LEAST_USED)
        self.assertEqual((self.told, a._listeners), (3, {}))


class ReloadTests(PoolTestCase):
    """A reloaded configuration (spec 1) has other members, or other rules."""

    def test_sessions_stay_on_members_that_stay(self) -> None:
        a, b = self.credential("a"), self.credential("b")
        pool = self.pool([a, b], ROUND_ROBIN)
        for number in range(4):
            self.ask(pool, f"s{number}")
        pool.reconfigure([self.credential("c"), b], LEAST_USED)
        self.assertEqual(self.where(pool), {"s1": "b", "s3": "b"})
        self.assertEqual((self.ask(pool, "s1"), self.ask(pool, "s0")), ("b", "c"))

    def test_the_same_tag_may_be_another_account(self) -> None:
        a, b = self.credential("a"), self.credential("b", 90)
        pool = self.pool([a, b])
        self.assertEqual(self.ask(pool), "a")
        successor = self.credential("a", 95)
        pool.reconfigure([successor, b], LEAST_USED)
        self.assertEqual(self.where(pool), {})
        self.assertEqual(self.ask(pool), "b")

    def test_round_robin_goes_on_where_it_was(self) -> None:
        a, b, c = (self.credential(tag) for tag in "abc")
        pool = self.pool([a, b, c], ROUND_ROBIN)
        self.assertEqual(self.ask(pool, None), "a")
        pool.reconfigure([a, c], ROUND_ROBIN)
        self.assertEqual([self.ask(pool, None) for _ in range(2)], ["c", "a"])

    def test_subagents_are_gathered_again(self) -> None:
        members = [self.credential(tag) for tag in "ab"]
        pool = self.pool(members, PoolRules("round-robin", spread_subagents=True))
        self.assertEqual([self.ask(pool, agent=agent) for agent in (None, "x")], ["a", "b"])
        pool.reconfigure(members, ROUND_ROBIN)
        self.assertEqual([self.ask(pool, agent=agent) for agent in (None, "x")], ["a", "a"])

    def test_a_lease_outlives_its_membership(self) -> None:
        a, b = self.credential("a"), self.credential("b")
        pool = self.pool([a, b])
        lease = self.hold(pool)
        pool.reconfigure([b], LEAST_USED)
        self.assertEqual((lease.tag, a.in_flight), ("a", 1))
        lease.close(LeaseOutcome.SERVED)


class RefusalTests(PoolTestCase):
    """The error when no member can serve: the best state of all members (spec 8.1)."""

    def test_earliest_reset(self) -> None:
        a, b, c = (self.credential(tag) for tag in "abc")
        pool = self.pool([a, b, c])
        a.rate_limited(NOW + 2 * HOUR + 13 * 60, True)
        b.rate_limited(NOW + 3 * HOUR, True)
        c.lose_token()
        refusal = self.refused(pool)
        self.assertEqual(refusal.message, "all credentials rate-limited, earliest reset in 2h13m")
        self.assertEqual(refusal.reset_at, NOW + 2 * HOUR + 13 * 60)

    def test_unavailable(self) -> None:
        a, b = self.credential("a"), self.credential("b")
        for credential in (a, b):
            credential.lose_token()
        self.assertEqual(
            self.refused(self.pool([a, b])).message,
            "credential a is unavailable: its file does not exist (and 1 more)",
        )

    def test_no_member(self) -> None:
        self.assertEqual(self.refused(self.pool([])).state, "unavailable")

    def test_everyone_was_tried(self) -> None:
        """The error reports the state of the whole pool, since the caller knows which members it has tried."""
        pool = self.pool([self.credential("a"), self.credential("b")])
        self.assertTrue(self.refused(pool, Selection("s", excluded=frozenset("ab"))).usable)

    def test_a_refusal_leaves_nothing_behind(self) -> None:
        a = self.credential("a")
        pool = self.pool([a])
        self.ask(pool)
        a.rate_limited(NOW + 600, True)
        self.refused(pool, Selection("s", OPUS, user="alice"))
        self.refused(pool, Selection("new", OPUS, user="alice"))
        self.assertEqual((self.where(pool), a.in_flight), ({"s": "a"}, 0))


class LogTests(PoolTestCase):
    """There is one log line for each assignment and each change, with its reason."""

    def test_one_line_per_assignment(self) -> None:
        pool = self.pool([self.credential("a", 10), self.credential("b", 40)])
        self.ask(pool)
        self.ask(pool)
        self.assertEqual(
            self.logged(),
            [
                "session s of alice (claude-opus-4-5) is served by a of pool pool:"
                " least-used, scores a 90, b 60"
            ],
        )
        self.ask(pool, model="claude-haiku-4-5")
        self.ask(pool)
        self.assertEqual(
            self.logged(),
            ["session s of alice (claude-haiku-4-5) is served by a of pool pool: the session is there"],
        )

    def test_a_change_says_why(self) -> None:
        a, b = self.credential("a", 10), self.credential("b", 40)
        pool = self.pool([a, b])
        self.ask(pool)
        self.logged()
        a.use(100.0, hours=2)
        self.ask(pool)
        self.assertEqual(
            self.logged(),
            [
                "session s of alice (claude-opus-4-5) moves from a to b in pool pool:"
                " a: weekly window at 100 % (cap 100 %), resets in 2h; least-used, scores b 60"
            ],
        )
        self.refused(pool, Selection("s", OPUS, user="alice", excluded=frozenset("b")))
        self.assertEqual(self.logged(), [])

    def test_a_second_session_is_told_with_what_was_just_assigned(self) -> None:
        pool = self.pool([self.credential("a", 10), self.credential("b", 40)])
        for session in "st":
            self.ask(pool, session)
        self.assertIn("served by b of pool pool: least-used, scores b 60, a 45", self.logged()[1])

    def test_without_users_and_models(self) -> None:
        pool = self.pool([self.credential("a")], FALLBACK)
        self.ask(pool, user="", model=None)
        self.assertEqual(
            self.logged(),
            ["session s of - (-) is served by a of pool pool: fallback, the first that can serve"],
        )

    def test_what_has_no_session_is_not_logged(self) -> None:
        pool = self.pool([self.credential("a")])
        self.ask(pool, None)
        self.assertEqual(self.logged(), [])
