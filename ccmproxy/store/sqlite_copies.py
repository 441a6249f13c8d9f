"""Whether an SQLite store is whole, and copies of it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from ccmproxy.interfaces.store import StoreUnusable
from ccmproxy.store.rollups import DAILY_KEY, DAY, KEY, QUARTER, SESSION_KEY, SUMS
from ccmproxy.store.segment import sync_directory
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
#: Days, which are kept as long as their quarters are, so that they need no records.
_SUMS_OF_QUARTERS: Final = f"""
    SELECT quarter / {DAY} * {DAY}, service, credential, user_name, model, {", ".join(f"sum({name})" for name in SUMS)}
    FROM rollups GROUP BY 1, 2, 3, 4, 5
"""


def find_problems(connection: sqlite3.Connection) -> tuple[str, ...]:
    """Return a sentence for each problem of the store behind ``connection``. Raises sqlite3.Error.

    Roll-ups are compared with their records in those quarters of an hour, those of sessions in those days, of which no
    record was deleted; days always with their quarters.
    """
    try:
        found = [str(text) for (text,) in connection.execute(f"PRAGMA quick_check({_MOST_PROBLEMS})")]
        if found != ["ok"]:
            return tuple(f"the database is damaged: {' '.join(text.split())}" for text in found)
        (horizon,) = connection.execute("SELECT forgotten_until FROM store_state").fetchone()
        quarters, days = ((int(horizon) // each + 1) * each if horizon >= 0 else 0 for each in (QUARTER, DAY))
        problems = []
        for table, key, right, since in (
            ("rollups", KEY, _sums_of_records("quarter", QUARTER, KEY), quarters),
            ("daily_rollups", DAILY_KEY, _SUMS_OF_QUARTERS, 0),
            ("session_rollups", SESSION_KEY, _sums_of_records("day", DAY, SESSION_KEY), days),
        ):
            wrong = _wrong_sums(connection, table, key, right, since)
            if wrong:
                problems.append(f"{wrong} rows of {table} are not the sums that they should be")
        return tuple(problems)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        return ("the database is damaged",)


def _sums_of_records(begin: str, length: int, key: Sequence[str]) -> str:
    """What selects the sums of records: columns of ``key``, of which ``begin`` is when a period of ``length`` seconds
    began, and SUMS. Whole numbers, so that the period is exact."""
    columns = [
        f"CAST(started_at AS INTEGER) / {length} * {length}" if each == begin else each for each in key
    ]
    numbers = ", ".join(str(each + 1) for each in range(len(key)))
    return f"SELECT {', '.join(columns)}, {_SUMS_OF_RECORDS} FROM records WHERE started_at >= :since GROUP BY {numbers}"


def _wrong_sums(
    connection: sqlite3.Connection, table: str, key: Sequence[str], right: str, since: int
) -> int:
    """How many sums of ``table`` are missing, too many, or not those that ``right`` selects.

    Each should be there twice, once on each side. ``since``: from when on they are compared.
    """
    begin = "day" if "day" in key else "quarter"
    columns = ", ".join(key)
    everything = f"{columns}, {', '.join(SUMS)}"
    both = f"SELECT {everything} FROM {table} WHERE {begin} >= :since UNION ALL {right}"
    wrong = f"SELECT {columns} FROM ({both}) GROUP BY {everything} HAVING count(*) <> 2"
    found = connection.execute(
        f"SELECT count(*) FROM (SELECT DISTINCT {columns} FROM ({wrong}))", {"since": since}
    )
    return int(found.fetchone()[0])


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
            sync_directory(os.path.dirname(os.path.abspath(path)))
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
