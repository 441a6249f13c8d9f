"""The answer to a malformed request, which is the last one of its connection."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.framing import FramingError
from ccmproxy.http.message import Headers, ResponseHead
from ccmproxy.http.server.owner import ConnectionOwner, last_answer


class _Owner:
    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    def malformed(self, status: int, message: str) -> tuple[ResponseHead, bytes]:
        return ResponseHead(status, b"Bad", self._headers), message.encode()


class LastAnswerTests(SynchronousTestCase):
    """The framing is set by the server, whatever fields the formatter of the answer gives."""

    def answer(self, headers: Headers) -> bytes:
        """The bytes for an answer with these fields."""
        owner: Any = _Owner(headers)
        known: ConnectionOwner = owner
        return last_answer(known, 400, "no")

    def test_framing(self) -> None:
        given: Headers = [
            (b"X-A", b"1"),
            (b"content-length", b"99"),
            (b"Transfer-Encoding", b"chunked"),
            (b"CONNECTION", b"keep-alive"),
        ]
        self.assertEqual(
            self.answer(given),
            b"HTTP/1.1 400 Bad\r\nX-A: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
        )

    def test_what_cannot_be_sent(self) -> None:
        self.assertRaises(FramingError, self.answer, [(b"X-A", b"1\r\nX-B: 2")])
