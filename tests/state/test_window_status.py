"""What clients are told of windows."""

from __future__ import annotations

import math

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.limits import SHORT_WINDOW, WEEKLY_WINDOW
from ccmproxy.state.window_status import (
    WindowStatus,
    elapsed_fraction,
    overall_status,
    representative_claim,
    warning,
    window_status,
)

NOW = 1_800_000_000.0
RESET = NOW + 7200


class WarningTests(SynchronousTestCase):
    """What clients are told of a window (spec 8.3)."""

    def test_short(self) -> None:
        for utilization, elapsed, warned in (
            (90, 0.72, True),
            (90, 0.71, False),
            (89.9, 1.0, False),
            (100, 0.72, True),
        ):
            self.assertIs(warning("short", utilization, elapsed), warned, (utilization, elapsed))

    def test_weekly_first_bracket_decides(self) -> None:
        for utilization, elapsed, warned in (
            (75, 0.60, True),
            (80, 0.50, False),
            (74, 0.35, True),
            (50, 0.34, False),
            (49, 0.15, True),
            (25, 0.14, False),
            (24, 1.0, False),
        ):
            self.assertIs(warning("weekly", utilization, elapsed), warned, (utilization, elapsed))

    def test_elapsed(self) -> None:
        self.assertEqual(elapsed_fraction(NOW + 900, 3600, NOW), 0.75)
        self.assertEqual(elapsed_fraction(NOW + 7200, 3600, NOW), 0)
        self.assertEqual(elapsed_fraction(NOW - 1, 3600, NOW), 1)
        for resets_at, length in ((0, 3600), (NOW, 0), (math.inf, 3600)):
            self.assertEqual(elapsed_fraction(resets_at, length, NOW), 0)

    def test_status_of_a_window(self) -> None:
        at_72_percent = NOW + 0.28 * SHORT_WINDOW
        self.assertTrue(window_status("short", 90.0, at_72_percent, NOW).warning)
        self.assertFalse(window_status("short", 90.0, at_72_percent + 1, NOW).warning)
        self.assertFalse(window_status("short", 90.0, 0.0, NOW).warning)
        self.assertTrue(window_status("weekly", 25.0, NOW + 0.85 * WEEKLY_WINDOW - 1, NOW).surpassed)
        full = window_status("weekly", 100.0, 0.0, NOW)
        self.assertTrue(full.surpassed and full.exhausted and not full.warning)

    def test_claim(self) -> None:
        def claim(short: WindowStatus, weekly: WindowStatus) -> str:
            return representative_claim(short, weekly).kind

        def short(utilization: float, warned: bool = False, resets_at: float = RESET) -> WindowStatus:
            return WindowStatus("short", utilization, resets_at, warned)

        def weekly(utilization: float, warned: bool = False) -> WindowStatus:
            return WindowStatus("weekly", utilization, RESET, warned)

        self.assertEqual(claim(short(10), weekly(20)), "weekly")
        self.assertEqual(claim(short(30), weekly(20)), "short")
        self.assertEqual(claim(short(90), weekly(25, warned=True)), "weekly")
        self.assertEqual(claim(short(90, warned=True), weekly(100)), "weekly")
        self.assertEqual(claim(short(100), weekly(90, warned=True)), "short")
        self.assertEqual(claim(short(20), weekly(20)), "short")
        self.assertEqual(claim(short(20, resets_at=0), weekly(20)), "weekly")

    def test_overall(self) -> None:
        idle, warned = WindowStatus("short", 1, 0, False), WindowStatus("weekly", 80, 0, True)
        full = WindowStatus("weekly", 100, 0, False)
        self.assertEqual(overall_status(idle, idle, False), "allowed")
        self.assertEqual(overall_status(idle, warned, False), "allowed_warning")
        self.assertEqual(overall_status(idle, full, False), "rejected")
        self.assertEqual(overall_status(idle, idle, True), "rejected")
