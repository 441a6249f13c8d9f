"""Token requests, as JSON and as forms."""

from __future__ import annotations

import random
from collections.abc import Mapping

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.claude.simulated_account import ClaudeAccount
from ccmproxy.simulator.due_faults import DueFaults
from ccmproxy.simulator.faults import FaultPlan
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import json_reply
from ccmproxy.simulator.steps import Reply
from ccmproxy.simulator.token_request import (
    deliver_refresh,
    refresh_problem,
    refreshing_account,
    token_request,
)


def request(body: bytes, content_type: bytes = b"application/json") -> ReceivedRequest:
    """A request to the token endpoint."""
    return ReceivedRequest(1, 0.0, b"POST", b"/token", [(b"Content-Type", content_type)], body, "test")


class TokenRequestTests(SynchronousTestCase):
    """What is read, and what is passed over."""

    def read(self, body: bytes, content_type: bytes = b"application/json") -> dict[str, str]:
        return token_request(request(body, content_type))

    def test_json_and_form(self) -> None:
        expected = {"grant_type": "refresh_token", "refresh_token": "a b"}
        self.assertEqual(
            self.read(b'{"grant_type":"refresh_token","refresh_token":"a b","expires":5}'), expected
        )
        form = b"grant_type=refresh_token&refresh_token=a+b"
        self.assertEqual(self.read(form, b"application/x-www-form-urlencoded; charset=utf-8"), expected)

    def test_unreadable(self) -> None:
        for body in (b"", b"[]", b"{", b"\xff", b"[" * 100_000):
            self.assertEqual(self.read(body), {})


class RefreshTests(SynchronousTestCase):
    """Who gets new tokens."""

    def setUp(self) -> None:
        self.account = ClaudeAccount("a", rng=random.Random(0), time=lambda: 1000.0)
        self.other = ClaudeAccount("b", rng=random.Random(1), time=lambda: 1000.0)

    def problem(self, token: str, **changes: str) -> str | None:
        """What stands against a refresh."""
        parameters = {"grant_type": "refresh_token", "client_id": "c", "refresh_token": token, **changes}
        account = refreshing_account(parameters, [self.other, self.account])
        return refresh_problem(parameters, account, "c")

    def test_a_token_is_redeemed_once(self) -> None:
        token = self.account.refresh_token
        self.assertIsNone(self.problem(token))
        self.assertNotEqual(self.account.refresh_token, token)
        self.assertEqual(self.problem(token), "reused")
        self.assertEqual(self.problem(self.account.refresh_token), "unknown", "the login is over")

    def test_problems(self) -> None:
        token = self.account.refresh_token
        self.assertEqual(self.problem(token, grant_type="password"), "grant_type")
        self.assertEqual(self.problem(token, client_id="d"), "client")
        self.assertEqual(self.problem("nobody's"), "unknown")
        self.account.expire_refresh_token()
        self.assertEqual(self.problem(token), "expired")
        self.assertEqual(self.account.counters.refused_refreshes, 1)
        self.assertEqual(self.account.refresh_token, token, "nothing was rotated")

    def test_whose_refresh_it_is(self) -> None:
        accounts = [self.other, self.account]
        received = request(b'{"refresh_token":"%s"}' % self.account.refresh_token.encode())
        due = DueFaults[ClaudeAccount](
            FaultPlan(random.Random(0)),
            lambda account, message: json_reply(400, message),
            lambda request, account, fault, model: json_reply(500, None),
        )

        def refresh(parameters: Mapping[str, str], account: ClaudeAccount | None) -> Reply:
            return json_reply(200, [parameters["refresh_token"], account and account.name])

        delivery = deliver_refresh(received, accounts, due.deliver, refresh)
        self.assertEqual(delivery.reply.body, b'["%s","a"]' % self.account.refresh_token.encode())
        self.assertEqual((received.account, received.endpoint), ("a", "token"))
        received = request(b'{"refresh_token":"nobody"}')
        self.assertEqual(
            deliver_refresh(received, accounts, due.deliver, refresh).reply.body, b'["nobody",null]'
        )
        self.assertIsNone(received.account)
