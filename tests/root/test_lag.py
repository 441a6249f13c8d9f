"""Tests of the lag of the reactor."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.root.lag import LagMeter


class LagTests(SynchronousTestCase):
    """F24: lag is a metric."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.meter = LagMeter(self.clock)
        self.meter.start()
        self.addCleanup(self.meter.stop)

    def test_a_reactor_in_time(self) -> None:
        """F24: a reactor that is not blocked has no lag."""
        with capturedLogs() as events:
            for _ in range(100):
                self.clock.advance(0.1)
        self.assertLess(self.meter.worst, 0.11)
        self.assertEqual(events, [])

    def test_held_up(self) -> None:
        """F24: a reactor that was blocked for 5 s has a lag of 4 s, which is logged."""
        with capturedLogs() as events:
            self.clock.advance(5)
        self.assertEqual((self.meter.last, self.meter.worst), (4.0, 4.0))
        self.assertEqual([event["log_level"] for event in events], [LogLevel.warn])
        self.assertEqual(events[0]["lag"], 4.0)
        self.clock.advance(1)
        self.assertEqual((self.meter.last, self.meter.worst), (0.0, 4.0))
        self.meter.stop()
        self.meter.start()
        self.assertEqual(self.meter.worst, 0.0)

    def test_a_little_late(self) -> None:
        """F24: a small lag is measured but not logged."""
        with capturedLogs() as events:
            self.clock.advance(1.5)
        self.assertEqual(self.meter.last, 0.5)
        self.assertEqual(events, [])

    def test_a_clock_that_is_set_back(self) -> None:
        self.clock.rightNow -= 100
        self.clock.advance(101)
        self.assertEqual(self.meter.last, 0)

    def test_started_twice_and_stopped(self) -> None:
        self.meter.start()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.meter.stop()
        self.meter.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
