"""Schemas that are new, old, newer, and of others."""

from __future__ import annotations

import sqlite3

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.interfaces.store import StoreUnusable
from ccmproxy.store.rollups import DAILY_KEY, KEY, SESSION_KEY, SUMS
from ccmproxy.store.sqlite_schema import (
    APPLICATION_ID,
    Migration,
    Schema,
    bring_up_to_date,
    known_migrations,
    read_schema,
)
from ccmproxy.store.stored_record import StoredRecord

NEXT = len(known_migrations()) + 1
ADDITION = Migration(
    NEXT,
    "-- A comment; with a semicolon\nALTER TABLE records ADD COLUMN\n    colour TEXT NOT NULL DEFAULT '';\n"
    f"UPDATE store_state SET version = {NEXT};\n",
)


class SchemaTestCase(SynchronousTestCase):
    """Tests with a database in memory."""

    def setUp(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.connection.close)

    def read(self) -> Schema:
        """What the database says of itself."""
        return read_schema(self.connection, "/s", NEXT - 1)


class MigrationTests(SchemaTestCase):
    """The steps."""

    def test_numbers(self) -> None:
        self.assertEqual([each.number for each in known_migrations()], list(range(1, NEXT)))

    def test_each_step_says_its_number(self) -> None:
        for count in range(1, NEXT):
            bring_up_to_date(self.connection, "/s", known_migrations()[:count])
            self.assertEqual(self.read().version, count)
            self.assertLessEqual(self.read().oldest_program, count)

    def test_columns(self) -> None:
        bring_up_to_date(self.connection, "/s", known_migrations())
        for table, columns in (
            ("records", StoredRecord._fields),
            ("rollups", KEY + SUMS),
            ("daily_rollups", DAILY_KEY + SUMS),
            ("session_rollups", SESSION_KEY + SUMS),
        ):
            found = tuple(row[1] for row in self.connection.execute(f"PRAGMA table_info({table})"))
            self.assertEqual(found, columns)

    def test_nothing_to_do(self) -> None:
        bring_up_to_date(self.connection, "/s", known_migrations())
        changes = self.connection.total_changes
        bring_up_to_date(self.connection, "/s", known_migrations())
        self.assertEqual(self.connection.total_changes, changes)

    def test_an_older_schema(self) -> None:
        bring_up_to_date(self.connection, "/s", known_migrations())
        bring_up_to_date(self.connection, "/s", [*known_migrations(), ADDITION])
        self.assertEqual(self.read(), Schema(NEXT, 1))
        self.connection.execute("SELECT colour FROM records")

    def test_all_or_nothing(self) -> None:
        bring_up_to_date(self.connection, "/s", known_migrations())
        broken = Migration(NEXT + 1, "SELECT nothing FROM nowhere;")
        with self.assertRaises(sqlite3.Error):
            bring_up_to_date(self.connection, "/s", [*known_migrations(), ADDITION, broken])
        self.assertEqual(self.read().version, NEXT - 1)
        self.assertFalse(self.connection.in_transaction)
        self.assertRaises(sqlite3.Error, self.connection.execute, "SELECT colour FROM records")


class ReadTests(SchemaTestCase):
    """Whose a database is."""

    def refused(self) -> str:
        """The sentence."""
        with self.assertRaises(StoreUnusable) as caught:
            bring_up_to_date(self.connection, "/s", known_migrations())
        return str(caught.exception)

    def test_new(self) -> None:
        self.assertEqual(self.read(), Schema())

    def test_of_another_program(self) -> None:
        self.connection.execute("CREATE TABLE theirs (x)")
        self.assertIn("another program", self.refused())

    def test_of_another_program_without_tables(self) -> None:
        self.connection.execute("PRAGMA application_id = 7")
        self.assertIn("another program", self.refused())

    def test_newer(self) -> None:
        bring_up_to_date(self.connection, "/s", known_migrations())
        self.connection.execute("UPDATE store_state SET version = 98, oldest_program = 97")
        sentence = self.refused()
        for part in ("newer ccmproxy", "98", "97", f"knows {NEXT - 1}"):
            self.assertIn(part, sentence)

    def test_newer_but_usable(self) -> None:
        bring_up_to_date(self.connection, "/s", known_migrations())
        self.connection.execute("UPDATE store_state SET version = 98, oldest_program = ?", (NEXT - 1,))
        bring_up_to_date(self.connection, "/s", known_migrations())
        self.assertEqual(self.read().version, 98)

    def test_without_its_row(self) -> None:
        bring_up_to_date(self.connection, "/s", known_migrations())
        self.connection.execute("DELETE FROM store_state")
        self.assertIn("does not say which version", self.refused())

    def test_application_id(self) -> None:
        bring_up_to_date(self.connection, "/s", known_migrations())
        found = self.connection.execute("PRAGMA application_id").fetchone()
        self.assertEqual(found, (APPLICATION_ID,))
