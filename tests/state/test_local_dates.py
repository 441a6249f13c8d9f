"""Tests for :mod:`ccmproxy.state.local_dates`."""

from __future__ import annotations

from datetime import UTC, date, datetime
from math import nextafter
from zoneinfo import ZoneInfo, available_timezones

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.local_dates import first_moment, local_date, week_of
from tests.profiles import examples

ZONES = sorted(available_timezones())


class LocalDateTests(SynchronousTestCase):
    """Where dates begin, whatever the clocks do."""

    def test_first_moments(self) -> None:
        for name, day, began in (
            ("Europe/Berlin", date(2026, 7, 29), "2026-07-28T22:00"),
            ("Africa/Cairo", date(2026, 4, 24), "2026-04-23T22:00"),  # from 24:00 to 01:00
            ("America/Havana", date(2026, 11, 1), "2026-11-01T04:00"),  # midnight comes twice
            ("America/Toronto", date(1919, 3, 31), "1919-03-31T04:30"),  # from 23:30 to 00:30
        ):
            expected = datetime.fromisoformat(began).replace(tzinfo=UTC).timestamp()
            self.assertEqual(first_moment(day, ZoneInfo(name)), expected, name)

    def test_the_last_moment_of_a_day(self) -> None:
        midnight = datetime(2026, 1, 2, tzinfo=UTC).timestamp()
        self.assertEqual(local_date(nextafter(midnight, 0.0), UTC), date(2026, 1, 1))
        self.assertEqual(local_date(midnight, UTC), date(2026, 1, 2))

    def test_weeks(self) -> None:
        for day in range(27, 32):
            self.assertEqual(week_of(date(2026, 7, day)), date(2026, 7, 27))
        self.assertEqual(week_of(date(2026, 7, 26)), date(2026, 7, 20))

    @examples(300)
    @given(st.dates(date(1975, 1, 1), date(2060, 1, 1)), st.sampled_from(ZONES))
    def test_before_it_there_is_another_date(self, day: date, name: str) -> None:
        zone = ZoneInfo(name)
        began = first_moment(day, zone)
        self.assertGreaterEqual(local_date(began, zone), day)
        self.assertLess(local_date(began - 1, zone), day)
