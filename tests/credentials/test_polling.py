"""Tests of :mod:`ccmproxy.credentials.polling`: polls are rare, one at a time, and never cost an account (F26)."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from ccmproxy.credentials.control import Answer, ControlError
from ccmproxy.credentials.login.file import FileStore
from ccmproxy.credentials.login.token import TokenKeeper
from ccmproxy.credentials.polling import BACK_OFF, POLL_INTERVAL, UsagePoller
from ccmproxy.dialects.oauth import OAuthToken
from ccmproxy.state.inputs import Input, PollSucceeded
from tests.credentials.fixtures import (
    NOW,
    PROFILE,
    TOKEN,
    URLS,
    USAGE,
    CredentialTestCase,
    PlainFormat,
    Upstream,
    login,
    tokens,
    usage,
)

HOUR = 3600.0
LOST = ControlError("connection lost")


class PollTestCase(CredentialTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.upstream = Upstream(self.clock, usage=usage(), token=tokens("a2", "r2", NOW + 1e9))
        self.applied: list[Input] = []
        self.last_update = 0.0
        self.keeper = TokenKeeper(
            "acct",
            FileStore(self.path),
            PlainFormat(),
            URLS,
            self.upstream.fetch,
            self.clock,
            failed=lambda message: self.poller.token_failed(message),
            now=self.clock.seconds,
        )
        self.poller = UsagePoller(
            "acct",
            self.keeper,
            PlainFormat(),
            URLS,
            self.upstream.fetch,
            self.clock,
            self.applied.append,
            last_update=lambda: self.last_update,
            weight=lambda token: PlainFormat().plan_weight(token),
            now=lambda: self.clock.seconds() + self.ahead,
            wanted=lambda now: self.wanted,
            token_state=lambda token, is_good: self.shown.append((token.access_token, is_good)),
        )
        self.wanted = 0.0
        #: Seconds by which Unix time was set ahead of the clock.
        self.ahead = 0.0
        self.shown: list[tuple[str, bool | None]] = []
        self.logged: list[str] = []
        observer = cast(ILogObserver, self._log)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.addCleanup(self.finish)

    def _log(self, event: LogEvent) -> None:
        if "failures" in event:
            self.logged.append(str(event["reason"]))

    def finish(self) -> None:
        self.poller.stop()
        self.successResultOf(self.keeper.stop())
        self.no_timers()

    def start(self, expires: float | None = NOW + 1e9) -> None:
        self.put(login(expires=expires, plan="pro"))
        self.keeper.load(changed=True)
        self.poller.start()

    def polls(self) -> int:
        """Return the number of requests to the usage endpoint since the last call."""
        count = len(self.upstream.asked(USAGE))
        self.upstream.requests = [each for each in self.upstream.requests if each.url != USAGE]
        return count

    def events(self) -> list[str]:
        """Return the names of the inputs that were applied since the last call."""
        names = [type(event).__name__ for event in self.applied]
        self.applied.clear()
        return names

    def polled_after(self, seconds: float) -> None:
        """Check that the next poll comes after this delay, not before."""
        self.polls()
        self.clock.advance(seconds - 1)
        self.assertEqual(self.polls(), 0, "too early")
        self.clock.advance(1)
        self.assertEqual(self.polls(), 1, "not yet")


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


class TokenTests(PollTestCase):
    def test_due_token_is_refreshed_first(self) -> None:
        self.start(expires=NOW)
        self.assertEqual(dict(self.upstream.asked(USAGE)[0].headers)["Authorization"], "Bearer a2")
        self.assertEqual(self.events(), ["PollSucceeded"])

    def test_rejected_token_is_recovered_once(self) -> None:
        for refusal in (Answer(401), Answer(403, {}, b"OAuth token has been revoked")):
            self.put(login(expires=NOW + 1e9, plan="pro"))
            self.keeper.load(changed=True)
            self.poller.start()
            self.events()
            self.upstream.requests.clear()
            self.upstream.answer("usage", refusal, usage())
            self.poller.poll()
            bearers = [dict(request.headers)["Authorization"] for request in self.upstream.asked(USAGE)]
            self.assertEqual(bearers, ["Bearer a1", "Bearer a2"])
            self.assertEqual(self.events(), ["PollSucceeded"])

    def test_rejected_again(self) -> None:
        self.upstream.answer("usage", Answer(401))
        self.start()
        self.assertEqual((self.polls(), len(self.upstream.asked(TOKEN))), (2, 1))
        self.assertEqual(self.events(), ["PollRefused", "PollFailed"])  # The former by spec 12.3.

    def test_a_refused_token_that_cannot_be_refreshed(self) -> None:
        self.upstream.answer("usage", Answer(401))
        self.put(login(refresh=None, expires=NOW + 1e9, plan="pro"))
        self.keeper.load()
        self.poller.start()
        self.assertEqual((self.shown, self.events()), ([("a1", False)], ["PollRefused", "PollFailed"]))

    def test_budget_of_polls(self) -> None:
        """Every poll is refused: three refreshes a minute, then the refusal counts as it is."""
        self.upstream.answer("usage", Answer(401))
        self.upstream.answer("token", *(tokens(f"n{n}", f"s{n}", NOW + 1e9) for n in range(9)))
        self.start()
        for _ in range(5):
            self.poller.poll()
        self.assertEqual(len(self.upstream.asked(TOKEN)), 3)
        self.assertEqual(self.events(), ["PollRefused", "PollFailed"] * 6)

    def test_the_plan_that_the_usage_names(self) -> None:
        """It weighs until the login itself names another plan, or is another account's (spec 12.5)."""

        class Telling(PlainFormat):
            def usage_plan(self, body: bytes, token: OAuthToken) -> OAuthToken:
                return replace(token, plan="max")

        self.poller._format = Telling()
        self.start()
        token = self.keeper.authorization
        assert isinstance(token, OAuthToken)
        self.assertEqual((token.plan, self.poller.with_plan(token).plan), ("pro", "max"))
        self.assertEqual(self.poller.with_plan(replace(token, access_token="a2")).plan, "max")
        self.assertEqual(self.poller.with_plan(replace(token, plan="free")).plan, "free")
        self.assertEqual(self.poller.with_plan(replace(token, account_id="other")).plan, "pro")
        self.poller._format = PlainFormat()
        self.poller.poll()
        self.assertEqual(self.poller.with_plan(token).plan, "pro", "the newest answer counts")

    def test_proof(self) -> None:
        token = OAuthToken("a1")
        replies: list[tuple[Answer | ControlError, bool | None]] = [
            (usage(), True),
            (Answer(403), True),
            (Answer(403, {}, b"revoked"), False),
            (Answer(401), False),
            # These say nothing of the token.
            *((Answer(status), None) for status in (429, 500)),
            (LOST, None),
        ]
        for reply, is_good in replies:
            self.upstream.answer("usage", reply)
            self.assertEqual(self.result(self.poller.ask_for_proof(token)), is_good, str(reply))
        self.assertEqual(self.polls(), 7, "each asks once")
        self.upstream.answer("usage")
        asking = Deferred.fromCoroutine(self.poller.ask_for_proof(token))
        self.clock.advance(5)
        self.assertIsNone(self.successResultOf(asking))

    def test_soft_failure_of_the_token_counts_once(self) -> None:
        self.upstream.answer("token", Answer(500))
        self.start(expires=NOW)
        self.assertEqual((self.polls(), self.events()), (0, ["PollFailed"]))
        self.upstream.answer("token", tokens("a2", "r2", NOW + 1e9))
        self.clock.advance(60)
        self.assertEqual((self.polls(), self.events()), (1, ["PollSucceeded"]))

    def test_token_that_a_request_could_not_get_counts_once(self) -> None:
        self.start(expires=NOW + 100)
        self.upstream.answer("token", Answer(500))
        self.events()
        self.clock.advance(100)
        for _ in range(10):
            Deferred.fromCoroutine(self.keeper.authorize()).addErrback(lambda _: None)
        self.assertEqual(self.events(), ["PollFailed"])
        self.upstream.answer("token", tokens("a2", "r2", NOW + 1e9))
        self.polled_after(60)
        self.assertEqual(self.events(), ["PollSucceeded"])

    def test_hard_failure_is_not_counted(self) -> None:
        self.upstream.answer("token", Answer(401))
        self.start(expires=NOW)
        self.assertEqual((self.polls(), self.events()), (0, []))
        self.no_timers()

    def test_profile_comes_with_a_poll(self) -> None:
        self.upstream.answer("profile", Answer(200, {}, b"max"))
        self.put(login(expires=NOW + 1e9))
        self.keeper.load()
        self.poller.start()
        self.assertEqual(self.stored()["plan"], "max")
        assert isinstance(self.keeper.authorization, OAuthToken)
        self.assertEqual(self.keeper.authorization.plan, "max")
        self.polled_after(HOUR)
        self.assertEqual(len(self.upstream.asked(PROFILE)), 1)


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
