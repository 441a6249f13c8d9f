"""Tests for :mod:`ccmproxy.yamux.window`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.yamux.errors import ProtocolError
from ccmproxy.yamux.parameters import INITIAL_WINDOW, LARGEST_WINDOW
from ccmproxy.yamux.window import ReceiveWindow, SendWindow
from tests.profiles import examples

SIZES = st.integers(0, 2 * INITIAL_WINDOW)


class ReceiveWindowTests(SynchronousTestCase):
    """The window for data from the peer."""

    def test_begins_with_256_kib(self) -> None:
        window = ReceiveWindow(512 * 1024)
        self.assertEqual(window.remaining, 256 * 1024)
        self.assertEqual(window.credit(at_once=True), 256 * 1024)
        self.assertEqual(window.remaining, 512 * 1024)
        self.assertEqual(ReceiveWindow(256 * 1024).credit(at_once=True), 0)

    def test_credited_by_halves(self) -> None:
        window = ReceiveWindow(INITIAL_WINDOW)
        half = INITIAL_WINDOW // 2
        window.received(INITIAL_WINDOW)
        window.consumed(half - 1)
        self.assertEqual(window.credit(), 0)
        window.consumed(1)
        self.assertEqual(window.credit(), half)
        self.assertEqual(window.credit(), 0)
        window.consumed(half)
        self.assertEqual(window.credit(), half)

    def test_exceeded(self) -> None:
        window = ReceiveWindow(INITIAL_WINDOW)
        window.received(INITIAL_WINDOW)
        window.received(0)
        error = self.assertRaises(ProtocolError, window.received, 1)
        self.assertEqual(str(error), "1 bytes in a window of 0")

    def test_consumed_too_much(self) -> None:
        window = ReceiveWindow(INITIAL_WINDOW)
        window.received(5)
        self.assertRaises(ValueError, window.consumed, 6)
        self.assertRaises(ValueError, window.consumed, -1)

    @given(st.integers(INITIAL_WINDOW, 4 * INITIAL_WINDOW), st.lists(st.tuples(SIZES, SIZES), max_size=30))
    @examples(100)
    def test_any_history(self, maximum: int, history: list[tuple[int, int]]) -> None:
        """Consumed bytes are credited; the peer never has more than the maximum, and is never stuck."""
        window = ReceiveWindow(maximum)
        granted, received = INITIAL_WINDOW + window.credit(at_once=True), 0
        self.assertEqual(granted, maximum)
        for size, used in history:
            if size > window.remaining:
                self.assertRaises(ProtocolError, window.received, size)
            else:
                window.received(size)
                received += size
            window.consumed(min(used, window.unread))
            granted += window.credit()
            self.assertEqual(window.remaining, granted - received)
            self.assertLessEqual(window.remaining + window.unread, maximum)
            if not window.unread:
                self.assertGreater(window.remaining, maximum // 2 - 1)


class SendWindowTests(SynchronousTestCase):
    """The window for data to the peer."""

    def test_arithmetic(self) -> None:
        window = SendWindow()
        window.sent(INITIAL_WINDOW)
        self.assertEqual(window.available, 0)
        window.granted(7)
        self.assertEqual(window.available, 7)
        self.assertRaises(AssertionError, window.sent, 8)

    def test_clamped(self) -> None:
        window = SendWindow()
        window.granted(LARGEST_WINDOW)
        self.assertEqual(window.available, LARGEST_WINDOW)
        window.granted(1)
        self.assertEqual(window.available, LARGEST_WINDOW)
