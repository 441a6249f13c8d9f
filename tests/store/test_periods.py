"""Calendars."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.interfaces.store import Grouping
from ccmproxy.store.periods import period_start
from tests.profiles import examples

ZONES = sorted(available_timezones())
PERIODS = [each for each in Grouping if each.is_period]


def at(text: str, zone: str = "UTC") -> float:
    """The Unix seconds of a local time."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


class PeriodTests(SynchronousTestCase):
    """Where each period begins."""

    def starts(self, moment: float, zone: str) -> list[str]:
        """The beginnings of its hour, day, week and month, in local time."""
        local = ZoneInfo(zone)
        return [
            datetime.fromtimestamp(period_start(moment, each, local), local).strftime("%m-%d %H:%M")
            for each in PERIODS
        ]

    def test_an_ordinary_day(self) -> None:
        self.assertEqual(
            self.starts(at("2026-07-29 15:47:12", "Europe/Berlin"), "Europe/Berlin"),
            ["07-29 15:00", "07-29 00:00", "07-27 00:00", "07-01 00:00"],
        )

    def test_offsets_of_quarters_of_an_hour(self) -> None:
        self.assertEqual(
            self.starts(at("2026-01-01 00:44", "Asia/Kathmandu"), "Asia/Kathmandu"),
            ["01-01 00:00", "01-01 00:00", "12-29 00:00", "01-01 00:00"],
        )

    def test_days_with_23_and_25_hours(self) -> None:
        for day, hours in (("2026-03-29", 23), ("2026-10-25", 25), ("2026-10-26", 24)):
            begin = at(day, "Europe/Berlin")
            last = begin + hours * 3600 - 1
            zone = ZoneInfo("Europe/Berlin")
            self.assertEqual(period_start(last, Grouping.DAY, zone), begin)
            self.assertEqual(period_start(last + 1, Grouping.DAY, zone), last + 1)

    def test_an_hour_that_comes_twice_is_two(self) -> None:
        zone = ZoneInfo("Europe/Berlin")
        first = at("2026-10-25 02:00", "Europe/Berlin")
        self.assertEqual(period_start(first + 3599, Grouping.HOUR, zone), first)
        self.assertEqual(period_start(first + 3600, Grouping.HOUR, zone), first + 3600)

    def test_a_midnight_that_does_not_exist(self) -> None:
        zone = ZoneInfo("Africa/Cairo")  # clocks go from 24:00 to 01:00
        gap = datetime(2026, 4, 23, 22, tzinfo=UTC).timestamp()
        self.assertEqual(period_start(gap + 5, Grouping.DAY, zone), gap)
        self.assertEqual(period_start(gap - 5, Grouping.DAY, zone), gap - 24 * 3600)

    def test_a_gap_around_midnight(self) -> None:
        zone = ZoneInfo("America/Toronto")  # that day, clocks went from 23:30 to 00:30
        gap = datetime(1919, 3, 31, 4, 30, tzinfo=UTC).timestamp()
        self.assertEqual(datetime.fromtimestamp(gap, zone).strftime("%d %H:%M"), "31 00:30")
        self.assertEqual(period_start(gap, Grouping.DAY, zone), gap)

    def test_what_is_no_period(self) -> None:
        self.assertRaises(ValueError, period_start, 0.0, Grouping.MODEL, UTC)

    @given(st.integers(0, 4_000_000_000), st.sampled_from(PERIODS), st.sampled_from(ZONES))
    @examples(400)
    def test_whatever_the_zone(self, moment: int, period: Grouping, name: str) -> None:
        zone = ZoneInfo(name)
        start = period_start(moment, period, zone)
        self.assertLessEqual(start, moment)
        longest = {"hour": 1, "day": 49, "week": 8 * 24, "month": 32 * 24}[period.value]
        self.assertLess(moment - start, timedelta(hours=longest).total_seconds())
