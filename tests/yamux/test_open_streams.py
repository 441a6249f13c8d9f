"""Tests for :mod:`ccmproxy.yamux.open_streams`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.yamux.errors import CannotOpen
from ccmproxy.yamux.open_streams import Opening
from ccmproxy.yamux.parameters import SessionConfig
from ccmproxy.yamux.stream import Stream


class OpeningTests(SynchronousTestCase):
    """The ids of new streams, and the reasons for which none can be opened."""

    def refused(self, opening: Opening, words: str) -> CannotOpen:
        """Return the error when a stream is opened."""
        error = self.assertRaises(CannotOpen, opening.next_id, ())
        assert isinstance(error, CannotOpen)
        self.assertEqual(str(error), words)
        return error

    def test_odd_and_even_ids(self) -> None:
        for is_client, expected in ((True, [1, 3, 5]), (False, [2, 4, 6])):
            opening = Opening(SessionConfig(), is_client)
            self.assertEqual([opening.next_id(()) for _ in range(3)], expected)

    def test_ids_that_are_taken(self) -> None:
        opening = Opening(SessionConfig(), True)
        self.assertEqual([opening.next_id({1, 3, 7}), opening.next_id({5, 7})], [5, 9])

    def test_the_last_id(self) -> None:
        opening = Opening(SessionConfig(), True)
        opening._next_id = 2**32 - 3
        self.assertEqual([opening.next_id(()), opening.next_id(())], [2**32 - 3, 2**32 - 1])
        self.assertTrue(self.refused(opening, "no stream id is left").for_good)

    def test_backlog(self) -> None:
        """A stream that the peer acknowledges makes room."""
        opening = Opening(SessionConfig(open_backlog=2), True)
        streams = [Stream(opening.next_id(()), False, 2**18) for _ in range(2)]
        for stream in streams:
            opening.unacknowledged.start(stream, 0.0)
        error = self.refused(opening, "too many streams that the peer has not acknowledged")
        self.assertFalse(error.for_good)
        opening.acknowledged(streams[0])
        self.assertTrue(streams[0].is_acknowledged)
        self.assertEqual(opening.next_id(()), 5)

    def test_closed(self) -> None:
        """The last reason counts."""
        opening = Opening(SessionConfig(), True)
        self.assertFalse(opening.is_closed)
        for reason in ("the peer is going away", "the session is over"):
            opening.close(reason)
            self.assertTrue(opening.is_closed)
            self.assertTrue(self.refused(opening, reason).for_good)
