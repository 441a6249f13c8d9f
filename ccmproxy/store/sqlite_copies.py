"""Whether an SQLite store is whole, and copies of it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from typing import Final

from ccmproxy.interfaces.store import StoreUnusable
from ccmproxy.store.rollups import DAILY_KEY, DAY, KEY, QUARTER, SESSION_KEY, SUMS
from ccmproxy.store.sqlite_errors import store_errors
from ccmproxy.store.sqlite_files import make_private_file

#: Most problems that SQLite tells of at once.
_MOST_PROBLEMS: Final = 20

#: What each of SUMS is, computed from records.
_SUMS_OF_RECORDS: Final = """
    count(*), sum(input), sum(output), sum(cache_read), sum(cache_creation), sum(cache_creation_5m),
    sum(cache_creation_1h), sum(reasoning), sum(coalesce(cost_nano_usd, 0)), sum(cost_nano_usd IS NULL),
    sum(is_incomplete), sum(is_estimated), sum(is_extra)
"""


def find_problems(connection: sqlite3.Connection) -> tuple[str, ...]:
    """Return a sentence for each problem of the store behind ``connection``. Raises sqlite3.Error.

    Roll-ups are compared with their records in those days, or quarters of an hour, of which no record was deleted.
    """
    try:
        found = [str(text) for (text,) in connection.execute(f"PRAGMA quick_check({_MOST_PROBLEMS})")]
        if found != ["ok"]:
            return tuple(f"the database is damaged: {' '.join(text.split())}" for text in found)
        (horizon,) = connection.execute("SELECT forgotten_until FROM store_state").fetchone()
        problems = []
        for table, begin, key, length in (
            ("rollups", "quarter", KEY, QUARTER),
            ("daily_rollups", "day", DAILY_KEY, DAY),
            ("session_rollups", "day", SESSION_KEY, DAY),
        ):
            since = 0 if horizon < 0 else (int(horizon) // length + 1) * length
            wrong = _wrong_sums(connection, table, begin, key, length, since)
            if wrong:
                problems.append(f"{wrong} rows of {table} are not the sums of their records")
        return tuple(problems)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        return ("the database is damaged",)


def _wrong_sums(
    connection: sqlite3.Connection, table: str, begin: str, key: tuple[str, ...], length: int, since: int
) -> int:
    """How many rows there are on one side that are not on the other one. One with a wrong sum is one on each.

    ``length``: of the periods whose beginning the column ``begin`` of the ``key`` is (seconds).
    """
    columns = ", ".join(each for each in key if each != begin)
    kept = f"SELECT {begin}, {columns}, {', '.join(SUMS)} FROM {table} WHERE {begin} >= :since"
    right = (
        f"SELECT CAST(started_at AS INTEGER) / {length} * {length}, {columns}, {_SUMS_OF_RECORDS}"
        f" FROM records WHERE started_at >= :since GROUP BY 1, {columns}"
    )
    counts = [
        connection.execute(f"SELECT count(*) FROM ({one} EXCEPT {other})", {"since": since}).fetchone()[0]
        for one, other in ((kept, right), (right, kept))
    ]
    return int(max(counts))


def write_copy(connection: sqlite3.Connection, path: str) -> None:
    """Write what ``connection`` sees to the new file ``path``, durably. Raises StoreUnusable and StoreFailed, also if
    there is such a file.

    It is done in one step of SQLite's, which does not keep a writer waiting and sees one state of the store.
    """
    with store_errors(path):
        if os.path.lexists(path):
            raise StoreUnusable(f"no copy was written: there is a file {path} already")
        part = f"{path}.part"
        _remove(part)
        try:
            make_private_file(part)
            copy = sqlite3.connect(part, isolation_level=None)
            try:
                connection.backup(copy)
                # One file: without a log that would have to be kept beside it.
                copy.execute("PRAGMA journal_mode = DELETE").fetchone()
            finally:
                copy.close()
            _sync(part)
            os.rename(part, path)
            _sync(os.path.dirname(os.path.abspath(path)))
        except BaseException:
            _remove(part)
            raise


def _remove(path: str) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.unlink(path + suffix)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
