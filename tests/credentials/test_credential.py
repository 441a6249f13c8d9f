"""Tests of :mod:`ccmproxy.credentials.credential`: the common base of all credentials."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ccmproxy.credentials.credential import LONGEST_TIMER, MOST_VIEWS, Credential
from ccmproxy.interfaces.credentials import ICredential
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.state.availability import Availability, Caps
from ccmproxy.state.holds import Combination
from ccmproxy.state.inputs import (
    AccountRefused,
    Denied,
    Input,
    RateLimited,
    RequestRefused,
    Rests,
    SocketsRest,
    TokenAvailable,
)
from ccmproxy.state.limits import LimitsUpdate, Window
from tests.credentials.fixtures import NOW, PlainCredential

HOUR = 3600.0
ASKED = Combination("/v1/messages", "claude-opus-4-5")
CAUSE = Availability("temporarily_blocked", "rebalanced", "its sessions move")


class CredentialTestCase(SynchronousTestCase):
    """A credential with a key, usable since NOW."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.credential = PlainCredential("key", self.clock, caps=Caps(90, 95))
        self.addCleanup(self.finish)

    def finish(self) -> None:
        """Assert that no timer is set and no lease is open."""
        self.credential.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.credential.leases, set())

    def used(self, short: float, seconds: float = HOUR) -> LimitsUpdate:
        """Return an update of the short window, as an answer reports it."""
        return LimitsUpdate(short=Window(short, self.clock.seconds() + seconds, 18000.0))


class ViewTests(CredentialTestCase):
    """Snapshots are requested with every request and every answer, but made only after a change."""

    def test_the_same_object_as_long_as_nothing_changes(self) -> None:
        self.credential.observe(self.used(50.0))
        first = self.credential.snapshot(NOW)
        self.assertIs(self.credential.snapshot(NOW + 1), first)
        self.assertIs(self.credential.snapshot(NOW + HOUR - 1), first)

    def test_a_change_of_state_makes_another(self) -> None:
        first = self.credential.snapshot(NOW)
        self.credential.observe(self.used(50.0))
        second = self.credential.snapshot(NOW)
        self.assertIsNot(second, first)
        self.assertEqual(second.limits.short.utilization, 50.0)

    def test_a_change_of_caps_makes_another(self) -> None:
        self.credential.observe(self.used(50.0))
        self.assertTrue(self.credential.snapshot(NOW).availability.usable)
        self.credential.caps = Caps(50, 95)
        after = self.credential.snapshot(NOW)
        self.assertEqual((after.caps, after.availability.reason), (Caps(50, 95), "short_window"))

    def test_a_reset_that_passes_makes_another(self) -> None:
        """This does not depend on the timer, which may fire a moment later."""
        self.credential.stop()
        self.credential.observe(self.used(95.0, 600.0))
        self.assertEqual(self.credential.snapshot(NOW + 599.9).availability.reason, "short_window")
        self.assertTrue(self.credential.snapshot(NOW + 600).availability.usable)

    def test_a_usable_view_ends_with_the_next_reset(self) -> None:
        self.credential.observe(self.used(50.0, 600.0))
        first = self.credential.snapshot(NOW)
        self.assertIs(self.credential.snapshot(NOW + 599.9), first)
        self.assertIsNot(self.credential.snapshot(NOW + 600.0), first)

    def test_an_unusable_view_lasts_a_second(self) -> None:
        """Its message tells the remaining time."""
        self.credential.rate_limited(NOW + 3 * HOUR, explicit=True)
        first = self.credential.snapshot(NOW + 0.1)
        self.assertIs(self.credential.snapshot(NOW + 0.9), first)
        later = self.credential.snapshot(NOW + HOUR)
        self.assertIsNot(later, first)
        self.assertIn("(in 3h", first.availability.message)
        self.assertIn("(in 2h", later.availability.message)

    def test_a_clock_that_is_set_back_makes_another(self) -> None:
        """After the clock was set back, a window that had been reset is not empty yet."""
        self.credential.stop()
        self.credential.observe(self.used(95.0, 600.0))
        self.assertTrue(self.credential.snapshot(NOW + 600).availability.usable)
        self.assertFalse(self.credential.snapshot(NOW + 1).availability.usable)

    def test_models_have_views_of_their_own(self) -> None:
        self.credential.close_model("opus", 600)
        opus = self.credential.snapshot(NOW, "claude-opus-4-5")
        self.assertEqual(opus.availability.reason, "model_window")
        self.assertTrue(self.credential.snapshot(NOW).availability.usable)
        self.assertTrue(self.credential.snapshot(NOW, "claude-haiku-4-5").availability.usable)
        self.assertIs(self.credential.snapshot(NOW, "claude-opus-4-5"), opus)
        # No timer is set for it.
        self.assertTrue(self.credential.snapshot(NOW + 600, "claude-opus-4-5").availability.usable)

    def test_models_share_one_where_no_window_is_a_models(self) -> None:
        whole = self.credential.snapshot(NOW)
        self.assertIs(self.credential.snapshot(NOW, "claude-opus-4-5"), whole)

    def test_views_are_bounded(self) -> None:
        """The names of models come from clients, so their number must be bounded."""
        self.credential.close_model("opus", 600)
        for number in range(5 * MOST_VIEWS):
            self.credential.snapshot(NOW, f"claude-{number}")
        self.assertLessEqual(len(self.credential._views), MOST_VIEWS)
        self.assertFalse(self.credential.snapshot(NOW, "claude-opus-4-5").availability.usable)


class LeaseTests(CredentialTestCase):
    """The holders of leases, and interrupts."""

    def test_provides_its_interface(self) -> None:
        self.assertTrue(verifyObject(ICredential, self.credential))

    def test_counted_until_released(self) -> None:
        first, second = self.credential.lease(), self.credential.lease("pool")
        self.assertEqual(self.credential.in_flight, 2)
        first.close(LeaseOutcome.SERVED)
        first.close(LeaseOutcome.BROKEN)
        second.close(LeaseOutcome.REFUSED)
        self.assertEqual(self.credential.in_flight, 0)
        self.assertEqual(dict(self.credential.outcomes), {LeaseOutcome.SERVED: 1, LeaseOutcome.REFUSED: 1})

    def test_interrupted_by_holder(self) -> None:
        told: list[str] = []
        leases = []
        for holder in ("one", "one", "other", None):
            lease = self.credential.lease(holder)

            def interrupted(availability: Availability, holder: str | None = holder) -> None:
                told.append(f"{holder} {availability.reason}")

            lease.on_interrupt(interrupted)
            leases.append(lease)
        self.credential.interrupt("one", CAUSE)
        self.assertEqual(told, ["one rebalanced"] * 2)
        self.credential.interrupt("one", CAUSE)
        self.credential.interrupt("nobody", CAUSE)
        self.assertEqual(len(told), 2)
        self.assertTrue(self.credential.is_usable(), "the others go on with it")
        self.credential.rate_limited(NOW + HOUR, explicit=True)
        self.assertEqual(sorted(told[2:]), ["None rate_limited", "other rate_limited"])
        for lease in leases:
            lease.close(LeaseOutcome.INTERRUPTED)

    def test_an_interrupt_may_close_and_take_leases(self) -> None:
        leases = [self.credential.lease("one") for _ in range(3)]

        def interrupted(availability: Availability) -> None:
            for lease in leases:
                lease.close(LeaseOutcome.INTERRUPTED)
            self.credential.lease("one").close(LeaseOutcome.SERVED)

        for lease in leases:
            lease.on_interrupt(interrupted)
        self.credential.interrupt("one", CAUSE)
        self.assertEqual(self.credential.in_flight, 0)


class ListenerTests(CredentialTestCase):
    """Listeners receive the changes of the state (spec 5.4)."""

    def setUp(self) -> None:
        super().setUp()
        self.told = 0

    def tell(self) -> None:
        self.told += 1

    def test_told_of_changes_only(self) -> None:
        self.credential.subscribe(self.tell)
        self.credential.observe(self.used(50.0))
        self.credential.observe(self.used(50.0))
        self.assertEqual(self.told, 1)

    def test_one_that_fails_harms_nobody(self) -> None:
        self.credential.subscribe(lambda: 1 / 0)  # type: ignore[arg-type]
        self.credential.subscribe(self.tell)
        self.credential.observe(self.used(50.0))
        self.assertEqual(self.told, 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_subscribed_twice_ended_twice(self) -> None:
        """Each subscription is separate, also if the function is the same."""
        first, _second = self.credential.subscribe(self.tell), self.credential.subscribe(self.tell)
        self.credential.observe(self.used(50.0))
        self.assertEqual(self.told, 2)
        first()
        first()
        self.credential.observe(self.used(60.0))
        self.assertEqual(self.told, 3)

    def test_one_that_ends_another(self) -> None:
        ends: list[Callable[[], None]] = []

        def end_all() -> None:
            for end in ends:
                end()

        ends += [self.credential.subscribe(end_all) for _ in range(2)]
        self.credential.observe(self.used(50.0))
        self.assertEqual(self.credential._listeners, {})

    def test_time_is_a_change(self) -> None:
        """A reset and the end of a limit are reported when they happen."""
        self.credential.observe(self.used(50.0, 600.0))
        self.credential.rate_limited(NOW + 300, explicit=True)
        self.credential.subscribe(self.tell)
        self.clock.advance(299)
        self.assertEqual(self.told, 0)
        self.clock.advance(1)
        self.assertEqual(self.told, 1)
        self.clock.advance(300)
        self.assertEqual(self.told, 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_moment_far_away_is_looked_at_again_before(self) -> None:
        self.credential.use(50.0, hours=24 * 7)
        (call,) = self.clock.getDelayedCalls()
        self.assertEqual(call.getTime(), NOW + LONGEST_TIMER)
        self.clock.advance(LONGEST_TIMER)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)


class RequestTests(CredentialTestCase):
    """What requests tell of the credential (spec 12)."""

    def turned_away(self) -> bool:
        return self.credential.turns_away(ASKED, False, self.clock.seconds())

    def test_requests_change_nothing_where_nothing_is_held(self) -> None:
        """They cost nothing either: no transition, and the snapshot stays."""
        self.credential.observe(self.used(50.0))
        state, view = self.credential.state, self.credential.snapshot(NOW)
        applied: list[Input] = []
        self.credential._apply = applied.append  # type: ignore[method-assign, assignment]
        for _ in range(3):
            self.assertFalse(self.turned_away())
            self.credential.sending(ASKED)
            self.credential.served(ASKED, NOW, True)
        self.assertEqual(applied, [])
        self.assertIs(self.credential.state, state)
        self.assertIs(self.credential.snapshot(NOW), view)

    def test_a_rest_from_its_beginning_to_its_end(self) -> None:
        told: list[str] = []
        self.addCleanup(self.credential.subscribe(lambda: told.append("changed")))
        self.credential.learn(Rests(ASKED, "alice", 10.0))
        self.assertTrue(self.turned_away())
        self.assertFalse(self.credential.turns_away(ASKED, True, NOW))
        self.assertEqual(self.credential.free_at(ASKED, NOW), NOW + 10)
        self.clock.advance(10)
        self.assertFalse(self.turned_away())
        self.credential.sending(ASKED)
        self.assertTrue(self.turned_away(), "one request goes first")
        self.clock.advance(1)
        self.credential.served(ASKED, NOW + 10, True)
        self.assertFalse(self.turned_away())
        self.assertEqual(self.credential.free_at(ASKED, NOW + 11), 0)
        self.assertEqual(told, [], "a rest is not shown")
        self.clock.advance(120)
        self.credential.served(ASKED, NOW + 130, True)
        self.assertTrue(self.credential.state.holds.is_empty, "requests cost nothing again")

    def test_a_served_request_lifts_what_stood_against_it(self) -> None:
        for event, reason in (
            (RateLimited(NOW + 10 * HOUR, True), "rate_limited"),
            (AccountRefused("disabled"), "refused"),
        ):
            self.credential.learn(event)
            self.assertEqual(self.credential.snapshot(self.clock.seconds()).availability.reason, reason)
            self.credential.served(ASKED, NOW, True)
            self.assertFalse(self.credential.is_usable(), "it was sent before")
            self.clock.advance(61)
            lease = self.credential.lease()
            lease.sending(ASKED)
            self.credential.served(ASKED, self.clock.seconds(), True)
            self.assertTrue(self.credential.is_usable())
            lease.close(LeaseOutcome.SERVED)

    def test_refusals_in_a_row_end_with_a_served_request(self) -> None:
        for caller in ("alice", "bob", "carol"):
            self.credential.learn(Denied(ASKED._replace(betas=caller), caller))
            self.assertTrue(self.credential.is_usable())
            self.clock.advance(1)
            self.credential.served(ASKED, self.clock.seconds(), True)

    def test_refusals_that_hold_nothing_end_likewise(self) -> None:
        for caller in ("alice", "bob"):
            self.credential.learn(RequestRefused(ASKED, caller))
            self.assertTrue(self.credential.is_usable(), "nothing else is held, and yet it counts")
            self.clock.advance(200)
            self.credential.served(ASKED, self.clock.seconds(), True)
            self.assertEqual(self.credential.state.refusals, ())

    def test_a_request_that_finds_out_is_the_only_one(self) -> None:
        self.credential.learn(AccountRefused("disabled"))
        self.clock.advance(60)
        self.assertTrue(self.credential.snapshot(NOW + 60).availability.worth_trying)
        lease = self.credential.lease()
        self.assertFalse(self.credential.snapshot(NOW + 60).availability.worth_trying)
        lease.close(LeaseOutcome.CANCELLED)

    def test_what_cannot_be_true_asks_for_a_poll(self) -> None:
        credential = PollingCredential("asked", self.clock)
        self.addCleanup(credential.stop)
        credential.use(50.0)
        credential.learn(RequestRefused(ASKED, "alice"))
        self.assertEqual(credential.asked, 1)
        self.clock.advance(600)
        credential.observe(LimitsUpdate(weekly=Window(10.0, NOW + 168 * HOUR, 604800.0)))
        self.assertEqual(credential.asked, 2)

    def test_new_websockets_come_back_by_themselves(self) -> None:
        """The snapshot that said otherwise does not outlive the rest."""
        self.credential.learn(SocketsRest(NOW + 60))
        self.assertFalse(self.credential.snapshot(NOW).takes_sockets)
        self.assertFalse(self.credential.snapshot(NOW + 59).takes_sockets)
        self.assertTrue(self.credential.snapshot(NOW + 60).takes_sockets)
        self.clock.advance(60)
        self.assertEqual(self.credential.state.sockets_rest_until, 0)

    def test_the_identity(self) -> None:
        self.assertEqual(self.credential.identity, "")
        self.credential.learn(TokenAvailable(1.0, "one"))
        self.assertEqual(self.credential.identity, "one")


class PollingCredential(PlainCredential):
    """Counts how often it is to ask the usage endpoint."""

    asked = 0

    def poll_now(self) -> None:
        self.asked += 1


class BaseTests(SynchronousTestCase):
    """The base class alone."""

    def test_the_base_is_no_credential(self) -> None:
        self.assertRaises(TypeError, Credential, "key", Caps(), Clock())
