"""Tests for :mod:`ccmproxy.yamux.timeouts`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.yamux.stream import Stream
from ccmproxy.yamux.timeouts import Timeouts


class TimeoutsTests(SynchronousTestCase):
    """Time-outs of three streams."""

    def setUp(self) -> None:
        self.timeouts = Timeouts(10.0, "not answered within")
        self.a, self.b, self.c = (Stream(n, False, 2**18) for n in (1, 3, 5))

    def test_none(self) -> None:
        self.assertEqual((self.timeouts.deadline, len(self.timeouts)), (float("inf"), 0))
        self.assertEqual(self.timeouts.reason, "not answered within 10 seconds")
        self.assertEqual(self.timeouts.over(1e9), [])

    def test_longest_first(self) -> None:
        for stream, now in ((self.b, 1.0), (self.a, 2.0), (self.c, 3.0)):
            self.timeouts.start(stream, now)
        self.assertEqual(self.timeouts.deadline, 11.0)
        self.assertEqual(self.timeouts.over(10.9), [])
        self.assertEqual(self.timeouts.over(12.0), [self.b, self.a])
        self.timeouts.stop(self.b)
        self.assertEqual(self.timeouts.deadline, 12.0)
        self.assertNotIn(self.b, self.timeouts)
        self.assertIn(self.a, self.timeouts)

    def test_again(self) -> None:
        self.timeouts.start(self.a, 1.0)
        self.timeouts.start(self.b, 2.0)
        self.timeouts.start(self.a, 3.0)
        self.assertEqual((self.timeouts.deadline, len(self.timeouts)), (12.0, 2))
        self.timeouts.clear()
        self.assertEqual(len(self.timeouts), 0)

    def test_stop_one_that_does_not_wait(self) -> None:
        self.timeouts.stop(self.a)
        self.assertEqual(len(self.timeouts), 0)
