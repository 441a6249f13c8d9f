"""The dates of a time zone, and the moments at which they begin. Pure.

A date begins at its first moment, whatever the clocks of the zone do then: where midnight does not exist that is later
than 00:00 (Cairo, Santiago in spring), and where it exists twice it is the first one (Havana in autumn). Moments are
Unix seconds.

The zone is an argument. Whoever reads a configuration makes it from its name: ``zoneinfo.ZoneInfo`` reads files.
"""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta, tzinfo


def local_date(at: float, zone: tzinfo) -> date:
    """Return the date that a calendar of ``zone`` shows at ``at``.

    Raises OverflowError, OSError or ValueError for a moment outside of the years 1 to 9999.
    """
    # A fraction is cut off: rounded to microseconds, the last moment of a day would be one of the next.
    return datetime.fromtimestamp(math.floor(at), zone).date()


def week_of(day: date) -> date:
    """Return the first day of the week that ``day`` is in, as in ISO 8601: Monday."""
    return day - timedelta(days=day.weekday())


def first_moment(day: date, zone: tzinfo) -> float:
    """Return the first moment at which the local date is ``day``, or a later one where ``day`` is left out."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    with_offset_before = midnight.timestamp()
    with_offset_after = midnight.replace(fold=1).timestamp()
    if with_offset_before <= with_offset_after:
        return with_offset_before
    # Midnight does not exist. The clocks go forward between these two, and the new date begins with that.
    low, high = int(with_offset_after), int(with_offset_before)
    while low < high:
        middle = (low + high) // 2
        if local_date(middle, zone) >= day:
            high = middle
        else:
            low = middle + 1
    return float(low)
