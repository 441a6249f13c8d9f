"""Tests for :mod:`ccmproxy.yamux.output`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.yamux.frames import PING, SYN, WINDOW_UPDATE
from ccmproxy.yamux.output import Output
from ccmproxy.yamux.parameters import SessionConfig
from ccmproxy.yamux.stream import Direction, Stream
from tests.yamux.sides import ALL, described


class OutputTests(SynchronousTestCase):
    """The order and size of frames, with a payload of at most 4 bytes."""

    def setUp(self) -> None:
        self.sent: list[int] = []
        self.ended: list[int] = []
        self.output = Output(
            SessionConfig(max_frame=4),
            lambda stream: self.sent.append(stream.id),
            lambda stream: self.ended.append(stream.id),
        )

    def stream(self, number: int, data: bytes = b"", window: int = 100) -> Stream:
        """Make a stream that has data to send."""
        stream = Stream(number, False, 2**18)
        stream.send_window.available = window
        if data:
            self.add(stream, data)
        return stream

    def add(self, stream: Stream, data: bytes) -> None:
        """Queue more data on a stream."""
        stream.queue.add(data)
        self.output.add_data(stream)

    def says(self, max_bytes: int = ALL, now: float = 0.0) -> list[str]:
        """Take frames, and describe them."""
        return described(self.output.take(max_bytes, now))

    def test_control_first(self) -> None:
        self.stream(1, b"ab")
        self.output.add_control(WINDOW_UPDATE, SYN, 1, 0)
        self.output.add_control(PING, SYN, 0, 5)
        self.assertEqual(self.says(0), ["WUPD|SYN id=1 len=0", "PING|SYN id=0 len=5"])
        self.assertEqual(self.says(0), [])
        self.assertEqual(self.says(), ["DATA id=1 len=2 b'ab'"])
        self.assertEqual(self.says(), [])

    def test_in_turn(self) -> None:
        self.stream(1, b"aaaabbbbcc")
        self.stream(3, b"ddddee")
        self.stream(5, b"f")
        words = [said.split()[1:] for said in self.says()]
        self.assertEqual(
            words,
            [
                ["id=1", "len=4", "b'aaaa'"],
                ["id=3", "len=4", "b'dddd'"],
                ["id=5", "len=1", "b'f'"],
                ["id=1", "len=4", "b'bbbb'"],
                ["id=3", "len=2", "b'ee'"],
                ["id=1", "len=2", "b'cc'"],
            ],
        )
        self.assertEqual(self.sent, [1, 3, 5, 1, 3, 1])

    def test_turn_is_kept(self) -> None:
        """A stream that was not served this time is first next time; new data does not change that."""
        first = self.stream(1, b"aaaabbbb")
        self.stream(3, b"cccc")
        self.assertEqual(self.says(1), ["DATA id=1 len=4 b'aaaa'"])
        self.add(first, b"dddd")
        self.assertEqual(self.says(1), ["DATA id=3 len=4 b'cccc'"])
        self.assertEqual(self.says(1), ["DATA id=1 len=4 b'bbbb'"])

    def test_one_turn_for_many_writes(self) -> None:
        stream = self.stream(1, b"aaaa")
        self.add(stream, b"bbbbcccc")
        self.stream(3, b"dddd")
        self.says()
        self.assertEqual(self.sent, [1, 3, 1, 1])

    def test_headers_count(self) -> None:
        """Headers count against ``max_bytes``: otherwise a thousand streams with one byte each would far exceed it."""
        self.stream(1, b"a")
        self.stream(3, b"b")
        self.assertEqual(self.says(13), ["DATA id=1 len=1 b'a'"])

    def test_small_writes_share_a_frame(self) -> None:
        stream = self.stream(1, b"a")
        self.add(stream, b"b")
        self.assertEqual(self.says(), ["DATA id=1 len=2 b'ab'"])

    def test_window(self) -> None:
        stream = self.stream(1, b"abcdef", window=5)
        other = self.stream(3, b"x")
        self.assertEqual(len(self.says()), 3)
        self.assertIn(stream, self.output.waiting)
        self.assertNotIn(other, self.output.waiting)
        self.assertEqual(self.says(), [])
        stream.send_window.granted(1)
        self.output.add_data(stream)
        self.assertNotIn(stream, self.output.waiting)
        self.assertEqual(self.says(), ["DATA id=1 len=1 b'f'"])

    def test_waits_since_the_window_was_used_up(self) -> None:
        self.stream(1, b"abc", window=2)
        self.says(now=50.0)
        self.assertEqual(self.output.waiting.deadline, 650.0)

    def test_more_to_send_is_no_sign_of_the_peer(self) -> None:
        """Writing to a stream that waits for window does not extend its time-out."""
        stream = self.stream(1, b"abc", window=2)
        self.says(now=50.0)
        self.add(stream, b"d")
        self.assertEqual(self.says(now=500.0), [])
        self.assertEqual(self.output.waiting.deadline, 650.0)
        stream.send_window.granted(5)
        self.output.add_data(stream)
        self.assertEqual(self.says(now=600.0), ["DATA id=1 len=2 b'cd'"])
        self.assertEqual(len(self.output.waiting), 0)

    def test_end_behind_the_data(self) -> None:
        stream = self.stream(1, b"abcdef", window=5)
        stream.outbound = Direction.ENDING
        self.assertEqual(self.says(), ["DATA id=1 len=4 b'abcd'", "DATA id=1 len=1 b'e'"])
        self.assertEqual(self.ended, [])
        stream.send_window.granted(1)
        self.output.add_data(stream)
        self.assertEqual(self.says(), ["DATA id=1 len=1 b'f'", "WUPD|FIN id=1 len=0"])
        self.assertEqual(self.ended, [1])

    def test_forget(self) -> None:
        ready = self.stream(1, b"ab")
        waiting = self.stream(3, b"ab", window=1)
        self.stream(5, b"x")
        self.says(1)
        self.output.forget(ready)
        self.says()
        self.output.forget(waiting)
        self.assertEqual((ready.queue.size, waiting.queue.size, len(self.output.waiting)), (0, 0, 0))
        self.assertEqual(self.says(), [])

    def test_no_end_of_what_was_forgotten(self) -> None:
        stream = self.stream(1, b"ab")
        stream.outbound = Direction.ENDING
        self.output.forget(stream)
        self.assertEqual((self.says(), self.ended), ([], []))

    def test_clear_data(self) -> None:
        self.stream(1, b"ab")
        self.output.add_control(PING, SYN, 0, 5)
        self.output.clear_data()
        self.assertEqual(self.says(), ["PING|SYN id=0 len=5"])

    def test_a_carrier_that_takes_nothing(self) -> None:
        """The time-out counts from the first ``blocked``, until ``unblocked``."""
        self.assertEqual(self.output.deadline, float("inf"))
        self.output.blocked(5.0)
        self.output.blocked(7.0)
        self.assertEqual(self.output.deadline, 5.0 + SessionConfig().write_timeout)
        self.output.unblocked()
        self.assertEqual(self.output.deadline, float("inf"))
