"""Tests for :mod:`ccmproxy.yamux.stream`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.yamux.stream import Direction, SendQueue, Stream
from tests.profiles import examples


class StreamTests(SynchronousTestCase):
    """The initial state of a stream, and its repr."""

    def test_of_the_peer(self) -> None:
        stream = Stream(1, True, 2**18)
        self.assertEqual((stream.is_acknowledged, stream.is_accepted), (True, False))

    def test_of_our_own(self) -> None:
        stream = Stream(1, False, 2**18)
        self.assertEqual((stream.is_acknowledged, stream.is_accepted), (False, True))

    def test_repr(self) -> None:
        stream = Stream(7, False, 2**18)
        stream.queue.add(b"secret")
        stream.outbound = Direction.ENDING
        self.assertEqual(repr(stream), "<Stream 7 in open, out ending, 6 bytes queued>")
        stream.is_closed = True
        stream.queue.clear()
        self.assertEqual(repr(stream), "<Stream 7 closed, 0 bytes queued>")


class SendQueueTests(SynchronousTestCase):
    """Data is taken from the queue in the order in which it was added."""

    @given(
        st.lists(st.binary(min_size=1, max_size=20), max_size=10), st.lists(st.integers(1, 30), max_size=20)
    )
    @examples(100)
    def test_order_is_kept(self, chunks: list[bytes], sizes: list[int]) -> None:
        queue, taken = SendQueue(), b""
        for chunk in chunks:
            queue.add(chunk)
        for size in sizes:
            piece = b"".join(queue.take(min(size, queue.size)))
            self.assertEqual(len(piece), min(size, len(b"".join(chunks)) - len(taken)))
            taken += piece
        rest = b"".join(queue.take(queue.size))
        self.assertEqual(taken + rest, b"".join(chunks))
        self.assertEqual(queue.size, 0)

    def test_clear(self) -> None:
        queue = SendQueue()
        queue.add(b"abc")
        queue.take(1)
        queue.clear()
        queue.add(b"def")
        self.assertEqual((queue.size, b"".join(queue.take(3))), (3, b"def"))

    def test_large_chunks_are_not_copied(self) -> None:
        queue = SendQueue()
        data = bytes(100)
        queue.add(data)
        (piece,) = queue.take(10)
        assert isinstance(piece, memoryview)
        self.assertIs(piece.obj, data)
