"""The meaning of responses in all dialects."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.verdicts import busy, used_up_resets, verdict_by_status
from ccmproxy.http.message import Headers
from ccmproxy.policy.answers import AnswerKind, Verdict

FIELD = re.compile(rb"x-(?P<limit>[a-z]+)-(?P<fact>reset|remaining)")


class VerdictTests(SynchronousTestCase):
    """Spec 4.4."""

    def test_by_status(self) -> None:
        for status, body, kind in (
            (200, None, AnswerKind.OK),
            (304, None, AnswerKind.OK),
            (400, None, AnswerKind.CLIENT_ERROR),
            (401, None, AnswerKind.AUTH_FAILED),
            (403, None, AnswerKind.NEEDS_BODY),
            (403, b"forbidden", AnswerKind.OTHER),
            (403, b"OAuth token has been revoked.", AnswerKind.AUTH_FAILED),
            (404, None, AnswerKind.OTHER),
            (529, None, AnswerKind.OTHER),
        ):
            self.assertEqual(verdict_by_status(status, body), Verdict(kind), status)

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
