"""Tests for :mod:`ccmproxy.websocket.utf8`."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.websocket.utf8 import PIECE, is_utf8


def reference(data: bytes) -> bool:
    """What Python's decoder says of all of it at once."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


class UTF8Tests(SynchronousTestCase):
    """Text that is, and text that is not."""

    @given(st.one_of(st.binary(max_size=20), st.text(max_size=10).map(lambda text: text.encode("utf-8"))))
    def test_short(self, data: bytes) -> None:
        self.assertEqual(is_utf8(data), reference(data))

    @given(st.binary(max_size=8), st.integers(0, 8), st.booleans())
    def test_at_the_end_of_a_piece(self, data: bytes, back: int, more: bool) -> None:
        """Also of text that goes on for more than another piece."""
        text = (
            "→".encode() + b"x" * (PIECE - 3 - back) + data + (b"y" * PIECE + "é".encode() if more else b"")
        )
        self.assertEqual(is_utf8(text), reference(text))

    def test_characters_about_the_end_of_a_piece(self) -> None:
        """Of two to four bytes, at every place, whole and cut."""
        for character in ("é", "→", "🙂"):
            encoded = character.encode()
            for before in range(PIECE - len(encoded), PIECE + 1):
                start = encoded + b"x" * (before - len(encoded))
                for text in (start + encoded, start + encoded * 40_000):
                    self.assertTrue(is_utf8(text), (character, before))
                for text in (start + encoded[:-1], start + encoded[:-1] + b"x" * PIECE):
                    self.assertFalse(is_utf8(text), (character, before))

    def test_what_no_decoder_may_take(self) -> None:
        """Surrogates, more bytes than needed, more than there are characters (RFC 3629 section 3)."""
        for data in (b"\xed\xa0\x80", b"\xc0\xaf", b"\xf8\x88\x80\x80\x80", b"\xf4\x90\x80\x80"):
            self.assertFalse(is_utf8(data))

    def test_long_text_is_not_held_a_second_time(self) -> None:
        text = "🙂".encode() * 1_000_000
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        self.assertTrue(is_utf8(text))
        self.assertLess(tracemalloc.get_traced_memory()[1], 6 * PIECE)
