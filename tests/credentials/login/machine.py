"""Functions of the system that fail for a while, for the tests of what a machine does to a login."""

from __future__ import annotations

import errno
import os
from typing import Any, NamedTuple

from twisted.trial.unittest import SynchronousTestCase

FULL = (errno.ENOSPC, errno.EDQUOT)
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
BROKEN = (errno.EIO, errno.ESTALE, errno.ENOMEM)


class Cause(NamedTuple):
    """A function of the system that fails: ``what``, a method of :class:`Machine`, with ``number``."""

    what: str
    number: int

    def __str__(self) -> str:
        return f"{self.what}: {errno.errorcode[self.number]}"


READING = [
    *(Cause("open_to_read", number) for number in (*NO_DESCRIPTORS, *NOT_ALLOWED, *BROKEN)),
    *(Cause("read", number) for number in BROKEN),
]
WRITING = [
    *(Cause("open_to_write", number) for number in (*NO_DESCRIPTORS, *NOT_ALLOWED, *BROKEN)),
    *(Cause("create", number) for number in (*FULL, *NO_DESCRIPTORS, *NOT_ALLOWED, *BROKEN)),
    *(Cause("write", number) for number in (*FULL, errno.EFBIG, *BROKEN)),
    *(Cause("fsync", number) for number in (*FULL, *BROKEN)),
    *(Cause("replace", number) for number in (*FULL, *NOT_ALLOWED, *BROKEN)),
    *(Cause("mkdir", number) for number in (*FULL, errno.EMLINK, *NOT_ALLOWED, *BROKEN)),
]


class Machine:
    """Stands in front of the functions of ``os``, and lets those fail that ``causes`` name."""

    def __init__(self, case: SynchronousTestCase, directory: str) -> None:
        """``directory``: the absolute path under which files fail to open. :attr:`place` may be set to another one."""
        self.causes: set[Cause] = set()
        self.place = directory
        self._open, self._mkdir = os.open, os.mkdir
        self._read, self._write, self._replace = os.read, os.write, os.replace
        for name in ("open", "mkdir", "read", "write", "fsync", "replace"):
            case.patch(os, name, getattr(self, name))

    def _fail(self, what: str) -> None:
        for cause in self.causes:
            if cause.what == what:
                raise OSError(cause.number, os.strerror(cause.number))

    def open(self, path: Any, flags: int, *more: int, **named: Any) -> int:
        """Open a file; those that are not the login's always open."""
        if os.path.abspath(path).startswith(self.place) and not flags & os.O_DIRECTORY:
            if flags & os.O_CREAT:
                self._fail("create")
            else:
                self._fail("open_to_write" if flags & os.O_WRONLY else "open_to_read")
        return self._open(path, flags, *more, **named)

    def mkdir(self, path: str, *more: int) -> None:
        """Create the directory that is the lock."""
        self._fail("mkdir")
        self._mkdir(path, *more)

    def read(self, descriptor: int, size: int) -> bytes:
        """Read from any file."""
        self._fail("read")
        return self._read(descriptor, size)

    def write(self, descriptor: int, data: bytes) -> int:
        """Write to any file."""
        self._fail("write")
        return self._write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """Seem to sync any file, which takes time on a real disk."""
        self._fail("fsync")

    def replace(self, source: str, target: str) -> None:
        """Rename a file."""
        self._fail("replace")
        self._replace(source, target)
