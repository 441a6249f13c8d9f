"""The store in an SQLite database: the side of its readers."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from zope.interface import implementer

from ccmproxy.interfaces.store import (
    EARLIEST,
    LATEST,
    MOST_ROWS,
    Grouping,
    IStoreReader,
    UsageQuestion,
    UsageReport,
    UsageRow,
)
from ccmproxy.store.hold import same_file
from ccmproxy.store.periods import period_start
from ccmproxy.store.rollups import DAY, QUARTER, SUMS, quarter_of
from ccmproxy.store.sqlite_copies import find_problems, write_copy
from ccmproxy.store.sqlite_errors import store_error, store_errors, unusable
from ccmproxy.store.sqlite_files import (
    MOUNT_TABLE,
    connect,
    real_path,
    refuse_network,
    require_file,
)
from ccmproxy.store.sqlite_schema import known_migrations, read_schema
from ccmproxy.store.stored_record import kept_text, usd

#: Seconds to wait for a lock. A writer keeps readers waiting only where the log is recovered after a crash.
PATIENCE: Final = 5.0

#: What is no period → its column.
_COLUMNS: Final = {
    Grouping.MODEL: "model",
    Grouping.USER: "user_name",
    Grouping.CREDENTIAL: "credential",
    Grouping.SESSION: "session",
}
#: SUMS of a single record.
_SUMS_OF_RECORD: Final = """
    1 AS requests, input, output, cache_read, cache_creation, cache_creation_5m, cache_creation_1h, reasoning,
    coalesce(cost_nano_usd, 0) AS cost_nano_usd, cost_nano_usd IS NULL AS unpriced, is_incomplete AS incomplete,
    is_estimated AS estimated, is_extra AS extra
"""
_TOTALS: Final = ", ".join(f"sum({name}) AS {name}" for name in SUMS)


@implementer(IStoreReader)
class SQLiteReader:
    """Reads the store in the file ``path``, which must be there. Raises StoreUnusable and StoreFailed.

    ``patience``: seconds to wait for a lock. ``mount_table``: a file that says what is mounted.
    """

    def __init__(self, path: str, *, patience: float = PATIENCE, mount_table: str = MOUNT_TABLE) -> None:
        self._path = real_path(path)
        self._connection: sqlite3.Connection | None = None
        with store_errors(self._path):
            refuse_network(self._path, mount_table)
            require_file(self._path)
            self._file = os.stat(self._path)
            connection = connect(self._path, patience, read_only=True)
            try:
                newest = max(each.number for each in known_migrations())
                if read_schema(connection, self._path, newest).version < newest:
                    raise unusable(self._path, "no daemon of this version has brought it up to date yet")
            except BaseException:
                connection.close()
                raise
        self._connection = connection

    def usage(self, question: UsageQuestion) -> UsageReport:
        with self._snapshot() as connection:
            if question.by.is_period:
                return _by_period(connection, question)
            return _by_name(connection, question)

    def check(self) -> tuple[str, ...]:
        with self._snapshot() as connection:
            return find_problems(connection)

    def backup(self, path: str) -> None:
        with self._snapshot():
            pass  # so that what is wrong with the store itself is told as such
        assert self._connection is not None
        write_copy(self._connection, path)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """The connection, which sees one state of the store meanwhile. Raises StoreUnusable and StoreFailed."""
        connection = self._connection
        if connection is None:
            raise unusable(self._path, "it is not open")
        try:
            if not same_file(self._path, self._file):
                raise unusable(self._path, "its file was deleted, or another took its place")
            connection.execute("BEGIN")
            yield connection
        except (sqlite3.Error, OSError) as error:
            raise store_error(error, self._path) from error
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _by_period(connection: sqlite3.Connection, question: UsageQuestion) -> UsageReport:
    """From the latest period with any use to the earliest, so that times without any cost nothing."""
    since, end = _quarters(question)
    rows: list[UsageRow] = []
    while len(rows) <= MOST_ROWS:
        latest = connection.execute(
            "SELECT quarter FROM rollups WHERE quarter >= ? AND quarter < ? ORDER BY quarter DESC LIMIT 1",
            (since, end),
        ).fetchone()
        if latest is None:
            break
        start = max(quarter_of(period_start(latest[0], question.by, question.zone)), since)
        source, values = _source(question, start, end)
        found = connection.execute(f"SELECT {_TOTALS} FROM {source}", values).fetchone()
        if found[0]:
            rows.append(_row(float(start), "", found))
        end = start
    return UsageReport(tuple(reversed(rows[:MOST_ROWS])), len(rows) > MOST_ROWS)


def _by_name(connection: sqlite3.Connection, question: UsageQuestion) -> UsageReport:
    source, values = _source(question, *_quarters(question))
    found = connection.execute(
        f"SELECT name, {_TOTALS} FROM {source} GROUP BY name"
        " ORDER BY sum(cost_nano_usd) DESC, sum(requests) DESC, name LIMIT ?",
        (*values, MOST_ROWS + 1),
    ).fetchall()
    rows = tuple(_row(None, name, sums) for name, *sums in found[:MOST_ROWS])
    return UsageReport(rows, len(found) > MOST_ROWS)


def _source(question: UsageQuestion, since: int, until: int) -> tuple[str, list[int | str]]:
    """What to select from for the time from ``since`` up to ``until``, and the values of its parameters: rows that have
    SUMS, and a name where ``question`` is not about periods."""
    conditions, values = _conditions(question)
    column = _COLUMNS.get(question.by, "''")
    parts: list[str] = []
    parameters: list[int | str] = []
    for table, begin, first, end in _parts(question.by, since, until):
        sums = _SUMS_OF_RECORD if table == "records" else ", ".join(SUMS)
        parts.append(
            f"SELECT {column} AS name, {sums} FROM {table} WHERE {begin} >= ? AND {begin} < ?{conditions}"
        )
        parameters += [first, end, *values]
    return f"({' UNION ALL '.join(parts)})", parameters


def _parts(by: Grouping, since: int, until: int) -> list[tuple[str, str, int, int]]:
    """Where the sums from ``since`` up to ``until`` are: table, its column of time, and the part of the time.

    Days are read where the time has whole days of UTC; before and after them, quarters of an hour are, or, as there are
    none of sessions, the records.
    """
    if by is Grouping.SESSION:
        whole, rest, begin = "session_rollups", "records", "started_at"
    else:
        whole, rest, begin = "daily_rollups", "rollups", "quarter"
    first, last = -(-since // DAY) * DAY, until // DAY * DAY
    if first >= last:
        return [(rest, begin, since, until)]
    parts = [(rest, begin, since, first), (whole, "day", first, last), (rest, begin, last, until)]
    return [each for each in parts if each[2] < each[3]]  # one part alone may need no sorting


def _quarters(question: UsageQuestion) -> tuple[int, int]:
    """The quarters that count: from the first one up to the second, which is excluded."""
    since, until = (min(max(each, EARLIEST), LATEST) for each in (question.since, question.until))
    return quarter_of(since), -(-int(-(-until // 1)) // QUARTER) * QUARTER


def _conditions(question: UsageQuestion) -> tuple[str, list[str]]:
    """What the filters add to a condition, and its values."""
    wanted = {
        "user_name": question.user,
        "service": question.service,
        "credential": question.credential,
        "model": question.model,
    }
    given = {column: kept_text(value) for column, value in wanted.items() if value is not None}
    return "".join(f" AND {column} = ?" for column in given), list(given.values())


def _row(starts_at: float | None, name: str, sums: Sequence[Any]) -> UsageRow:
    totals: dict[str, Any] = dict(zip(SUMS, sums, strict=True))
    cost = usd(totals.pop("cost_nano_usd"))
    return UsageRow(starts_at=starts_at, name=name, cost=cost, **totals)
