"""The periods of budgets: when each begins and ends in the local time of a zone (spec 9.6). Pure.

A day begins at the first moment of its date (:mod:`ccmproxy.state.local_dates`). So a period lasts an hour more or less
when summer time changes, periods follow each other without a gap, and every moment lies in exactly one of each kind.
Moments are Unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta, tzinfo
from enum import Enum

from ccmproxy.state.local_dates import first_moment, local_date, week_of

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
    first = _first_date(per, local_date(at, zone))
    following = _next_date(per, first)
    # Where the clocks go back over midnight (St. John's did, from 00:01), the old date is shown again although the new
    # one has begun.
    while (end := first_moment(following, zone)) <= at:
        first, following = following, _next_date(per, following)
    return Period(first_moment(first, zone), end)


def _first_date(per: Per, day: date) -> date:
    if per is Per.WEEK:
        return week_of(day)
    return day.replace(day=1) if per is Per.MONTH else day


def _next_date(per: Per, first: date) -> date:
    if per is Per.MONTH:
        return (first + timedelta(days=31)).replace(day=1)
    return first + timedelta(days=7 if per is Per.WEEK else 1)
