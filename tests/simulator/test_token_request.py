"""Token requests, as JSON and as forms."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.token_request import token_request


class TokenRequestTests(SynchronousTestCase):
    """What is read, and what is passed over."""

    def read(self, body: bytes, content_type: bytes = b"application/json") -> dict[str, str]:
        headers = [(b"Content-Type", content_type)]
        return token_request(ReceivedRequest(1, 0.0, b"POST", b"/token", headers, body, "test"))

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
