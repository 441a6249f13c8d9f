"""Tokens of the Claude dialect's answers."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.claude.usage_meters import StreamMeter
from ccmproxy.dialects.usage import Tokens
from ccmproxy.policy.answers import AnswerKind, Verdict

NOW = 1_795_000_000.0


def event(name: str, **data: object) -> bytes:
    """One event as the upstream writes it."""
    return f"event: {name}\ndata: {json.dumps({'type': name, **data}, ensure_ascii=False)}\n\n".encode()


START = event(
    "message_start",
    message={
        "model": "claude-opus-4-5-20260101",
        "usage": {
            "input_tokens": 10,
            "cache_read_input_tokens": 2000,
            "cache_creation_input_tokens": 300,
            "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
            "output_tokens": 1,
            "service_tier": "standard",
        },
    },
)
TEXT = event(
    "content_block_delta", index=0, delta={"type": "text_delta", "text": "»usage« ✓\n\nevent: error"}
)
DELTA = event(
    "message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 55, "input_tokens": None}
)
STOP = event("message_stop")
STREAM = START + event("ping") + TEXT + DELTA + STOP
TOKENS = Tokens(
    input=10, output=55, cache_read=2000, cache_creation=300, cache_creation_5m=100, cache_creation_1h=200
)


class StreamMeterTests(SynchronousTestCase):
    """Usage of an event stream (spec 9)."""

    def test_whole(self) -> None:
        meter = StreamMeter([], lambda: NOW)
        meter.feed(STREAM)
        reading = meter.reading()
        self.assertEqual(reading.tokens, TOKENS)
        self.assertEqual(reading.tokens.total_input, 2310)
        self.assertEqual((reading.model, reading.service_tier), ("claude-opus-4-5-20260101", "standard"))
        self.assertTrue(reading.complete)
        self.assertEqual(reading.error, "")

    def test_byte_by_byte(self) -> None:
        """F19: no boundary of chunks changes what is read."""
        for stream in (STREAM, STREAM.replace(b"\n", b"\r\n"), STREAM.replace(b"\n", b"\r")):
            meter = StreamMeter([], lambda: NOW)
            for number in range(len(stream)):
                meter.feed(stream[number : number + 1])
            self.assertEqual(meter.reading().tokens, TOKENS)
            self.assertTrue(meter.reading().complete)

    def test_what_broke_off_is_known_as_far_as_it_came(self) -> None:
        """F20 and F22: without message_stop it is not complete, and still counted."""
        meter = StreamMeter([], lambda: NOW)
        meter.feed(START + TEXT[:20])
        meter.end()
        reading = meter.reading()
        self.assertFalse(reading.complete)
        self.assertTrue(reading.reported)
        self.assertEqual((reading.tokens.input, reading.tokens.output), (10, 1))

    def test_an_error_event_is_kept(self) -> None:
        """F13: an error inside a 200 is no success."""
        meter = StreamMeter([], lambda: NOW)
        meter.feed(event("error", error={"type": "overloaded_error", "message": "m"}))
        self.assertEqual(meter.reading().error, "overloaded_error")
        self.assertFalse(meter.reading().complete)
        meter = StreamMeter([], lambda: NOW)
        meter.feed(b"event: error\ndata: not json\n\n")
        self.assertEqual(meter.reading().error, "unknown")

    def test_where_a_keep_alive_may_stand(self) -> None:
        """F44: only between two events."""
        meter = StreamMeter([], lambda: NOW)
        meter.feed(START)
        self.assertTrue(meter.at_boundary)
        meter.feed(TEXT[:-1])
        self.assertFalse(meter.at_boundary)
        meter.feed(TEXT[-1:])
        self.assertTrue(meter.at_boundary)

    def test_wrong_types_count_nothing(self) -> None:
        meter = StreamMeter([], lambda: NOW)
        meter.feed(START)
        usages: list[object] = [
            [],
            "x",
            {"output_tokens": "many"},
            {"output_tokens": -5},
            {"output_tokens": 10**30},
            5,
        ]
        for usage in usages:
            meter.feed(event("message_delta", usage=usage))
        meter.feed(b"event: message_delta\ndata: " + b"[" * 100_000 + b"\n\n")
        self.assertEqual(meter.reading().tokens.output, 1)

    @given(st.lists(st.binary(max_size=60) | st.sampled_from([START, TEXT, DELTA, STOP]), max_size=8))
    def test_never_raises(self, chunks: list[bytes]) -> None:
        meter = StreamMeter([], lambda: NOW)
        for chunk in chunks:
            meter.feed(chunk)
        meter.end()
        meter.reading()


class RefusalTests(SynchronousTestCase):
    """What an error in mid-stream means for the account (spec 12.2, F51)."""

    def refusal(self, kind: str, message: str = "m", **family: object) -> Verdict | None:
        headers = [
            (b"anthropic-ratelimit-unified-" + name.replace("_", "-").encode(), str(value).encode())
            for name, value in family.items()
        ]
        meter = StreamMeter(headers, lambda: NOW, "claude-opus-4-5")
        for chunk in (START, TEXT, event("error", error={"type": kind, "message": message})):
            meter.feed(chunk)
        meter.end()
        self.assertEqual(meter.reading().error, kind)
        return meter.reading().refusal

    def test_no_error_is_no_refusal(self) -> None:
        meter = StreamMeter([], lambda: NOW)
        meter.feed(START + TEXT + STOP)
        self.assertIsNone(meter.reading().refusal)

    def test_refusals(self) -> None:
        reset = int(NOW) + 3600
        self.assertEqual(self.refusal("rate_limit_error"), Verdict(AnswerKind.BUSY, sentence="m"))
        self.assertEqual(
            self.refusal("rate_limit_error", status="rejected", reset=reset),
            Verdict(AnswerKind.RATE_LIMITED, reset),
        )
        self.assertEqual(self.refusal("authentication_error"), Verdict(AnswerKind.AUTH_FAILED, sentence="m"))
        self.assertEqual(self.refusal("permission_error"), Verdict(AnswerKind.DENIED, sentence="m"))

    def test_nothing_is_concluded_about_the_whole_account(self) -> None:
        """What the client sent, and the provider might repeat, is not at hand here (spec 12.1)."""
        words = "This organization has been disabled."
        self.assertEqual(self.refusal("permission_error", words), Verdict(AnswerKind.DENIED, sentence=words))

    def test_the_providers_trouble_is_nobodys(self) -> None:
        for kind in ("overloaded_error", "api_error", "invalid_request_error", "new_error"):
            self.assertIsNone(self.refusal(kind), kind)
