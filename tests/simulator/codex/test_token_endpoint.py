"""Refresh tokens that can be used once, and the errors for invalid ones."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.simulator.codex.service import Service, document


class TokenEndpointTests(SynchronousTestCase):
    """POST /oauth/token."""

    def setUp(self) -> None:
        self.service = Service()
        self.account = self.service.account

    def refused(self, token: str, **fields: str) -> tuple[int, str]:
        """Status and code of a refusal."""
        answer = self.service.refresh(token, **fields)
        return answer.reply.head.status, document(answer)["error"]["code"]

    def test_rotation(self) -> None:
        first = self.account.refresh_token
        answer = self.service.refresh(first)
        found = document(answer)
        self.assertEqual(answer.reply.head.status, 200)
        self.assertEqual(
            (found["access_token"], found["refresh_token"], found["id_token"]),
            (self.account.access_token, self.account.refresh_token, self.account.id_token),
        )
        self.assertNotEqual(found["refresh_token"], first)
        self.assertEqual((self.service.last.endpoint, self.service.last.account), ("token", "a"))
        self.assertEqual(self.refused(first), (401, "refresh_token_reused"))
        self.assertFalse(self.account.logged_in)
        self.assertEqual(self.refused(self.account.refresh_token), (401, "refresh_token_invalidated"))
        self.assertEqual(self.account.counters.refreshes, 1)
        self.assertEqual(self.account.counters.refused_refreshes, 2)

    def test_expired(self) -> None:
        self.account.expire_refresh_token()
        self.assertEqual(self.refused(self.account.refresh_token), (401, "refresh_token_expired"))
        self.assertTrue(self.account.logged_in)
        self.account.log_in()
        self.assertEqual(self.service.refresh(self.account.refresh_token).reply.head.status, 200)

    def test_unknown(self) -> None:
        self.assertEqual(self.refused("rt_x"), (401, "refresh_token_invalidated"))
        self.assertEqual(self.refused(self.account.refresh_token, client_id="x"), (401, "invalid_client"))
        self.assertEqual(
            self.refused(self.account.refresh_token, grant_type="password"), (400, "unsupported_grant_type")
        )
        self.assertEqual(self.account.counters.refreshes, 0)

    def test_fault_costs_no_token(self) -> None:
        token = self.account.refresh_token
        self.service.faults.next("429;retry_after=7", endpoint="token")
        self.assertEqual(self.service.refresh(token).reply.head.status, 429)
        self.assertEqual(self.service.refresh(token).reply.head.status, 200)
