"""Tests of :mod:`ccmproxy.credentials.login.usage_poller`: what polls do with the token, and what they show of it."""

from __future__ import annotations

from dataclasses import replace

from twisted.internet.defer import Deferred

from ccmproxy.credentials.control import Answer, ControlError
from ccmproxy.dialects.oauth import OAuthToken
from tests.credentials.fixtures import (
    NOW,
    PROFILE,
    TOKEN,
    USAGE,
    PlainFormat,
    login,
    tokens,
    usage,
)
from tests.credentials.login.polls import PollTestCase

HOUR = 3600.0
LOST = ControlError("connection lost")


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
