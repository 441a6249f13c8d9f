"""Which requests are accepted at which provider, and the errors for others."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.message import Headers
from tests.simulator.codex.service import BACKEND, Service, document, turn


class AuthenticationTests(SynchronousTestCase):
    """Logins at ChatGPT's backend, keys at the API."""

    def setUp(self) -> None:
        self.service = Service()

    def refusal(self, path: bytes, headers: Headers) -> tuple[int, str | None]:
        """Status and code of the answer to a turn."""
        answer = self.service.ask(b"POST", path, turn(), headers)
        self.assertIsNone(answer.turn)
        return answer.reply.head.status, document(answer)["error"]["code"]

    def test_logins(self) -> None:
        service = self.service
        self.assertEqual(service.respond(turn()).reply.head.status, 200)
        self.assertEqual(service.last.account, "a")
        without_workspace = service.headers()[:1]
        self.assertEqual(service.ask(b"POST", BACKEND, turn(), without_workspace).reply.head.status, 200)
        other = service.add_account("b")
        mixed = [service.headers()[0], service.headers(other)[1]]
        self.assertEqual(self.refusal(BACKEND, mixed), (403, "account_mismatch"))

    def test_worthless_tokens(self) -> None:
        service = self.service
        self.assertEqual(self.refusal(BACKEND, []), (401, None))
        self.assertEqual(self.refusal(BACKEND, [(b"Authorization", b"Basic eA==")]), (401, None))
        self.assertEqual(self.refusal(BACKEND, [(b"Authorization", b"Bearer x")]), (401, "invalid_token"))
        service.account.expire_access_token()
        self.assertEqual(self.refusal(BACKEND, service.headers()), (401, "token_expired"))
        service.account.redeem(service.account.refresh_token)
        service.account.revoke()
        self.assertEqual(self.refusal(BACKEND, service.headers()), (401, "token_invalidated"))

    def test_each_to_its_own(self) -> None:
        service = self.service
        self.assertEqual(self.refusal(b"/v1/responses", service.headers()), (401, "missing_scope"))
        self.assertEqual(self.refusal(BACKEND, service.key_headers()), (401, "invalid_token"))
        wrong = [(b"Authorization", b"Bearer sk-proj-x")]
        self.assertEqual(self.refusal(b"/v1/responses", wrong), (401, "invalid_api_key"))
        self.assertEqual(service.respond_to_key(turn()).reply.head.status, 200)
        self.assertEqual(service.last.account, "k")
