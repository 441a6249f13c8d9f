"""What is kept of records beside them: their sums by time, and by what they have in common. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ccmproxy.store.stored_record import StoredRecord

#: Length of the shortest period (seconds). The offsets of all time zones are multiples of it.
QUARTER: Final = 900
#: Length of a day of UTC (seconds).
DAY: Final = 86_400

#: What is summed: columns of both tables, in their order.
SUMS: Final = (
    "requests",
    "input",
    "output",
    "cache_read",
    "cache_creation",
    "cache_creation_5m",
    "cache_creation_1h",
    "reasoning",
    "cost_nano_usd",
    "unpriced",
    "incomplete",
    "estimated",
    "extra",
)
#: The key of a roll-up: columns in their order.
KEY: Final = ("quarter", "service", "credential", "user_name", "model")
#: The key of a day's roll-up.
DAILY_KEY: Final = ("day", "service", "credential", "user_name", "model")
#: The key of a session's roll-up.
SESSION_KEY: Final = ("session", "day", "service", "credential", "user_name", "model")


#: What is summed by, and the sums in the order of SUMS.
Sums = Mapping[tuple[int | str, ...], list[int]]


@dataclass(frozen=True, slots=True)
class Rollups:
    """Sums of records: ``by_quarter`` by KEY, ``by_day`` by DAILY_KEY, ``by_session`` by SESSION_KEY."""

    by_quarter: Sums
    by_day: Sums
    by_session: Sums


def quarter_of(moment: float) -> int:
    """Return when the quarter of an hour began that ``moment`` is in (Unix seconds, both; not negative)."""
    return int(moment) // QUARTER * QUARTER


def roll_up(records: Iterable[StoredRecord]) -> Rollups:
    """Return the sums of ``records``."""
    by_quarter: dict[tuple[int | str, ...], list[int]] = {}
    by_day: dict[tuple[int | str, ...], list[int]] = {}
    by_session: dict[tuple[int | str, ...], list[int]] = {}
    for record in records:
        quarter = quarter_of(record.started_at)
        shared = (record.service, record.credential, record.user_name, record.model)
        values = _values(record)
        day = quarter // DAY * DAY
        for sums, key in (
            (by_quarter, (quarter, *shared)),
            (by_day, (day, *shared)),
            (by_session, (record.session, day, *shared)),
        ):
            found = sums.get(key)
            sums[key] = values if found is None else [a + b for a, b in zip(found, values, strict=True)]
    return Rollups(by_quarter, by_day, by_session)


def _values(record: StoredRecord) -> list[int]:
    return [
        1,
        record.input,
        record.output,
        record.cache_read,
        record.cache_creation,
        record.cache_creation_5m,
        record.cache_creation_1h,
        record.reasoning,
        record.cost_nano_usd or 0,
        int(record.cost_nano_usd is None),
        record.is_incomplete,
        record.is_estimated,
        record.is_extra,
    ]
