"""What errors mean."""

from __future__ import annotations

import errno
import os
import sqlite3

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.interfaces.store import StoreFailed, StoreUnusable
from ccmproxy.store.sqlite_errors import failed, store_error, store_errors, unusable


def of_code(code: int) -> sqlite3.Error:
    """An error of SQLite's."""
    error = sqlite3.OperationalError("what a user wrote")
    error.sqlite_errorcode = code
    error.sqlite_errorname = "SQLITE_SOMETHING"
    return error


class StoreErrorTests(SynchronousTestCase):
    """Which errors pass by themselves."""

    def test_codes(self) -> None:
        extended = sqlite3.SQLITE_IOERR | (3 << 8)
        for code, kind in (
            (sqlite3.SQLITE_BUSY, StoreFailed),
            (sqlite3.SQLITE_FULL, StoreFailed),
            (extended, StoreFailed),
            (sqlite3.SQLITE_CORRUPT, StoreUnusable),
            (sqlite3.SQLITE_NOTADB, StoreUnusable),
            (sqlite3.SQLITE_READONLY, StoreUnusable),
            (sqlite3.SQLITE_ERROR, StoreUnusable),
        ):
            found = store_error(of_code(code), "/store.db")
            self.assertIs(type(found), kind)
            self.assertIn("/store.db", str(found))
            self.assertIn("SQLITE_SOMETHING", str(found))
            self.assertNotIn("what a user wrote", str(found))

    def test_errors_of_the_module(self) -> None:
        found = store_error(sqlite3.ProgrammingError("what a user wrote"), "/store.db")
        self.assertIs(type(found), StoreUnusable)
        self.assertNotIn("what a user wrote", str(found))

    def test_errors_of_the_system(self) -> None:
        for number, kind in (
            (errno.ENOSPC, StoreFailed),
            (errno.EMFILE, StoreFailed),
            (errno.EACCES, StoreUnusable),
            (errno.EROFS, StoreUnusable),
        ):
            found = store_error(OSError(number, os.strerror(number)), "/store.db")
            self.assertIs(type(found), kind)
            self.assertIn(os.strerror(number), str(found))

    def test_around_a_block(self) -> None:
        def fail(error: Exception) -> None:
            with store_errors("/store.db"):
                raise error

        self.assertRaises(StoreFailed, fail, of_code(sqlite3.SQLITE_BUSY))
        self.assertRaises(StoreUnusable, fail, PermissionError(errno.EACCES, "no"))
        self.assertRaises(KeyError, fail, KeyError())

    def test_sentences(self) -> None:
        self.assertEqual(str(unusable("/s", "so")), "the store /s cannot be used: so")
        self.assertEqual(str(failed("/s", "so")), "the store /s cannot be used at present: so")
