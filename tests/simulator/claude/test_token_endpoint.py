"""The token endpoint: refresh tokens work once, and a second use ends the login."""

from __future__ import annotations

from urllib.parse import urlencode

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.claude.token_endpoint import CLIENT_ID
from tests.simulator.claude.requests import Service, document, header, turn


class TokenTests(SynchronousTestCase):
    """POST /v1/oauth/token."""

    def setUp(self) -> None:
        self.service = Service()
        self.account = self.service.account

    def test_refresh(self) -> None:
        old = self.account.refresh_token
        answer = self.service.refresh(old, scope="user:inference user:profile org:admin")
        self.assertEqual(answer.reply.head.status, 200)
        token = document(answer)
        self.assertEqual(token["access_token"], self.account.access_token)
        self.assertEqual(token["refresh_token"], self.account.refresh_token)
        self.assertNotEqual(token["refresh_token"], old)
        self.assertEqual(token["expires_in"], 28800)
        self.assertEqual(token["scope"], "user:inference user:profile")
        self.assertEqual(token["account"], {"uuid": self.account.uuid, "email_address": "a@example.com"})
        self.assertEqual(self.service.message(turn()).reply.head.status, 200)

    def test_second_use_logs_out(self) -> None:
        old = self.account.refresh_token
        self.service.refresh(old)
        answer = self.service.refresh(old)
        self.assertEqual(answer.reply.head.status, 400)
        self.assertEqual(document(answer)["error"], "invalid_grant")
        self.assertEqual(self.service.last.account, "a")
        self.assertEqual(self.service.message(turn()).reply.head.status, 403)
        self.assertEqual(self.service.refresh(self.account.refresh_token).reply.head.status, 400)

    def test_form(self) -> None:
        fields = {
            "grant_type": "refresh_token",
            "refresh_token": self.account.refresh_token,
            "client_id": CLIENT_ID,
        }
        answer = self.service.ask(
            b"POST",
            b"/v1/oauth/token",
            urlencode(fields).encode(),
            headers=[(b"Content-Type", b"application/x-www-form-urlencoded")],
        )
        self.assertEqual(answer.reply.head.status, 200)

    def test_refusals(self) -> None:
        token = self.account.refresh_token
        for answer, error in (
            (self.service.refresh("nobody"), "invalid_grant"),
            (self.service.refresh(token, client_id="another"), "invalid_client"),
            (self.service.refresh(token, grant_type="password"), "unsupported_grant_type"),
            (self.service.ask(b"POST", b"/v1/oauth/token", b"{", headers=[]), "unsupported_grant_type"),
            (self.service.ask(b"POST", b"/v1/oauth/token", b"[1]", headers=[]), "unsupported_grant_type"),
        ):
            self.assertEqual(answer.reply.head.status, 400)
            self.assertEqual(document(answer)["error"], error)
        self.assertEqual(self.service.refresh(token).reply.head.status, 200)

    def test_faults_do_not_rotate(self) -> None:
        token = self.account.refresh_token
        for fault in ("429;retry_after=30", "500", "nonsense", "broken_json", "hang", "invalid_grant"):
            self.service.faults.next(fault, endpoint="token")
            answer = self.service.refresh(token)
            self.assertIsNot(answer.fault, None)
        self.assertEqual(self.account.refresh_token, token)
        self.service.faults.next("429;retry_after=30", endpoint="token")
        self.assertEqual(header(self.service.refresh(token), "retry-after"), "30")

    def test_a_lost_answer_has_rotated(self) -> None:
        token = self.account.refresh_token
        self.service.faults.next("cut;at=before_head", endpoint="token")
        self.service.refresh(token)
        self.assertNotEqual(self.account.refresh_token, token)
