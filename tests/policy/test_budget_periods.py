"""Days, weeks and months begin at local midnight, whatever the clocks of the zone do (spec 9.6)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.budget_periods import FIVE_HOURS, Per, Period, period_of
from tests.profiles import examples

HOUR = 3600.0
CALENDAR = (Per.DAY, Per.WEEK, Per.MONTH)
#: All of them change to and from summer time every year: at 2 and 3 o'clock, by half an hour, and at midnight.
SUMMER_TIME = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "America/Santiago")
#: Midnight that exists twice, clocks that go back over it, a day that was left out, no summer time, half hours.
OTHERS = ("America/Havana", "America/St_Johns", "Pacific/Apia", "Asia/Beirut", "Asia/Kathmandu", "UTC")
zones = st.sampled_from([*SUMMER_TIME, *OTHERS]).map(ZoneInfo)
#: 1975 to 2037: what all databases of zones agree to tell.
moments = st.floats(min_value=157_766_400, max_value=2_145_916_800)


def at(zone: ZoneInfo, *numbers: int) -> float:
    """The moment of a local date and time that exists once."""
    return datetime(*numbers, tzinfo=zone).timestamp()  # type: ignore[arg-type,misc]


def local(moment: float, zone: ZoneInfo) -> str:
    """Date and time as a clock in the zone shows them."""
    return f"{datetime.fromtimestamp(moment, zone):%Y-%m-%d %H:%M}"


def local_date(moment: float, zone: ZoneInfo) -> date:
    return datetime.fromtimestamp(moment, zone).date()


def changes(zone: ZoneInfo, years: range) -> Iterator[tuple[float, float]]:
    """All changes of the offset from UTC: the moment, and by how much (seconds)."""
    moment = datetime(years.start, 1, 1, tzinfo=UTC).timestamp()
    end = datetime(years.stop, 1, 1, tzinfo=UTC).timestamp()
    before = offset(moment, zone)
    while moment < end:
        moment += HOUR / 2
        after = offset(moment, zone)
        if after != before:
            yield moment, after - before
        before = after


def offset(moment: float, zone: ZoneInfo) -> float:
    found = datetime.fromtimestamp(moment, zone).utcoffset()
    assert found is not None
    return found.total_seconds()


def first_moment(day: date, zone: ZoneInfo) -> float:
    """The first moment of a local date, sought minute by minute."""
    moment = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() - 16 * HOUR
    while local_date(moment, zone) < day:
        moment += 60
    return moment


class TableTests(SynchronousTestCase):
    """Days that are worked out by hand from the published dates."""

    def test_days_of_a_change(self) -> None:
        for name, day, begins, hours in (
            ("Europe/Berlin", (2026, 3, 29), "2026-03-29 00:00", 23),
            ("Europe/Berlin", (2026, 10, 25), "2026-10-25 00:00", 25),
            ("America/New_York", (2026, 3, 8), "2026-03-08 00:00", 23),
            ("America/New_York", (2026, 11, 1), "2026-11-01 00:00", 25),
            ("Australia/Lord_Howe", (2026, 4, 5), "2026-04-05 00:00", 24.5),
            ("Australia/Lord_Howe", (2026, 10, 4), "2026-10-04 00:00", 23.5),
            # Midnight does not exist.
            ("Africa/Cairo", (2026, 4, 24), "2026-04-24 01:00", 23),
            ("America/Santiago", (2026, 9, 6), "2026-09-06 01:00", 23),
            # At midnight it becomes 23:00 again.
            ("Africa/Cairo", (2026, 10, 29), "2026-10-29 00:00", 25),
            ("America/Santiago", (2026, 4, 4), "2026-04-04 00:00", 25),
            # Midnight exists twice.
            ("America/Havana", (2026, 11, 1), "2026-11-01 00:00", 25),
            # A minute after midnight it became 23:01 again; the new date had begun.
            ("America/St_Johns", (2010, 11, 6), "2010-11-06 00:00", 24),
            ("America/St_Johns", (2010, 11, 7), "2010-11-07 00:00", 25),
            # The 30th was left out.
            ("Pacific/Apia", (2011, 12, 29), "2011-12-29 00:00", 24),
            ("Pacific/Apia", (2011, 12, 31), "2011-12-31 00:00", 24),
        ):
            zone = ZoneInfo(name)
            found = period_of(Per.DAY, at(zone, *day, 12), zone)
            self.assertEqual(local(found.start, zone), begins, name)
            self.assertEqual((found.end - found.start) / HOUR, hours, f"{name} {day}")

    def test_midnight_that_exists_twice_begins_once(self) -> None:
        zone = ZoneInfo("America/Havana")
        first = datetime(2026, 11, 1, 0, 0, tzinfo=zone).timestamp()
        second = datetime(2026, 11, 1, 0, 0, tzinfo=zone, fold=1).timestamp()
        self.assertEqual(second - first, HOUR)
        self.assertEqual(period_of(Per.DAY, second, zone).start, first)
        self.assertEqual(period_of(Per.DAY, first - 1, zone).end, first)

    def test_clocks_that_go_back_over_midnight(self) -> None:
        # A minute after midnight it was 23:01 again, of the day before.
        zone = ZoneInfo("America/St_Johns")
        midnight = datetime(2010, 11, 7, tzinfo=zone).timestamp()
        self.assertEqual(local(midnight + 60, zone), "2010-11-06 23:01")
        for per, day in ((Per.DAY, 7), (Per.WEEK, 1), (Per.MONTH, 1)):
            for seconds in (0, 59, 60, 1800, HOUR, 2 * HOUR):
                found = period_of(per, midnight + seconds, zone)
                self.assertEqual(local(found.start, zone), f"2010-11-0{day} 00:00")
        self.assertEqual(period_of(Per.DAY, midnight + 1800, zone).start, midnight)

    def test_a_gap_from_before_midnight_until_after_it(self) -> None:
        # In 1919 Toronto's clocks went from 23:30 to 00:30.
        zone = ZoneInfo("America/Toronto")
        begins = datetime(1919, 3, 31, 4, 30, tzinfo=UTC).timestamp()
        self.assertEqual(local(begins - 60, zone), "1919-03-30 23:29")
        for moment in (begins, begins + 60, begins + 12 * HOUR):
            self.assertEqual(period_of(Per.DAY, moment, zone).start, begins)
        self.assertEqual(period_of(Per.DAY, begins - 1, zone).end, begins)

    def test_weeks_begin_on_monday(self) -> None:
        zone = ZoneInfo("Europe/Berlin")
        for day in range(23, 30):
            found = period_of(Per.WEEK, at(zone, 2026, 3, day, 23, 59), zone)
            self.assertEqual(local(found.start, zone), "2026-03-23 00:00")
            self.assertEqual(local(found.end, zone), "2026-03-30 00:00")
            self.assertEqual((found.end - found.start) / HOUR, 7 * 24 - 1)

    def test_weeks_over_the_end_of_a_year(self) -> None:
        zone = ZoneInfo("UTC")
        found = period_of(Per.WEEK, at(zone, 2027, 1, 1), zone)
        self.assertEqual((local(found.start, zone), local(found.end, zone)),
                         ("2026-12-28 00:00", "2027-01-04 00:00"))  # fmt: skip

    def test_months(self) -> None:
        for name, moment, begins, ends in (
            ("Europe/Berlin", (2026, 3, 31, 23, 59), "2026-03-01 00:00", "2026-04-01 00:00"),
            ("Europe/Berlin", (2026, 12, 1, 0, 0), "2026-12-01 00:00", "2027-01-01 00:00"),
            ("Europe/Berlin", (2027, 1, 31, 12, 0), "2027-01-01 00:00", "2027-02-01 00:00"),
            # Leap years.
            ("America/New_York", (2028, 2, 29, 23, 59), "2028-02-01 00:00", "2028-03-01 00:00"),
            ("America/New_York", (2027, 2, 28, 23, 59), "2027-02-01 00:00", "2027-03-01 00:00"),
            # Beirut changed to summer time at the midnight that began a month.
            ("Asia/Beirut", (1984, 5, 10, 12, 0), "1984-05-01 01:00", "1984-06-01 00:00"),
        ):
            zone = ZoneInfo(name)
            found = period_of(Per.MONTH, at(zone, *moment), zone)
            self.assertEqual((local(found.start, zone), local(found.end, zone)), (begins, ends))

    def test_a_leap_day(self) -> None:
        zone = ZoneInfo("Europe/Berlin")
        found = period_of(Per.DAY, at(zone, 2028, 2, 29, 12), zone)
        self.assertEqual((local(found.start, zone), local(found.end, zone)),
                         ("2028-02-29 00:00", "2028-03-01 00:00"))  # fmt: skip
        month = period_of(Per.MONTH, at(zone, 2028, 2, 29, 12), zone)
        self.assertEqual((month.end - month.start) / HOUR, 29 * 24)

    def test_the_last_microseconds_of_a_day(self) -> None:
        zone = ZoneInfo("UTC")
        midnight = at(zone, 2026, 5, 5)
        self.assertEqual(period_of(Per.DAY, midnight - 2e-7, zone).end, midnight)

    def test_five_hours_begin_when_they_are_asked_for(self) -> None:
        self.assertEqual(
            period_of(Per.FIVE_HOURS, 1234.5, ZoneInfo("UTC")), Period(1234.5, 1234.5 + FIVE_HOURS)
        )

    def test_the_start_belongs_to_it_and_the_end_does_not(self) -> None:
        period = Period(10.0, 20.0)
        self.assertEqual([moment in period for moment in (9.9, 10.0, 19.9, 20.0)], [False, True, True, False])


class ChangeTests(SynchronousTestCase):
    """Every change to and from summer time of eight years."""

    def test_days_around_every_change(self) -> None:
        for name in SUMMER_TIME:
            zone = ZoneInfo(name)
            found = list(changes(zone, range(2024, 2032)))
            self.assertGreaterEqual(len(found), 15, name)
            for moment, by in found:
                day = period_of(Per.DAY, moment - 1, zone)
                lengths = 0.0
                for _ in range(3):
                    lengths += day.end - day.start
                    self.assertEqual(day.start, first_moment(local_date(day.start, zone), zone))
                    day = period_of(Per.DAY, day.end, zone)
                self.assertEqual(lengths, 72 * HOUR - by, f"{name} {local(moment, zone)}")

    def test_weeks_and_months_around_every_change(self) -> None:
        for name in SUMMER_TIME:
            zone = ZoneInfo(name)
            for moment, by in changes(zone, range(2024, 2032)):
                week = period_of(Per.WEEK, moment - 1, zone)
                after = period_of(Per.WEEK, week.end, zone)
                self.assertEqual(after.end - week.start, 14 * 24 * HOUR - by)
                self.assertEqual(local_date(week.start, zone).isoweekday(), 1)
                for around in (moment - 1, moment):
                    month = period_of(Per.MONTH, around, zone)
                    self.assertEqual(local_date(month.start, zone).day, 1)
                    self.assertEqual(month.start, first_moment(local_date(month.start, zone), zone))


class PropertyTests(SynchronousTestCase):
    """At any time, in zones with all peculiarities."""

    @given(st.sampled_from(CALENDAR), moments, zones)
    @examples(300)
    def test_every_moment_lies_in_one_period(self, per: Per, moment: float, zone: ZoneInfo) -> None:
        found = period_of(per, moment, zone)
        self.assertIn(moment, found)
        self.assertEqual(period_of(per, found.start, zone), found)
        self.assertEqual(period_of(per, found.end - 0.001, zone), found)
        self.assertEqual(period_of(per, found.end, zone).start, found.end)
        self.assertEqual(period_of(per, found.start - 0.001, zone).end, found.start)

    @given(st.sampled_from(CALENDAR), moments, zones)
    @examples(100)
    def test_it_begins_with_the_first_moment_of_a_date(self, per: Per, moment: float, zone: ZoneInfo) -> None:
        found = period_of(per, moment, zone)
        day = local_date(found.start, zone)
        self.assertEqual(found.start, first_moment(day, zone))
        self.assertLess(local_date(found.start - 1, zone), day)
        if per is Per.WEEK and zone.key != "Pacific/Apia":
            self.assertEqual(day.isoweekday(), 1)
        if per is Per.MONTH:
            self.assertEqual(day.day, 1)

    @given(moments, zones)
    @examples(100)
    def test_days_make_up_weeks_and_months(self, moment: float, zone: ZoneInfo) -> None:
        for per in (Per.WEEK, Per.MONTH):
            longer = period_of(per, moment, zone)
            day = period_of(Per.DAY, longer.start, zone)
            self.assertEqual(day.start, longer.start)
            last = period_of(Per.DAY, longer.end - 1, zone)
            self.assertEqual(last.end, longer.end)
            days = round((longer.end - longer.start) / timedelta(days=1).total_seconds())
            self.assertIn(days, (7, 6) if per is Per.WEEK else (28, 29, 30, 31))
