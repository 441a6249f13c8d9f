"""Tests of Unix time that does not jump before it is looked at (spec 11, F65)."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.root.wall_clock import ClockWatch, WallClock

NOW = 1_800_000_000.0


class WallClockTests(SynchronousTestCase):
    """``ahead``: by how much the system's clock has been set since the start."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.ahead = 0.0
        self.wall_clock = WallClock(self.clock, lambda: NOW - 1000 + self.clock.seconds() + self.ahead)

    def test_it_goes_as_time_passes(self) -> None:
        self.assertEqual(self.wall_clock.now(), NOW)
        self.clock.advance(60)
        self.assertEqual(self.wall_clock.now(), NOW + 60)
        self.assertEqual(self.wall_clock.look(), 0)

    def test_a_jump_is_seen_by_nobody_before_the_look(self) -> None:
        for ahead in (-10800.0, 72000.0):
            with self.subTest(ahead=ahead):
                before, by = self.wall_clock.now(), ahead - self.ahead
                self.ahead = ahead
                self.assertEqual(self.wall_clock.now(), before)
                self.assertEqual(self.wall_clock.look(), by)
                self.assertEqual(self.wall_clock.now(), before + by)
                self.assertEqual(self.wall_clock.look(), 0)

    def test_drift_is_followed_without_a_word(self) -> None:
        for _ in range(10):
            self.ahead += 0.5
            self.assertEqual(self.wall_clock.look(), 0)
        self.assertEqual(self.wall_clock.now(), NOW + 5)


class ClockWatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.jump = 0.0
        self.told: list[float] = []
        self.watch = ClockWatch(self.clock, self.look, self.told.append)

    def look(self) -> float:
        """Return the jump once."""
        by, self.jump = self.jump, 0.0
        return by

    def test_once_a_second(self) -> None:
        self.watch.start()
        self.watch.start()
        for by in (-10800.0, 72000.0):
            self.jump = by
            with capturedLogs() as events:
                self.clock.pump([0.5] * 10)
            self.assertEqual([event["log_level"] for event in events], [LogLevel.warn])
        self.assertEqual(self.told, [-10800, 72000])

    def test_from_the_start_to_the_end(self) -> None:
        self.jump = 60.0
        self.watch.start()
        self.assertEqual(self.told, [60])
        self.watch.stop()
        self.watch.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
