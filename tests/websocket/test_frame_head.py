"""Tests for :mod:`ccmproxy.websocket.frame_head`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.websocket.frame_head import frame_head


class FrameHeadTests(SynchronousTestCase):
    """Lengths are written in the shortest form."""

    def test_examples_of_the_rfc(self) -> None:
        """Section 5.7: text of 5 bytes, without and with a mask; binary data of 256 bytes and of 64 KiB."""
        self.assertEqual(frame_head(0x81, 5, False).hex(), "8105")
        self.assertEqual(frame_head(0x81, 5, True).hex(), "8185")
        self.assertEqual(frame_head(0x82, 256, False).hex(), "827e0100")
        self.assertEqual(frame_head(0x82, 0x10000, False).hex(), "827f0000000000010000")

    def test_lengths(self) -> None:
        for length, head in (
            (0, "8280"),
            (125, "82fd"),
            (126, "82fe007e"),
            (0xFFFF, "82feffff"),
            (0x10000, "82ff0000000000010000"),
        ):
            self.assertEqual(frame_head(0x82, length, True).hex(), head)
