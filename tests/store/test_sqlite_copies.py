"""Whether a store is whole, and copies of it."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import threading
from contextlib import closing

from ccmproxy.interfaces.store import Grouping, StoreUnusable
from tests.store.samples import QUARTER, START, StoreTestCase, question, records


class CheckTests(StoreTestCase):
    """Roll-ups and their records."""

    def problems_after(self, statement: str) -> tuple[str, ...]:
        """What is found once ``statement`` has changed a store of ten records in two quarters of an hour."""
        store = self.store()
        store.insert(records(10, apart=100))
        store.close()
        self.assertEqual(self.check(), ())
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute(statement)
        return self.check()

    def test_wrong_sums(self) -> None:
        found = self.problems_after(f"UPDATE rollups SET output = output + 1 WHERE quarter = {int(START)}")
        self.assertEqual(found[:1], ("1 rows of rollups are not the sums that they should be",))

    def test_wrong_sums_of_a_day(self) -> None:
        found = self.problems_after("UPDATE daily_rollups SET requests = requests + 1")
        self.assertEqual(found, ("1 rows of daily_rollups are not the sums that they should be",))

    def test_a_missing_rollup(self) -> None:
        found = self.problems_after("DELETE FROM session_rollups")
        self.assertEqual(found, ("1 rows of session_rollups are not the sums that they should be",))

    def test_a_rollup_without_records(self) -> None:
        found = self.problems_after("DELETE FROM records")
        self.assertEqual(len(found), 2)

    def test_where_records_were_forgotten_sums_are_not_compared(self) -> None:
        store = self.store()
        store.insert(records(10, apart=100))
        store.forget(START + 150, 10)
        change = "UPDATE rollups SET requests = requests + ? WHERE quarter = ?"
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute(change, (1, START))
            self.assertEqual(len(self.check()), 1)  # the day is compared with its quarters all the same
            connection.execute("UPDATE daily_rollups SET requests = requests + 1")
            self.assertEqual(self.check(), ())
            connection.execute(change, (1, START + QUARTER))
        self.assertEqual(len(self.check()), 2)

    def test_while_it_is_written(self) -> None:
        store = self.store()
        found: list[object] = []
        done = threading.Event()

        def checking() -> None:
            while not done.is_set():
                found.extend(self.check())

        thread = threading.Thread(target=checking)
        thread.start()
        try:
            for each in range(30):
                store.insert(records(20, each * 20))
        finally:
            done.set()
            thread.join()
        self.assertEqual(found, [])


class BackupTests(StoreTestCase):
    """Copies."""

    def test_a_copy_is_a_store(self) -> None:
        store = self.store()
        store.insert(records(5))
        copy = os.path.join(self.folder, "copies", "copy.db")
        self.reader().backup(copy)
        store.insert(records(9))
        self.assertEqual(sorted(os.listdir(os.path.dirname(copy))), ["copy.db"])
        self.assertEqual(stat.S_IMODE(os.stat(copy).st_mode), 0o600)
        with open(copy, "rb") as file:
            self.assertEqual(file.read(20)[18:], b"\1\1")  # without a write-ahead log
        with closing(self.reader(copy)) as reader:
            self.assertEqual(reader.check(), ())
            self.assertEqual([row.requests for row in reader.usage(question(Grouping.USER)).rows], [5])
        self.assertEqual(self.store(copy).insert(records(9)), 4)

    def test_where_directories_cannot_be_synced(self) -> None:
        """A copy that is whole is none that failed."""
        self.fill()
        system = os.fsync

        def files_only(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            system(descriptor)

        self.patch(os, "fsync", files_only)
        copy = os.path.join(self.folder, "copy.db")
        self.reader().backup(copy)
        self.assertEqual(self.reader(copy).check(), ())

    def test_nothing_is_overwritten(self) -> None:
        self.fill()
        reader = self.reader()
        for path in (self.path, f"{self.path}.lock"):
            with self.assertRaises(StoreUnusable) as caught:
                reader.backup(path)
            self.assertIn("there is a file", str(caught.exception))
        self.assertEqual([row.requests for row in self.usage().rows], [3])

    def test_what_an_earlier_copy_left(self) -> None:
        self.fill()
        copy = os.path.join(self.folder, "copy.db")
        with open(f"{copy}.part", "w") as file:
            file.write("half")
        self.reader().backup(copy)
        with closing(self.reader(copy)) as reader:
            self.assertEqual(reader.check(), ())

    def test_while_it_is_written(self) -> None:
        store = self.store()
        store.insert(records(3000))
        done = threading.Event()

        def writing() -> None:
            each = 3000
            while not done.is_set():
                store.insert(records(10, each))
                each += 10

        thread = threading.Thread(target=writing)
        thread.start()
        try:
            copies = [os.path.join(self.folder, f"copy{each}.db") for each in range(3)]
            for copy in copies:
                self.reader().backup(copy)
        finally:
            done.set()
            thread.join()
        for copy in copies:
            with closing(self.reader(copy)) as reader:
                self.assertEqual(reader.check(), ())
                (row,) = reader.usage(question(Grouping.USER)).rows
                self.assertGreaterEqual(row.requests, 3000)
                self.assertEqual(row.requests % 10, 0)
