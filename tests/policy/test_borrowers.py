"""What a 429 tells another instance (spec 14)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.borrowers import DEFAULT_WAIT, ToldLimit, told_limit
from ccmproxy.state.availability import Availability

NOW = 1_800_000_000.0
HOUR = 3600.0


def used_up(reason: str, seconds: float) -> Availability:
    """Everything is used up for this reason, for so long; 0: nobody knows for how long."""
    return Availability("rate_limited", reason, "used up", NOW + seconds if seconds else 0.0)


class ToldTests(SynchronousTestCase):
    """A table: the answer, and until when the instance leaves us alone."""

    def test_used_up(self) -> None:
        for reason, seconds, window in (
            ("short_window", 2 * HOUR, "short"),
            ("weekly_window", 2 * HOUR, "weekly"),
            ("weekly_window", 100 * HOUR, "weekly"),
            ("rate_limited", 2 * HOUR, "short"),
            ("rate_limited", 100 * HOUR, "weekly"),
        ):
            told = told_limit(used_up(reason, seconds), None, NOW)
            self.assertEqual((told.window, told.resets_at), (window, NOW + seconds), (reason, seconds))

    def test_the_time_is_not_too_early(self) -> None:
        self.assertEqual(told_limit(used_up("short_window", HOUR + 0.1), None, NOW).resets_at, NOW + HOUR + 1)

    def test_what_closes_less_than_all_is_soon_over(self) -> None:
        """Other models are served: the instance must not leave us alone for days because of one."""
        self.assertEqual(
            told_limit(used_up("model_window", 100 * HOUR), None, NOW), ToldLimit("short", int(NOW) + 60)
        )

    def test_nobody_knows_until_when(self) -> None:
        for seconds, expected in ((0, 60), (-5, 60), (30, 30), (0.2, 1)):
            told = told_limit(used_up("rate_limited", seconds), None, NOW)
            self.assertEqual(told, ToldLimit("short", int(NOW) + expected), seconds)

    def test_short_waits(self) -> None:
        for wait, expected in ((None, DEFAULT_WAIT), (0.0, 1), (7.0, 7), (7.2, 8), (60.0, 60), (86400.0, 60)):
            self.assertEqual(told_limit(None, wait, NOW), ToldLimit("short", int(NOW + expected)), wait)
