"""The store in an SQLite database: the daemon's side, which writes."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from zope.interface import implementer

from ccmproxy.interfaces.store import CostedRecord, IStore, StoreUnusable
from ccmproxy.store.hold import same_file
from ccmproxy.store.rollups import DAILY_KEY, DAY, KEY, SESSION_KEY, SUMS, Rollups, roll_up
from ccmproxy.store.sqlite_errors import store_error, store_errors, unusable
from ccmproxy.store.sqlite_files import (
    MOUNT_TABLE,
    DaemonLock,
    connect,
    make_private_file,
    real_path,
    refuse_network,
)
from ccmproxy.store.sqlite_schema import Migration, bring_up_to_date, known_migrations, read_schema
from ccmproxy.store.stored_record import StoredRecord, stored

#: Seconds to wait for a lock of another program.
PATIENCE: Final = 5.0

#: Pages that stay free in the file, for what comes next, and how many of the others are given back at once.
_FREE_PAGES: Final = 1024
_PAGES_AT_ONCE: Final = 256
#: Size to which the write-ahead log is cut once it was larger (bytes).
_LARGEST_LOG: Final = 16 * 1024 * 1024
#: What the names of the files of the write-ahead log end in.
_LOG_FILES: Final = ("-wal", "-shm")


def _insertion(table: str, columns: Sequence[str]) -> str:
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) ON CONFLICT "


def _addition(table: str, key: Sequence[str]) -> str:
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in SUMS)
    return f"{_insertion(table, (*key, *SUMS))}({', '.join(key)}) DO UPDATE SET {sums}"


# Names of tables and columns are ours; values are always parameters.
_INSERT_RECORD: Final = f"{_insertion('records', StoredRecord._fields)}DO NOTHING"
_ADD_ROLLUP: Final = _addition("rollups", KEY)
_ADD_DAILY_ROLLUP: Final = _addition("daily_rollups", DAILY_KEY)
_ADD_SESSION_ROLLUP: Final = _addition("session_rollups", SESSION_KEY)
_SESSION_COLUMNS: Final = ", ".join(SESSION_KEY)
_LAST_TO_FORGET: Final = """
    SELECT max(started_at), count(*)
    FROM (SELECT started_at FROM records WHERE started_at < ? ORDER BY started_at, request_id, turn LIMIT ?)
"""
_FORGET_RECORDS: Final = """
    DELETE FROM records WHERE (started_at, request_id, turn) IN (
        SELECT started_at, request_id, turn FROM records
        WHERE started_at < ? ORDER BY started_at, request_id, turn LIMIT ?
    )
"""
_FORGET_SESSIONS: Final = f"""
    DELETE FROM session_rollups WHERE ({_SESSION_COLUMNS}) IN (
        SELECT {_SESSION_COLUMNS} FROM session_rollups WHERE day <= ? LIMIT ?
    )
"""


@implementer(IStore)
class SQLiteStore:
    """A store in the file ``path``, with a write-ahead log beside it (-wal, -shm) and the daemon's lock (.lock).

    ``patience``: seconds to wait for a lock of another program. ``mount_table``: a file that says what is mounted.
    ``migrations``: the steps that the schema is made of; those of this program unless others are given.
    """

    def __init__(
        self,
        path: str,
        *,
        patience: float = PATIENCE,
        mount_table: str = MOUNT_TABLE,
        migrations: Sequence[Migration] | None = None,
    ) -> None:
        self._path = real_path(path)
        self._patience = patience
        self._mount_table = mount_table
        self._migrations = known_migrations() if migrations is None else migrations
        self._lock = DaemonLock(self._path)
        self._connection: sqlite3.Connection | None = None
        #: What the database and the two files of its log were when it was opened, by what their names end in.
        self._files: dict[str, os.stat_result] = {}

    def open(self) -> None:
        if self._connection is not None:
            return
        try:
            with store_errors(self._path):
                refuse_network(self._path, self._mount_table)
                make_private_file(self._path)
                if not os.access(self._path, os.R_OK | os.W_OK):
                    raise unusable(self._path, "it must not be read and written by this user")
                self._lock.take()
                self._connection = connect(self._path, self._patience, read_only=False)
                self._prepare(self._connection)
                self._files = {suffix: os.stat(self._path + suffix) for suffix in ("", *_LOG_FILES)}
        except BaseException:
            self.close()
            raise

    def insert(self, records: Sequence[CostedRecord]) -> int:
        rows = [stored(record) for record in records]
        with self._transaction() as connection:
            (horizon,) = connection.execute("SELECT forgotten_until FROM store_state").fetchone()
            added = []
            cursor = connection.cursor()
            for row in rows:
                # One by one, because the number of changed rows tells which of them are new.
                if row.started_at > horizon and cursor.execute(_INSERT_RECORD, row).rowcount == 1:
                    added.append(row)
            self._add(cursor, roll_up(added))
        return len(added)

    def forget(self, before: float, most_rows: int) -> int:
        most_rows = max(most_rows, 0)  # below 0, SQLite knows no bound
        with self._transaction() as connection:
            last, forgotten = connection.execute(_LAST_TO_FORGET, (before, most_rows)).fetchone()
            if forgotten:
                connection.execute(_FORGET_RECORDS, (before, most_rows))
                connection.execute(
                    "UPDATE store_state SET forgotten_until = max(forgotten_until, ?)", (last,)
                )
            if forgotten < most_rows:
                # No record is left from before, so that these days have none at all.
                oldest = (before - DAY, most_rows - forgotten)
                forgotten += connection.execute(_FORGET_SESSIONS, oldest).rowcount
        self._give_back()
        return int(forgotten)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                pass  # what was committed is in the log; the next one to open the store takes it from there
        self._lock.give_up()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Look before anything is changed: a file that is not ours stays as it is."""
        newest = max(each.number for each in self._migrations)
        if read_schema(connection, self._path, newest).version == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only before there is any table
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise unusable(self._path, "its file system does not allow a write-ahead log")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {_LARGEST_LOG}")
        bring_up_to_date(connection, self._path, self._migrations)

    @staticmethod
    def _add(cursor: sqlite3.Cursor, rollups: Rollups) -> None:
        for statement, found in (
            (_ADD_ROLLUP, rollups.by_quarter),
            (_ADD_DAILY_ROLLUP, rollups.by_day),
            (_ADD_SESSION_ROLLUP, rollups.by_session),
        ):
            cursor.executemany(statement, ((*key, *sums) for key, sums in found.items()))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of what is done within, or nothing of it. Raises StoreUnusable and StoreFailed."""
        with self._usable() as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def _usable(self) -> Iterator[sqlite3.Connection]:
        """The connection, if the files are still there. The store is closed after what does not pass by itself."""
        if self._connection is None:
            raise unusable(self._path, "it is not open")
        try:
            if not self._lock.is_held:
                raise unusable(self._path, "its lock was deleted, so that another daemon may have it")
            if not same_file(self._path, self._files[""]):
                self._leave_file()
                raise unusable(self._path, "its file was deleted, or another took its place")
            yield self._connection
        except StoreUnusable:
            self.close()
            raise
        except (sqlite3.Error, OSError) as error:
            told = store_error(error, self._path)
            if isinstance(told, StoreUnusable):
                self.close()
            raise told from error

    def _leave_file(self) -> None:
        """Give up a database that is not at its place any more, where SQLite would go on writing into it.

        Its log goes with it: whatever database is found at this place next, SQLite would take the log for its own.
        """
        if self._connection is None:
            return
        connection, self._connection = self._connection, None
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            connection.close()
        except sqlite3.Error:
            pass  # there is nothing more that could be done for it
        for suffix in _LOG_FILES:
            if same_file(self._path + suffix, self._files[suffix]):
                os.unlink(self._path + suffix)

    def _give_back(self) -> None:
        """Give some of the free pages back to the system, if there are many. A small step, as all that is done here."""
        with self._usable() as connection:
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            pages = min(free - _FREE_PAGES, _PAGES_AT_ONCE)
            if pages > 0:
                # It does one page for each step, of which execute() does only the first here.
                connection.executescript(f"PRAGMA incremental_vacuum({int(pages)});")
