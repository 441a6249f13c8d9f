"""Retry-After in both of its forms, and malformed values."""

from __future__ import annotations

from email.utils import formatdate

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.retry_after import LONGEST, parse_retry_after, retry_after

NOW = 1_795_000_000.0


class RetryAfterTests(SynchronousTestCase):
    """RFC 9110 section 10.2.3."""

    def test_seconds(self) -> None:
        self.assertEqual(parse_retry_after(" 120 ", NOW), 120)
        self.assertEqual(parse_retry_after("0", NOW), 0)

    def test_http_date(self) -> None:
        self.assertEqual(parse_retry_after("Wed, 18 Nov 2026 12:27:40 GMT", 1_795_004_800.0), 60)
        self.assertEqual(parse_retry_after("Wed, 18 Nov 2020 12:26:40 GMT", NOW), 0)

    def test_nonsense_is_as_if_it_were_not_there(self) -> None:
        for text in (
            None,
            "",
            "soon",
            "-5",
            "1.5",
            "1e3",
            "99999999999999999999",
            "٣",
            str(int(LONGEST) + 1),
        ):
            self.assertIsNone(parse_retry_after(text, NOW), text)

    @given(st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, [0-9 A-Za-z:+-]{20,26}"))
    def test_never_raises(self, text: str) -> None:
        parse_retry_after(text, NOW)

    @given(st.integers(0, 10**13), st.integers(-(10**7), 10**7))
    def test_any_wait(self, seconds: int, from_now: int) -> None:
        """As seconds, and as a date."""
        self.assertEqual(parse_retry_after(str(seconds), NOW), seconds if seconds <= LONGEST else None)
        date = formatdate(int(NOW) + from_now, usegmt=True)
        expected = max(0, int(NOW) + from_now - NOW)
        self.assertEqual(parse_retry_after(date, NOW), expected if expected <= LONGEST else None)

    def test_of_an_answer(self) -> None:
        self.assertEqual(retry_after([(b"Retry-After", b"7")], NOW), 7)
        self.assertIsNone(retry_after([(b"Retry-After", b"\xff")], NOW))
        self.assertIsNone(retry_after([], NOW))
