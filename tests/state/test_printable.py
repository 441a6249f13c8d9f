"""Texts from elsewhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.printable import printable


class PrintableTests(SynchronousTestCase):
    """What is escaped, and what is not."""

    def test_examples(self) -> None:
        for text, shown in (
            ("", ""),
            ("claude-opus-4 für Ömer 🙂", "claude-opus-4 für Ömer 🙂"),
            ("a\0b\r\n\x1b[31m", "a\\u0000b\\u000d\\u000a\\u001b[31m"),
            ("x\u202ey\u2066", "x\\u202ey\\u2066"),
            ("\ud800", "\\ud800"),
            ("\U000e0001", "\\ue0001"),
        ):
            self.assertEqual(printable(text), shown)

    @given(st.text(st.characters()))
    def test_whatever_comes(self, text: str) -> None:
        self.assertTrue(printable(text).isprintable())
        self.assertEqual(printable(printable(text)), printable(text))
