"""Which requests are accepted, and how others are refused."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.message import Headers
from tests.simulator.claude.requests import Service, document, turn


class AuthenticationTests(SynchronousTestCase):
    """Access tokens and keys."""

    def setUp(self) -> None:
        self.service = Service()

    def refused(self, status: int, message: str, headers: Headers | None = None) -> None:
        """A message is refused so."""
        answer = self.service.message(turn(), headers=headers)
        self.assertEqual(answer.reply.head.status, status)
        self.assertIn(message, document(answer)["error"]["message"])
        self.assertIsNone(answer.turn)

    def test_nothing(self) -> None:
        self.refused(401, "x-api-key header is required", [])

    def test_unknown_token(self) -> None:
        headers = self.service.headers()
        headers[0] = (b"authorization", b"Bearer nobody")
        self.refused(401, "Invalid bearer token", headers)
        headers[0] = (b"authorization", b"Basic nobody")
        self.refused(401, "Invalid authorization header", headers)
        self.refused(401, "invalid x-api-key", [(b"x-api-key", b"nobody")])

    def test_oauth_feature_is_required(self) -> None:
        headers = self.service.headers()
        headers[1] = (b"anthropic-beta", b"claude-code-20250219")
        self.refused(401, "OAuth authentication is currently not supported", headers)

    def test_expired(self) -> None:
        self.service.clock.advance(28800.0)
        self.refused(401, "OAuth token has expired")

    def test_revoked(self) -> None:
        self.service.account.revoke()
        self.refused(403, "OAuth token has been revoked")
        self.assertEqual(self.service.last.account, "a")

    def test_token_of_the_past(self) -> None:
        headers = self.service.headers()
        self.service.account.redeem(self.service.account.refresh_token)
        self.refused(401, "Invalid bearer token", headers)
        self.assertEqual(self.service.message(turn()).reply.head.status, 200)

    def test_key_either_way(self) -> None:
        key = self.service.key.key.encode()
        for headers in ([(b"X-Api-Key", key)], [(b"Authorization", b"bearer " + key)]):
            answer = self.service.message(turn(), headers=[*headers, (b"anthropic-version", b"2023-06-01")])
            self.assertEqual(answer.reply.head.status, 200)
            self.assertEqual(self.service.last.account, "k")

    def test_token_comes_before_key(self) -> None:
        headers = [*self.service.headers(), (b"x-api-key", self.service.key.key.encode())]
        self.service.message(turn(), headers=headers)
        self.assertEqual(self.service.last.account, "a")

    def test_usage_needs_a_login_with_the_scope(self) -> None:
        answer = self.service.ask(
            b"GET", b"/api/oauth/usage", headers=[(b"x-api-key", self.service.key.key.encode())]
        )
        self.assertEqual(answer.reply.head.status, 401)
        other = self.service.add_account("b", scopes=("user:inference",))
        answer = self.service.ask(b"GET", b"/api/oauth/usage", account=other)
        self.assertEqual(answer.reply.head.status, 403)
