"""The meaning of responses in all dialects."""

from __future__ import annotations

import gzip
import json
import re
import zlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.claude.refusal_words import REFUSAL_WORDS
from ccmproxy.dialects.verdicts import (
    LARGEST_REFUSAL,
    busy,
    in_stream,
    is_key_used_up,
    read_refusal,
    refused_model,
    speaks_of_account,
    used_up,
    used_up_resets,
    verdict_by_status,
)
from ccmproxy.http.message import Headers
from ccmproxy.policy.answers import DEFAULT_BLOCK, AnswerKind, Verdict

FIELD = re.compile(rb"x-(?P<limit>[a-z]+)-(?P<fact>reset|remaining)")


class VerdictTests(SynchronousTestCase):
    """Spec 4.4."""

    def test_by_status(self) -> None:
        """And by what the body says, where it is read (spec 12.1)."""
        for status, body, kind in (
            (200, None, AnswerKind.OK),
            (304, None, AnswerKind.OK),
            (400, None, AnswerKind.NEEDS_BODY),
            (400, b"forbidden", AnswerKind.CLIENT_ERROR),
            (401, None, AnswerKind.NEEDS_BODY),
            (401, b"", AnswerKind.AUTH_FAILED),
            (402, b"", AnswerKind.DENIED),
            (403, None, AnswerKind.NEEDS_BODY),
            (403, b"forbidden", AnswerKind.DENIED),
            (403, b"OAuth token has been revoked.", AnswerKind.AUTH_FAILED),
            (404, None, AnswerKind.OTHER),
            (529, None, AnswerKind.OTHER),
        ):
            document = None if body is None else read_refusal([], body)
            self.assertIs(verdict_by_status(status, document, REFUSAL_WORDS).kind, kind, status)

    def test_a_refusal_is_read_in_any_coding(self) -> None:
        """F59, within bounds."""
        body = json.dumps({"error": {"message": "m"}}).encode()
        for coding, data in (
            (b"gzip", gzip.compress(body)),
            (b"deflate", zlib.compress(body)),
            (b"br", body),
        ):
            self.assertEqual(read_refusal([(b"Content-Encoding", coding)], data), json.loads(body))
        bomb = gzip.compress(b" " * LARGEST_REFUSAL + body)
        self.assertEqual(read_refusal([(b"content-encoding", b"gzip")], bomb).get("error"), None)

    def test_bodies_that_are_no_json(self) -> None:
        for body, document in (
            (b" forbidden\n", {"message": "forbidden"}),
            (b"<html>no</html>", {}),
            (b'{"error": ', {}),
            (b"[1]", {}),
            (b"x" * 2001, {}),
            (b"", {}),
        ):
            self.assertEqual(read_refusal([], body), document)

    def test_a_word_of_the_request_is_no_word_about_the_account(self) -> None:
        for said, echo, speaks in (
            ("no plan", "", True),
            ("no plan", "/v1/plan", False),
            ("no plan", "x-plan: 5", True),
            ("no plan", "x: my plan b", False),
            ("no plan, no account", "x: my plan b", True),
            ("explained", "", False),
            ("not supported when using this", "", True),
            ("context_length_exceeded for your plan", "", False),
        ):
            self.assertIs(speaks_of_account({"detail": said}, echo), speaks, (said, echo))
        self.assertTrue(speaks_of_account({"error": {"code": "workspace_gone", "message": "m"}}))

    @given(
        st.sampled_from([400, 401, 402, 403, 404]), st.binary(max_size=50), st.sampled_from([b"gzip", b"br"])
    )
    def test_garbage_raises_nothing(self, status: int, body: bytes, coding: bytes) -> None:
        document = read_refusal([(b"content-encoding", coding)], body)
        self.assertIsNot(verdict_by_status(status, document, REFUSAL_WORDS).kind, AnswerKind.NEEDS_BODY)

    def test_a_busy_is_our_own_guess(self) -> None:
        expected = Verdict(AnswerKind.BUSY)
        self.assertEqual(busy(), expected)


class UsedUpTests(SynchronousTestCase):
    """The limits of an API key."""

    def test_only_what_is_used_up_counts(self) -> None:
        headers: Headers = [
            (b"X-Tokens-Remaining", b" 0 "),
            (b"X-Tokens-Reset", b" 6m0s "),
            (b"x-requests-remaining", b"5"),
            (b"x-requests-reset", b"1s"),
            (b"x-images-reset", b"2s"),
            (b"x-audio-remaining", b"0"),
            (b"y-tokens-reset", b"3s"),
        ]
        self.assertEqual(used_up_resets(headers, FIELD), ["6m0s"])
        self.assertTrue(is_key_used_up(headers[5:6], FIELD), "although no reset is named")
        self.assertFalse(is_key_used_up(headers[1:4], FIELD))

    def test_the_time(self) -> None:
        """Named, else the wait, else ours (F46)."""
        limited = AnswerKind.RATE_LIMITED
        self.assertEqual(used_up(limited, 110.0, 5.0, 100.0), Verdict(limited, 110.0))
        self.assertEqual(used_up(limited, 100.0, 5.0, 100.0), Verdict(limited, 105.0))
        for wait in (None, 0.0):
            self.assertEqual(
                used_up(limited, 0.0, wait, 100.0), Verdict(limited, 100.0 + DEFAULT_BLOCK, False)
            )

    def test_the_model(self) -> None:
        """Case 04: a window that no model is called after closes the one that was asked for."""
        self.assertEqual(refused_model("claude-opus-4-5", "opus"), "")
        self.assertEqual(refused_model("claude-opus-4-5", "oi"), "claude-opus-4-5")
        self.assertEqual(refused_model(None, "oi"), "")

    def test_in_a_stream_no_account_is_refused(self) -> None:
        for kind in (AnswerKind.ACCOUNT_REFUSED, AnswerKind.MODEL_REFUSED):
            self.assertEqual(in_stream(Verdict(kind, sentence="m")), Verdict(AnswerKind.DENIED, sentence="m"))
        self.assertEqual(in_stream(Verdict(AnswerKind.BUSY, wait=3)), Verdict(AnswerKind.BUSY, wait=3))
        self.assertIsNone(in_stream(None))
