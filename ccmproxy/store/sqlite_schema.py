"""The schema of an SQLite store: how a database is recognized and brought up to date (spec 9.1)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

from ccmproxy.store.sqlite_errors import unusable

#: What the header of a database of ours says: "ccmp".
APPLICATION_ID = int.from_bytes(b"ccmp", "big")


@dataclass(frozen=True, slots=True)
class Migration:
    """A step from the schema before it. ``number``: from 1, without gaps. ``text``: statements, each of which ends at
    the end of a line; they also write the two numbers of the row in ``store_state``."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Schema:
    """What a database says of itself. ``version``: 0 if it is new."""

    version: int = 0
    oldest_program: int = 0


def known_migrations() -> tuple[Migration, ...]:
    """Return the steps that this program has, in their order."""
    folder = resources.files("ccmproxy.store") / "schema" / "sqlite"
    files = sorted(
        (each for each in folder.iterdir() if each.name.endswith(".sql")), key=lambda each: each.name
    )
    return tuple(Migration(int(each.name[:-4]), each.read_text(encoding="utf-8")) for each in files)


def read_schema(connection: sqlite3.Connection, path: str, newest: int) -> Schema:
    """Return what the database at ``path`` says of itself. ``newest``: the number of this program's newest step.

    Raises StoreUnusable if it is another program's, or needs a newer one of ours, and sqlite3.Error.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not application and not tables:
        return Schema()
    if application != APPLICATION_ID:
        raise unusable(path, "it is the database of another program")
    row = connection.execute("SELECT version, oldest_program FROM store_state").fetchone()
    if row is None:
        raise unusable(path, "it is damaged: it does not say which version it is of")
    found = Schema(*row)
    if found.oldest_program > newest:
        raise unusable(
            path,
            f"it was written by a newer ccmproxy (its schema is {found.version}, and programs that know"
            f" {found.oldest_program} or more may use it; this one knows {newest})",
        )
    return found


def bring_up_to_date(connection: sqlite3.Connection, path: str, migrations: Sequence[Migration]) -> None:
    """Carry out those of ``migrations`` that the database at ``path`` does not have yet: all of them or none.

    Raises StoreUnusable as ``read_schema`` does, and sqlite3.Error.
    """
    newest = max(each.number for each in migrations)
    if read_schema(connection, path, newest).version >= newest:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = read_schema(connection, path, newest).version  # again: now nobody else writes
        for migration in migrations:
            if migration.number > version:
                for statement in _statements(migration.text):
                    connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(text: str) -> Iterator[str]:
    """The statements of a file. ``executescript`` would end the transaction."""
    lines: list[str] = []
    for line in text.splitlines():
        lines.append(line)
        statement = "\n".join(lines)
        if sqlite3.complete_statement(statement):
            yield statement
            lines.clear()
