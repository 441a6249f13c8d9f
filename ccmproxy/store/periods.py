"""Where hours, days, weeks and months begin in a time zone's calendar. Pure."""

from __future__ import annotations

from datetime import datetime, tzinfo

from ccmproxy.interfaces.store import Grouping
from ccmproxy.state.local_dates import first_moment, local_date, week_of


def period_start(moment: float, period: Grouping, zone: tzinfo) -> float:
    """Return when the ``period`` of ``zone`` began that ``moment`` is in (Unix seconds, both), never later than it.

    A day begins at the first moment of its date (:mod:`ccmproxy.state.local_dates`); it has 23 or 25 hours where clocks
    are set within it. Raises ValueError for a grouping that is no period.
    """
    if period is Grouping.HOUR:
        local = datetime.fromtimestamp(moment, zone)
        # What has passed of the hour is counted back in real time: an hour that comes twice is two.
        return moment - (local.minute * 60 + local.second + local.microsecond / 1e6)
    day = local_date(moment, zone)
    if period is Grouping.WEEK:
        day = week_of(day)
    elif period is Grouping.MONTH:
        day = day.replace(day=1)
    elif period is not Grouping.DAY:
        raise ValueError(f"{period.value} is no period")
    return min(first_moment(day, zone), moment)
