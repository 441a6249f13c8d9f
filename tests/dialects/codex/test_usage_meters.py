"""Tokens of the Codex dialect's answers."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.codex.usage_meters import ChatMeter, ResponsesMeter
from ccmproxy.dialects.usage import Tokens
from ccmproxy.policy.answers import AnswerKind, Verdict
from tests.dialects.codex.events import CHAT_USAGE, COMPLETED, CREATED, STREAM, TEXT, TOKENS, USAGE, event

NOW = 1_795_000_000.0


class ResponsesMeterTests(SynchronousTestCase):
    """Usage of an event stream (spec 9)."""

    def fed(self, *chunks: bytes) -> ResponsesMeter:
        meter = ResponsesMeter([], lambda: NOW)
        for chunk in chunks:
            meter.feed(chunk)
        meter.end()
        return meter

    def test_whole(self) -> None:
        reading = self.fed(STREAM).reading()
        self.assertEqual(reading.tokens, TOKENS)
        self.assertEqual(reading.tokens.total_input, 1000)
        self.assertEqual((reading.model, reading.service_tier), ("gpt-5.4-2026", "default"))
        self.assertEqual((reading.complete, reading.error, reading.reported), (True, "", True))

    def test_byte_by_byte(self) -> None:
        """F19."""
        unnamed = CREATED + event("response.completed", named=False, response={"usage": USAGE})
        for stream in (STREAM, STREAM.replace(b"\n", b"\r\n"), STREAM.replace(b"\n", b"\r"), unnamed):
            meter = self.fed(*(stream[at : at + 1] for at in range(len(stream))))
            self.assertEqual(meter.reading().tokens, TOKENS)
            self.assertTrue(meter.reading().complete)

    def test_every_proper_end(self) -> None:
        incomplete = self.fed(CREATED, event("response.incomplete", response={"usage": USAGE})).reading()
        self.assertEqual((incomplete.complete, incomplete.error, incomplete.tokens), (True, "", TOKENS))
        failed = self.fed(event("response.failed", response={"error": {"code": "server_error"}})).reading()
        self.assertEqual((failed.complete, failed.error, failed.reported), (True, "server_error", False))

    def test_what_broke_off_is_not_complete(self) -> None:
        """F22: only the last event ends a stream."""
        reading = self.fed(CREATED, TEXT, COMPLETED[:-1]).reading()
        self.assertEqual((reading.complete, reading.reported), (False, False))

    def test_an_error_event_is_kept(self) -> None:
        """F13."""
        for data, word in (
            ({"error": {"type": "t", "code": "c"}}, "c"),
            ({"error": {"type": "t"}}, "t"),
            ({"code": "rate_limit_exceeded", "message": "m"}, "rate_limit_exceeded"),
            ({}, "unknown"),
            ({"error": []}, "unknown"),
        ):
            fields: dict[str, Any] = data
            reading = self.fed(event("error", **fields)).reading()
            self.assertEqual((reading.error, reading.complete), (word, False))
        self.assertEqual(self.fed(b"event: error\ndata: no json\n\n").reading().error, "unknown")
        self.assertEqual(self.fed(event("response.failed")).reading().error, "unknown")

    def test_where_a_keep_alive_may_stand(self) -> None:
        """F44: only between two events, and not after the last one."""
        meter = self.fed(CREATED)
        self.assertTrue(meter.at_boundary)
        meter.feed(TEXT[:-1])
        self.assertFalse(meter.at_boundary)
        meter.feed(TEXT[-1:] + COMPLETED)
        self.assertFalse(meter.at_boundary)

    def test_wrong_types_count_nothing(self) -> None:
        usages: list[object] = [
            [],
            "x",
            5,
            {"input_tokens": "many"},
            {"input_tokens": -5},
            {"input_tokens": 10**30},
        ]
        for usage in usages:
            reading = self.fed(event("response.completed", response={"usage": usage})).reading()
            self.assertEqual((reading.tokens, reading.complete), (Tokens(), True))
        absurd = {"input_tokens": 5, "input_tokens_details": {"cached_tokens": 9}}
        reading = self.fed(event("response.completed", response={"usage": absurd})).reading()
        self.assertEqual(reading.tokens, Tokens(cache_read=5))
        self.fed(b"event: response.completed\ndata: " + b"[" * 100_000 + b"\n\n")

    @given(st.lists(st.binary(max_size=60) | st.sampled_from([CREATED, TEXT, COMPLETED]), max_size=8))
    def test_never_raises(self, chunks: list[bytes]) -> None:
        self.fed(*chunks).reading()


def chunk(**data: object) -> bytes:
    """One chunk of a chat completion."""
    return f"data: {json.dumps({'object': 'chat.completion.chunk', 'model': 'gpt-5', **data})}\n\n".encode()


FIRST = chunk(choices=[{"delta": {"content": "hi"}, "finish_reason": None}], usage=None)
LAST = chunk(choices=[{"delta": {}, "finish_reason": "stop"}], usage=None)
SUMS = chunk(choices=[], usage=CHAT_USAGE, service_tier="flex")
DONE = b"data: [DONE]\n\n"


class ChatMeterTests(SynchronousTestCase):
    """Usage of chat completions."""

    def test_the_last_chunk_reports(self) -> None:
        stream = FIRST + LAST + SUMS + DONE
        for chunks in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
            meter = ChatMeter([], lambda: NOW)
            for each in chunks:
                meter.feed(each)
            reading = meter.reading()
            self.assertEqual((reading.tokens, reading.model, reading.service_tier), (TOKENS, "gpt-5", "flex"))
            self.assertTrue(reading.complete)

    def test_complete_at_done_or_after_the_finish_reason(self) -> None:
        for stream, complete in ((FIRST + DONE, True), (FIRST + LAST, True), (FIRST, False)):
            meter = ChatMeter([], lambda: NOW)
            meter.feed(stream)
            meter.end()
            self.assertEqual((meter.reading().complete, meter.reading().reported), (complete, False))

    def test_no_keep_alive_that_would_be_taken_for_a_chunk(self) -> None:
        """F18."""
        meter = ChatMeter([], lambda: NOW)
        meter.feed(FIRST)
        self.assertFalse(meter.at_boundary)

    def test_errors(self) -> None:
        meter = ChatMeter([], lambda: NOW)
        meter.feed(b'data: {"error": {"code": "c"}}\n\ndata: no json\n\n')
        self.assertEqual(meter.reading().error, "c")

    @given(st.lists(st.binary(max_size=60) | st.sampled_from([FIRST, LAST, SUMS, DONE]), max_size=8))
    def test_never_raises(self, chunks: list[bytes]) -> None:
        meter = ChatMeter([], lambda: NOW)
        for each in chunks:
            meter.feed(each)
        meter.end()
        meter.reading()


class RefusalTests(SynchronousTestCase):
    """What a failure in mid-stream means for the account (spec 12.2, F51)."""

    def refusal(self, kind: str, **event: object) -> Verdict | None:
        meter = ResponsesMeter([], lambda: NOW, "gpt-5.4")
        for said in ({"type": "response.output_text.delta", "delta": "x"}, {"type": kind, **event}):
            meter.feed(f"event: {said['type']}\ndata: {json.dumps(said)}\n\n".encode())
        meter.end()
        return meter.reading().refusal

    def failed(self, code: str, **error: object) -> Verdict | None:
        return self.refusal("response.failed", response={"error": {"code": code, "message": "m", **error}})

    def test_a_used_up_account_with_its_reset(self) -> None:
        reset = int(NOW) + 3600
        for fields in ({"resets_at": reset}, {"resets_in_seconds": 3600}):
            said: dict[str, Any] = fields
            self.assertEqual(
                self.failed("usage_limit_reached", **said), Verdict(AnswerKind.RATE_LIMITED, reset)
            )

    def test_a_burst_with_its_wait(self) -> None:
        for message, wait in (
            ("Rate limit reached. Please try again in 1.5s.", 1.5),
            ("try again in 20ms", 0.02),
            ("Try again in 2 minutes", 120.0),
            ("try again later", None),
        ):
            self.assertEqual(
                self.failed("rate_limit_exceeded", message=message),
                Verdict(AnswerKind.BUSY, wait=wait, sentence=message),
            )

    def test_a_refused_login(self) -> None:
        for found in (
            self.refusal("error", status=401, error={"code": "x", "message": "m"}),
            self.refusal("error", code="token_expired", message="m"),
            self.failed("token_revoked"),
        ):
            self.assertEqual(found, Verdict(AnswerKind.AUTH_FAILED, sentence="m"))

    def test_final_words(self) -> None:
        self.assertEqual(
            self.failed("usage_not_included"),
            Verdict(AnswerKind.BUSY, is_about_request=True, is_final=True, sentence="m"),
        )

    def test_nothing_is_concluded_about_the_whole_account(self) -> None:
        """What the client sent, and the provider might repeat, is not at hand here (spec 12.1)."""
        self.assertEqual(self.failed("deactivated_workspace"), Verdict(AnswerKind.DENIED, sentence="m"))

    def test_other_failures_are_nobodys(self) -> None:
        for code in ("server_error", "server_is_overloaded", "context_length_exceeded", "new"):
            self.assertIsNone(self.failed(code), code)
        self.assertIsNone(self.refusal("response.completed", response={}))

    def test_a_chat_completion(self) -> None:
        meter = ChatMeter([], lambda: NOW)
        error = {"code": "rate_limit_exceeded", "message": "try again in 3s"}
        meter.feed(f"data: {json.dumps({'error': error})}\n\n".encode())
        self.assertEqual(
            meter.reading().refusal, Verdict(AnswerKind.BUSY, wait=3.0, sentence="try again in 3s")
        )
