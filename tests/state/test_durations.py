"""Durations, formatted for people."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.durations import format_duration


class FormatDurationTests(SynchronousTestCase):
    """The two largest units."""

    def test_units(self) -> None:
        for seconds, text in (
            (-3, "0s"),
            (0.2, "1s"),
            (59, "59s"),
            (60, "1m"),
            (61, "1m1s"),
            (7980, "2h13m"),
            (7200, "2h"),
            (86400, "1d"),
            (4 * 86400 + 3 * 3600 + 59, "4d3h"),
        ):
            self.assertEqual(format_duration(seconds), text)
