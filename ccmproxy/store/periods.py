"""Where hours, days, weeks and months begin in a time zone's calendar. Pure."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, tzinfo

from ccmproxy.interfaces.store import Grouping


def period_start(moment: float, period: Grouping, zone: tzinfo) -> float:
    """Return when the ``period`` of ``zone`` began that ``moment`` is in (Unix seconds, both), never later than it.

    A day begins at midnight, or where clocks are set forward at midnight, then; it has 23 or 25 hours where they are
    set within it. Raises ValueError for a grouping that is no period.
    """
    local = datetime.fromtimestamp(moment, zone)
    if period is Grouping.HOUR:
        # What has passed of the hour is counted back in real time: an hour that comes twice is two.
        return moment - (local.minute * 60 + local.second + local.microsecond / 1e6)
    day = local.date()
    if period is Grouping.WEEK:
        day -= timedelta(days=day.weekday())
    elif period is Grouping.MONTH:
        day = day.replace(day=1)
    elif period is not Grouping.DAY:
        raise ValueError(f"{period.value} is no period")
    return min(_midnight(day, zone), moment)


def _midnight(day: date, zone: tzinfo) -> float:
    # In a gap of the clocks, the time before it is taken, which is the moment of the gap itself.
    return datetime.combine(day, time.min, zone).timestamp()
