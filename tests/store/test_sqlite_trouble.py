"""What can be wrong with an SQLite store: each is told in a sentence, and what was kept stays kept."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing

from ccmproxy.interfaces.store import Grouping, StoreFailed, StoreUnusable
from ccmproxy.store.sqlite import SQLiteStore
from ccmproxy.store.sqlite_reports import SQLiteReader
from tests.store.samples import StoreTestCase, question, records


class FileTests(StoreTestCase):
    """What is no store, or not any more."""

    def refused(self, *words: str, path: str | None = None) -> None:
        """Neither a daemon nor a reader uses it, and both say why."""
        for kind in (SQLiteStore, SQLiteReader):
            with self.assertRaises(StoreUnusable) as caught:
                if kind is SQLiteStore:
                    self.store(path)
                else:
                    self.reader(path)
            for word in (path or self.path, *words):
                self.assertIn(word, str(caught.exception))

    def content(self) -> bytes:
        """What is in the file."""
        with open(self.path, "rb") as file:
            return file.read()

    def write(self, content: bytes) -> None:
        """Replace it."""
        with open(self.path, "wb") as file:
            file.write(content)

    def test_no_database(self) -> None:
        for content in (b"users:\n  - name: ann\n" * 100, b"\0" * 4096, b"xy"):
            self.write(content)
            self.refused("no SQLite database")
            self.assertEqual(self.content(), content)

    def test_a_database_that_breaks_off(self) -> None:
        self.fill()
        whole = self.content()
        self.write(whole[:50])
        self.refused()
        self.write(whole[: len(whole) // 2])
        self.refused("damaged")

    def test_empty(self) -> None:
        self.write(b"")
        with self.assertRaises(StoreUnusable) as caught:
            self.reader()
        self.assertIn("brought it up to date", str(caught.exception))
        self.assertEqual(self.store().insert(records(2)), 2)

    def test_a_directory(self) -> None:
        self.refused("directory", path=self.folder)

    def test_missing(self) -> None:
        with self.assertRaises(StoreUnusable) as caught:
            self.reader()
        self.assertIn("No such file", str(caught.exception))
        self.assertEqual(os.listdir(self.folder), [])

    def test_the_database_of_another_program(self) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("CREATE TABLE theirs (x)")
        before = self.content()
        self.refused("another program")
        self.assertEqual(self.content(), before)

    def test_a_newer_schema(self) -> None:
        self.fill()
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("UPDATE store_state SET version = 99, oldest_program = 99")
        self.refused("newer ccmproxy")

    def test_after_a_refusal_nothing_is_held(self) -> None:
        self.write(b"x" * 1000)
        self.refused()
        os.unlink(self.path)
        store = self.store()
        self.assertEqual(store.insert(records(1)), 1)

    def test_on_a_network_file_system(self) -> None:
        self.fill()
        mounts = os.path.join(self.folder, "mountinfo")
        with open(mounts, "w") as file:
            file.write("22 27 0:21 / / rw - nfs4 server:/ rw\n")
        for start in (self.store, self.reader):
            with self.assertRaises(StoreUnusable) as caught:
                start(mount_table=mounts)
            self.assertIn("network file system", str(caught.exception))

    def test_damaged_in_the_middle(self) -> None:
        store = self.store()
        store.insert(records(3000))
        store.close()
        content = bytearray(self.content())
        middle = len(content) // 2 // 4096 * 4096
        content[middle - 4096 * 20 : middle + 4096 * 20] = b"\xff" * (4096 * 40)
        self.write(bytes(content))
        problems = self.check()
        self.assertTrue(problems)
        self.assertIn("damaged", problems[0])
        self.assertNotIn("\n", problems[0])
        store.open()
        with self.assertRaises(StoreUnusable) as caught:
            store.insert(records(3000))
        self.assertIn("damaged", str(caught.exception))
        # It is closed now; put aside, it makes room for a new one.
        os.rename(self.path, self.path + ".damaged")
        store.open()
        self.assertEqual(store.insert(records(3000)), 3000)
        self.assertEqual(self.check(), ())

    def test_deleted_while_in_use(self) -> None:
        store = self.store()
        store.insert(records(3))
        reader = self.reader()
        for suffix in ("", "-wal", "-shm"):
            os.unlink(self.path + suffix)
        with self.assertRaises(StoreUnusable) as caught:
            store.insert(records(4))
        self.assertIn("deleted", str(caught.exception))
        self.assertRaises(StoreUnusable, reader.usage, question(Grouping.DAY))
        store.open()
        self.assertEqual(store.insert(records(4)), 4)

    def test_replaced_while_in_use(self) -> None:
        store = self.store()
        store.insert(records(3))
        copy = os.path.join(self.folder, "copy.db")
        self.reader().backup(copy)
        store.insert(records(5))
        os.rename(copy, self.path)
        self.assertRaises(StoreUnusable, store.insert, records(6))
        store.open()
        self.assertEqual(store.insert(records(6)), 3)
        self.assertEqual(self.check(), ())

    def test_its_lock_deleted_while_in_use(self) -> None:
        store = self.store()
        os.unlink(f"{self.path}.lock")
        other = self.store()
        self.assertRaises(StoreUnusable, store.insert, records(1))
        self.assertEqual(other.insert(records(1)), 1)


class BusyTests(StoreTestCase):
    """Other programs that use it."""

    def test_two_daemons(self) -> None:
        self.store()
        with self.assertRaises(StoreUnusable) as caught:
            self.store()
        self.assertIn("another ccmproxy has it", str(caught.exception))

    def test_locked_for_a_moment(self) -> None:
        store = self.store()
        other = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(1.0, other.execute, ["COMMIT"])
        timer.start()
        self.addCleanup(timer.join)
        self.assertEqual(store.insert(records(3)), 3)

    def test_locked_for_long(self) -> None:
        store = self.store(patience=0.1)
        store.insert(records(1))
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for call in (lambda: store.insert(records(3)), lambda: store.forget(1e11, 3)):
                with self.assertRaises(StoreFailed) as caught:
                    call()
                self.assertIn("locked by another program", str(caught.exception))
            self.assertEqual([row.requests for row in self.usage().rows], [1])  # readers go on
            other.execute("ROLLBACK")
        self.assertEqual(store.insert(records(3)), 2)

    def test_locked_while_it_is_opened(self) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            store = SQLiteStore(self.path, patience=0.1)
            self.assertRaises(StoreFailed, store.open)
            other.execute("ROLLBACK")
            store.open()
            self.assertEqual(store.insert(records(3)), 3)
            store.close()


class FullTests(StoreTestCase):
    """Nowhere to write."""

    def test_a_full_database(self) -> None:
        store = self.store()
        store.insert(records(10))
        assert store._connection is not None
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with self.assertRaises(StoreFailed) as caught:
            store.insert(records(5000))
        self.assertIn("the disk is full", str(caught.exception))
        self.assertEqual([row.requests for row in self.usage().rows], [10])
        self.assertEqual(self.check(), ())
        store._connection.execute("PRAGMA max_page_count = 1000000")
        self.assertEqual(store.insert(records(5000)), 4990)
        self.assertEqual(self.check(), ())
