"""Tests of :mod:`ccmproxy.credentials.polling`: polls are rare, one at a time, and never cost an account (F26)."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from ccmproxy.credentials.control import Answer, ControlError
from ccmproxy.credentials.polling import BACK_OFF, POLL_INTERVAL
from ccmproxy.state.inputs import PollSucceeded
from tests.credentials.fixtures import (
    NOW,
    TOKEN,
    PlainFormat,
    login,
    usage,
)
from tests.credentials.login.polls import PollTestCase

HOUR = 3600.0
LOST = ControlError("connection lost")


class WhenTests(PollTestCase):
    def test_at_start_and_every_hour(self) -> None:
        self.start()
        self.assertEqual(self.polls(), 1)
        (event,) = self.applied
        assert isinstance(event, PollSucceeded)
        assert event.update.short is not None
        self.assertEqual((event.update.short.utilization, event.plan_weight), (10.0, 1.0))
        self.polled_after(HOUR)
        self.polled_after(HOUR)

    def test_headers_put_it_off(self) -> None:
        self.start()
        self.clock.advance(HOUR / 2)
        self.last_update = self.clock.seconds()
        self.polled_after(HOUR)

    def test_if_stale(self) -> None:
        self.start()
        self.polls()
        self.poller.poll_if_stale()
        self.assertEqual(self.polls(), 0)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_one_at_a_time(self) -> None:
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("usage", answer)
        self.start()
        for _ in range(10):
            self.poller.poll()
            self.poller.poll_if_stale()
        self.assertEqual(self.polls(), 1)
        answer.callback(usage())
        self.assertEqual(self.events(), ["PollSucceeded"])

    def test_asked_for_while_one_is_in_flight(self) -> None:
        """That may have asked before the cause came: another one follows."""
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("usage", answer)
        self.start()
        self.poller.poll_unless_postponed()
        self.poller.poll_unless_postponed()
        self.assertEqual(self.polls(), 1)
        answer.callback(usage())
        self.assertEqual(self.polls(), 1)
        self.poller.poll_if_stale()
        self.assertEqual((self.polls(), self.events()), (0, ["PollSucceeded"] * 2))

    def test_forced(self) -> None:
        self.start()
        self.poller.poll()
        self.assertEqual(self.polls(), 2)

    def test_answer_without_data_is_not_asked_for_again_at_once(self) -> None:
        self.last_update = 0.0
        self.start()
        self.polls()
        self.clock.pump([1.0] * 60)
        self.assertEqual(self.polls(), 0)

    def test_clock_set_back(self) -> None:
        """Data from the future does not delay polls for years."""
        self.last_update = NOW + 1e8
        self.start()
        self.assertEqual(self.polls(), 1)

    def set_clock(self, by: float) -> None:
        """Set Unix time by ``by`` seconds."""
        self.ahead += by
        self.poller.clock_set(by)

    def test_the_clock_is_set(self) -> None:
        """The interval since the last success goes on, and so does what is put off (spec 11)."""
        self.start()
        for by in (-10800.0, 72000.0):
            with self.subTest(by=by):
                self.clock.advance(600)
                self.set_clock(by)
                self.poller.poll_if_stale()
                self.polled_after(POLL_INTERVAL - 600)

    def test_the_clock_is_set_during_the_back_off(self) -> None:
        self.start()
        self.upstream.answer("usage", Answer(500))
        for by in (-10800.0, 72000.0):
            with self.subTest(by=by):
                self.poller.failures = 1
                self.poller._last_attempt = self.poller._now()
                self.clock.advance(20)
                self.set_clock(by)
                self.poller.reconsider()
                self.polled_after(BACK_OFF[0] - 20)

    def test_wanted_by_the_state(self) -> None:
        """Earlier than the rhythm, once for each time that is wanted, and no matter when it is said."""
        self.start()
        self.assertEqual(self.polls(), 1)
        self.wanted = NOW + 120
        self.poller.reconsider()
        self.polled_after(120)
        self.clock.advance(600)
        self.assertEqual(self.polls(), 0, "it was granted already")
        self.wanted = self.clock.seconds() - 1
        self.poller.reconsider()
        self.polled_after(1)

    def test_wanted_does_not_override_a_refusal(self) -> None:
        self.upstream.answer("usage", Answer(429, {"retry-after": "300"}))
        self.start()
        self.wanted = NOW + 10
        self.poller.reconsider()
        self.polled_after(300)

    def test_wanted_still_after_a_refusal(self) -> None:
        """A poll that the endpoint refuses for now has told nothing, so that it is made when the delay is over."""
        self.start()
        self.polls()
        self.upstream.answer("usage", Answer(429, {"retry-after": "60"}), usage())
        self.wanted = NOW + 120
        self.poller.reconsider()
        self.polled_after(120)
        self.polled_after(60)
        self.polled_after(HOUR)

    def test_wanted_all_the_time(self) -> None:
        """A state that never takes its wish back does not make us hammer."""
        self.start()
        self.polls()
        self.wanted = NOW - 5
        self.poller.reconsider()
        self.clock.pump([1.0] * 100)
        self.assertEqual(self.polls(), 0)

    def test_when_a_poll_began(self) -> None:
        answer: Deferred[Answer] = Deferred()
        self.upstream.answer("usage", answer)
        self.start()
        self.clock.advance(4)
        answer.callback(usage())
        (event,) = self.applied
        assert isinstance(event, PollSucceeded)
        self.assertEqual(event.began, NOW)

    def test_no_login(self) -> None:
        self.keeper.load()
        self.poller.start()
        self.poller.poll()
        self.assertEqual((self.polls(), self.events()), (0, []))
        self.no_timers()

    def test_key_in_the_file(self) -> None:
        self.put(b'{"key": "k"}')
        self.keeper.load()
        self.poller.start()
        self.poller.poll()
        self.assertEqual((self.polls(), self.events()), (0, []))
        self.no_timers()

    def test_login_that_comes_back(self) -> None:
        """The timer is set again although nothing is due yet."""
        self.start()
        self.put(b"broken")
        self.keeper.load()
        self.clock.advance(HOUR - 10)
        self.last_update = self.clock.seconds()
        self.clock.advance(10)
        self.clock.advance(10)
        self.put(login(expires=None, plan="pro"))
        self.keeper.load()
        self.poller.poll_if_stale()
        self.polled_after(HOUR - 20)


class FailureTests(PollTestCase):
    def test_back_off(self) -> None:
        self.upstream.answer("usage", Answer(500))
        self.start()
        # The first ones are those of the start: nothing is known of the account yet (spec 14).
        for delay in (2, 5, 10, 30, 60, 120, 240, 300, 300, 300):
            self.assertEqual(self.events(), ["PollFailed"])
            self.polled_after(delay)
        self.upstream.answer("usage", usage())
        self.assertEqual(self.poller.failures, 11)
        self.clock.advance(300)
        self.assertEqual(self.events()[-1], "PollSucceeded")
        self.assertEqual(self.poller.failures, 0)
        self.polled_after(HOUR)

    def test_logged_until_the_back_off_is_at_its_cap(self) -> None:
        self.upstream.answer("usage", Answer(500))
        self.start()
        for _ in range(20):
            self.clock.advance(300)
        self.assertEqual(self.logged, ["usage endpoint answered 500"] * 4)

    def test_every_failure(self) -> None:
        self.start()
        self.events()
        for name, reply in (
            ("500", Answer(500)),
            ("404", Answer(404)),
            ("redirect", Answer(302)),
            ("not JSON", Answer(200, {}, b"<html>")),
            ("empty", Answer(200)),
            ("lost", LOST),
        ):
            self.upstream.answer("usage", reply)
            self.poller.poll()
            self.clock.pump([0.2, 0.4])
            self.assertEqual(self.events(), ["PollFailed"], name)

    def test_connection_errors_are_tried_three_times(self) -> None:
        self.upstream.answer("usage", LOST, LOST, usage())
        self.start()
        self.assertEqual(self.polls(), 1)
        self.clock.advance(0.2)
        self.assertEqual(self.polls(), 1)
        self.clock.advance(0.4)
        self.assertEqual(self.polls(), 1)
        self.assertEqual(self.events(), ["PollSucceeded"])

    def test_three_times_and_no_more(self) -> None:
        self.upstream.answer("usage", LOST)
        self.start()
        self.clock.pump([0.1] * 20)
        self.assertEqual((self.polls(), self.events()), (3, ["PollFailed"]))

    def test_once_something_is_known_nobody_is_in_a_hurry(self) -> None:
        """Spec 14: only the start is; F26: polls are rare."""
        self.start()
        self.upstream.answer("usage", Answer(500))
        self.poller.poll()
        self.polled_after(60)
        self.polled_after(120)

    def test_five_seconds_each(self) -> None:
        self.upstream.answer("usage")
        self.start()
        for wait in (5, 0.2, 5, 0.4, 4.9):
            self.assertEqual(self.events(), [])
            self.clock.advance(wait)
        self.assertEqual(self.events(), [])
        self.clock.advance(0.1)
        self.assertEqual(self.events(), ["PollFailed"])

    def test_f26_429_is_no_failure(self) -> None:
        """A 429 of the usage endpoint never counts as a used-up account; it only delays the next poll."""
        self.upstream.answer("usage", Answer(429, {"retry-after": "900"}))
        self.start()
        self.assertEqual(self.events(), [])
        self.assertEqual(self.poller.failures, 0)
        self.poller.poll_if_stale()
        self.polled_after(900)

    def test_f26_429_without_a_time(self) -> None:
        """Or with one below our own first step: that one, and it doubles up to 15 minutes (spec 12.4)."""
        for after in (None, "soon", "0", "59"):
            self.upstream.answer("usage", usage())
            self.start()
            self.poller.poll()
            self.upstream.answer("usage", Answer(429, {} if after is None else {"retry-after": after}))
            self.clock.advance(HOUR)
            self.events()
            for delay in (60, 120, 240, 480, 900, 900):
                self.polled_after(delay)
            self.assertEqual(self.events(), [])

    def test_429_with_a_time_that_is_too_long(self) -> None:
        self.upstream.answer("usage", Answer(429, {"retry-after": "86400"}))
        self.start()
        self.polled_after(900)

    def test_f26_403_is_no_failure(self) -> None:
        self.upstream.answer("usage", Answer(403, {}, b"scope missing"))
        self.start()
        # The refusal is told, as an account may be refused (spec 12.3), and is no failed poll.
        self.assertEqual((self.events(), self.polls()), (["PollRefused"], 1))
        self.polled_after(300)
        self.assertEqual(len(self.upstream.asked(TOKEN)), 0)
        self.assertIsNotNone(self.keeper.authorization)

    def test_refusals_of_an_account_are_told(self) -> None:
        """Spec 12.3: they count together with refused requests; other failures do not."""
        self.start()
        for status, told in (
            (400, ["PollRefused", "PollFailed"]),
            (402, ["PollRefused", "PollFailed"]),
            (403, ["PollRefused"]),
            (404, ["PollFailed"]),
            (429, []),
        ):
            self.events()
            self.upstream.answer("usage", Answer(status))
            self.poller.poll()
            self.assertEqual(self.events(), told, status)

    def test_what_a_poll_shows_about_the_token(self) -> None:
        self.start()
        self.assertEqual(self.shown, [("a1", True)])
        for reply, shown in (
            (Answer(403), True),
            (Answer(429), None),
            (Answer(500), None),
            (LOST, None),
            (Answer(401), False),
        ):
            self.shown.clear()
            self.upstream.answer("usage", reply)
            self.poller.poll()
            self.clock.pump([0.2, 0.4])
            self.assertEqual([is_good for _, is_good in self.shown], [shown], str(reply))

    def test_bug_in_a_format_is_contained(self) -> None:
        class Broken(PlainFormat):
            def usage_answer(self, *arguments: object) -> None:  # type: ignore[override]
                raise ZeroDivisionError("bug")

        self.poller._format = Broken()
        self.start()
        self.assertEqual(self.events(), ["PollFailed"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class StopTests(PollTestCase):
    def test_in_the_middle(self) -> None:
        for replies in ((), (LOST,)):
            self.upstream.answer("usage", *replies)
            self.start()
            self.poller.stop()
            self.assertEqual(self.events(), [])
            self.no_timers()
            self.clock.advance(HOUR)
            self.assertEqual(self.polls(), 1)

    def test_idle(self) -> None:
        self.start()
        self.poller.stop()
        self.poller.poll()
        self.poller.token_failed("late")
        self.assertEqual((self.polls(), self.events()), (1, ["PollSucceeded"]))
