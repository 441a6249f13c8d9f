"""The periods of budgets: when each begins and ends in the local time of a zone (spec 9.6). Pure.

A day begins at the first moment of its date, whatever the clocks of the zone do then: where midnight does not exist
that is later than 00:00 (Cairo, Santiago in spring), and where it exists twice it is the first one (Havana in autumn).
So a period lasts an hour more or less when summer time changes, periods follow each other without a gap, and every
moment lies in exactly one of each kind. Moments are Unix seconds.

The zone is an argument. Whoever reads a configuration makes it from its name: ``zoneinfo.ZoneInfo`` reads files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from enum import Enum

#: A period of five hours (seconds). It is a duration, and knows no summer time.
FIVE_HOURS = 5 * 3600.0


class Per(Enum):
    """How long a budget lasts, by its word in the configuration."""

    #: Begins with the first use after the last one ended.
    FIVE_HOURS = "5h"
    DAY = "day"
    #: As in ISO 8601: begins on Monday.
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Period:
    """``start`` belongs to it, ``end`` to the next one (Unix seconds)."""

    start: float
    end: float

    def __contains__(self, at: float) -> bool:
        return self.start <= at < self.end


def period_of(per: Per, at: float, zone: tzinfo) -> Period:
    """Return the period that contains ``at``; for five hours, the one that begins then.

    Raises OverflowError, OSError or ValueError for a moment outside of the years 1 to 9999.
    """
    if per is Per.FIVE_HOURS:
        return Period(at, at + FIVE_HOURS)
    first = _first_date(per, _local_date(at, zone))
    following = _next_date(per, first)
    # Where the clocks go back over midnight (St. John's did, from 00:01), the old date is shown again although the new
    # one has begun.
    while (end := _first_moment(following, zone)) <= at:
        first, following = following, _next_date(per, following)
    return Period(_first_moment(first, zone), end)


def _local_date(at: float, zone: tzinfo) -> date:
    # A fraction is cut off: rounded to microseconds, the last moment of a day would be one of the next.
    return datetime.fromtimestamp(math.floor(at), zone).date()


def _first_date(per: Per, day: date) -> date:
    if per is Per.WEEK:
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if per is Per.MONTH else day


def _next_date(per: Per, first: date) -> date:
    if per is Per.MONTH:
        return (first + timedelta(days=31)).replace(day=1)
    return first + timedelta(days=7 if per is Per.WEEK else 1)


def _first_moment(day: date, zone: tzinfo) -> float:
    """The first moment at which the local date is ``day``, or a later one where ``day`` is left out."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    with_offset_before = midnight.timestamp()
    with_offset_after = midnight.replace(fold=1).timestamp()
    if with_offset_before <= with_offset_after:
        return with_offset_before
    # Midnight does not exist. The clocks go forward between these two, and the new date begins with that.
    low, high = int(with_offset_after), int(with_offset_before)
    while low < high:
        middle = (low + high) // 2
        if _local_date(middle, zone) >= day:
            high = middle
        else:
            low = middle + 1
    return float(low)
