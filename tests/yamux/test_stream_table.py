"""Tests for :mod:`ccmproxy.yamux.stream_table`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.yamux.stream import Stream
from ccmproxy.yamux.stream_table import StreamTable


class StreamTableTests(SynchronousTestCase):
    """A table with two streams."""

    def setUp(self) -> None:
        self.table = StreamTable()
        self.a, self.b = (Stream(number, False, 2**18) for number in (1, 3))
        for stream in (self.a, self.b):
            self.table.add(stream)
            self.table.given(stream, 10 * stream.id)

    def test_open_streams(self) -> None:
        self.assertEqual((list(self.table), len(self.table)), ([self.a, self.b], 2))
        self.assertEqual((self.table.get(3), self.table.get(5), 3 in self.table), (self.b, None, True))
        self.table.remove(self.b)
        self.assertEqual((self.table.get(3), 3 in self.table, self.b.is_closed), (None, False, True))
        self.assertFalse(self.a.is_closed)

    def test_what_is_held(self) -> None:
        self.assertEqual((self.table.unread, self.a.held, self.table.fullest()), (40, 10, self.b))
        self.table.consumed(self.b, 25)
        self.assertEqual((self.table.unread, self.b.held, self.table.fullest()), (15, 5, self.a))
        self.assertRaises(ValueError, self.table.consumed, self.b, 6)
        self.assertEqual((self.table.unread, self.b.held), (15, 5))

    def test_what_a_closed_stream_holds_counts(self) -> None:
        """Data counts as unread until it is consumed or released."""
        self.table.remove(self.b)
        self.assertEqual(self.table.unread, 40)
        self.table.consumed(self.b, 10)
        self.assertEqual(self.table.unread, 30)
        self.table.release(self.b)
        self.assertEqual((self.table.unread, self.b.held, self.b.is_discarding), (10, 0, True))
        self.table.release(self.b)
        self.assertEqual(self.table.unread, 10)

    def test_all_at_once(self) -> None:
        self.b.queue.add(b"data")
        self.table.close_all()
        self.assertEqual((len(self.table), self.table.unread, self.b.queue.size), (0, 0, 0))
        self.assertTrue(self.a.is_closed and self.b.is_closed and self.a.is_discarding)
