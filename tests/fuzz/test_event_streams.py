"""Event streams, as scanned and as rewritten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.claude.usage_meters import StreamMeter
from ccmproxy.dialects.codex.usage_meters import ChatMeter, ResponsesMeter
from ccmproxy.dialects.event_rewriter import EventRewriter
from ccmproxy.dialects.sse import Event, EventScanner, first_event
from ccmproxy.dialects.usage import UsageMeter
from tests.effort import Effort
from tests.fuzz.mutation import PIECES, mutated, pieces
from tests.profiles import examples

EVENTS = st.lists(
    st.sampled_from(
        (
            b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":1}}}\n\n',
            b'event: message_delta\r\ndata: {"usage":{"output_tokens":5}}\r\n\r\n',
            b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
            b'event: error\ndata: {"type":"error","error":{"type":"rate_limit_error","message":"x"}}\n\n',
            b'data: {"type":"response.completed","response":{"usage":{"input_tokens":7,"output_tokens":1}}}\n\n',
            b'event: response.failed\ndata: {"type":"response.failed","response":{"error":{"code":"x"}}}\r\r',
            b'event: codex.rate_limits\ndata: {"type":"codex.rate_limits"}\n\n',
            b'data: {"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":3}}\n\n',
            b"data: [DONE]\n\n",
            b": comment\n\n",
            "data: größer 🙂\n\n".encode(),
        )
    ),
    min_size=1,
    max_size=6,
).map(b"".join)
_TOKENS = (
    *(b"\n\n", b"\r\r", b"\r\n\r\n", b"data", b"data: x\n", b"event: error\n", b"codex.rate_limits"),
    b"data:\n" * 2000,
)


class ScannerTests(SynchronousTestCase):
    """What is found does not depend on the pieces, and costs what comes."""

    NAMES = (b"message_start", b"message_delta", b"message_stop", b"error", b"message")

    def scan(self, data: bytes, size: int) -> list[Event]:
        scanner = EventScanner(self.NAMES, max_event=4000)
        return [event for piece in pieces(data, size) for event in scanner.feed(piece)]

    @given(mutated(EVENTS, _TOKENS))
    @examples(200)
    def test_scanning(self, data: bytes) -> None:
        with Effort() as effort:
            whole = self.scan(data, 0)
        self.assertLess(effort.lines, 500 + 10 * len(data))
        for size in PIECES:
            with Effort() as effort:
                self.assertEqual(self.scan(data, size), whole)
            self.assertLess(effort.lines, 500 + 60 * len(data))
        first_event(data)

    def rewrite(self, data: bytes, size: int) -> bytes:
        rewriter = EventRewriter(b"codex.rate_limits", lambda event: b"data: replaced\n\n", 4000)
        return b"".join([*(rewriter.feed(piece) for piece in pieces(data, size)), rewriter.end()])

    @given(mutated(EVENTS, _TOKENS))
    @examples(200)
    def test_rewriting(self, data: bytes) -> None:
        with Effort() as effort:
            whole = self.rewrite(data, 0)
        self.assertLess(effort.lines, 500 + 20 * len(data))
        for size in PIECES:
            self.assertEqual(self.rewrite(data, size), whole)

    @given(mutated(EVENTS, _TOKENS), st.integers(0, 2))
    @examples(200)
    def test_metering(self, data: bytes, number: int) -> None:
        """Whatever a stream says, it is counted the same way, and nothing is raised."""

        def meter() -> UsageMeter:
            return (StreamMeter, ResponsesMeter, ChatMeter)[number]([], lambda: 1000.0)

        found = []
        for size in (0, *PIECES):
            one = meter()
            for piece in pieces(data, size):
                one.feed(piece)
            one.end()
            found.append(one.reading())
        self.assertEqual(found[1:], found[:1] * len(PIECES))
