"""Tests of :mod:`ccmproxy.credentials.login.profile`. The use of its result is tested with the token keeper."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from ccmproxy.credentials.control import Answer, ControlError
from ccmproxy.credentials.login.profile import fetch_profile
from ccmproxy.dialects.oauth import OAuthToken
from tests.credentials.fixtures import PROFILE, URLS, CredentialTestCase, PlainFormat, Reply, Upstream


class ProfileTests(CredentialTestCase):
    def ask(self, reply: Reply | None, plan: str | None = None) -> Deferred[OAuthToken]:
        self.upstream = Upstream(self.clock, **({} if reply is None else {"profile": reply}))
        return Deferred.fromCoroutine(
            fetch_profile("acct", OAuthToken("a1", plan=plan), PlainFormat(), URLS, self.upstream.fetch)
        )

    def test_filled_in(self) -> None:
        self.assertEqual(self.successResultOf(self.ask(Answer(200, {}, b"max"))).plan, "max")

    def test_not_asked_where_it_is_known(self) -> None:
        self.assertEqual(self.successResultOf(self.ask(Answer(200, {}, b"max"), plan="pro")).plan, "pro")
        self.assertEqual(self.upstream.asked(PROFILE), [])

    def test_unchanged_after_a_failure(self) -> None:
        for reply in (Answer(401), Answer(429), Answer(200), ControlError("lost")):
            self.assertEqual(self.successResultOf(self.ask(reply)), OAuthToken("a1"))

    def test_unchanged_without_an_answer(self) -> None:
        asking = self.ask(None)
        self.clock.advance(30)
        self.assertEqual(self.successResultOf(asking), OAuthToken("a1"))
        self.no_timers()
