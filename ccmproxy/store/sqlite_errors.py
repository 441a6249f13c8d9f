"""What SQLite and the system say, as the two errors of a store."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from ccmproxy.interfaces.store import StoreFailed, StoreUnusable

#: What passes by itself, or by something that is done elsewhere. SQLite's primary result codes → what is said of them.
_PASSING: Final[Mapping[int, str]] = {
    sqlite3.SQLITE_BUSY: "it is locked by another program",
    sqlite3.SQLITE_LOCKED: "it is locked by another program",
    sqlite3.SQLITE_PROTOCOL: "it is locked by another program",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk cannot be read or written",
    sqlite3.SQLITE_NOMEM: "there is not enough memory",
    sqlite3.SQLITE_CANTOPEN: "one of its files cannot be opened",
    sqlite3.SQLITE_INTERRUPT: "it was interrupted",
}
_LASTING: Final[Mapping[int, str]] = {
    sqlite3.SQLITE_NOTADB: "it is no SQLite database",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_READONLY: "it must not be written",
    sqlite3.SQLITE_PERM: "it must not be used",
    sqlite3.SQLITE_AUTH: "it must not be used",
}
_PASSING_ERRNOS: Final = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EIO,
        errno.EINTR,
        errno.EAGAIN,
    }
)


def unusable(path: str, reason: str) -> StoreUnusable:
    """Return the error for the store at ``path``; ``reason`` is the half of the sentence that says why."""
    return StoreUnusable(f"the store {path} cannot be used: {reason}")


def failed(path: str, reason: str) -> StoreFailed:
    """Return the error for the store at ``path``; ``reason`` is the half of the sentence that says why."""
    return StoreFailed(f"the store {path} cannot be used at present: {reason}")


def store_error(error: sqlite3.Error | OSError, path: str) -> StoreUnusable | StoreFailed:
    """Return what ``error`` means for the store at ``path``. SQLite's own text is not repeated."""
    if isinstance(error, OSError):
        reason = error.strerror or "the system refuses it"
        return failed(path, reason) if error.errno in _PASSING_ERRNOS else unusable(path, reason)
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # an error of Python's module, before SQLite was asked
        return unusable(path, f"{type(error).__name__} of the sqlite3 module")
    primary = code & 0xFF
    name = getattr(error, "sqlite_errorname", code)
    if primary in _PASSING:
        return failed(path, f"{_PASSING[primary]} ({name})")
    return unusable(path, f"{_LASTING.get(primary, 'it is not what this program expects')} ({name})")


@contextmanager
def store_errors(path: str) -> Iterator[None]:
    """Turn errors of SQLite and of the system into StoreUnusable and StoreFailed, which this raises instead."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise store_error(error, path) from error
