"""Whose a journal or a store is: whoever has the lock on its lock file (flock(2)), which ends with the process."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

#: Mode of the files of journals and stores: only their owner may read or write them.
PRIVATE = 0o600


class LockFileGone(Exception):
    """Somebody deleted a lock file, or put another one in its place, before it was locked."""


class Hold:
    """The lock on one file, as long as this object is open. ``path``: where that was opened."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @property
    def is_found(self) -> bool:
        """Whether the locked file is still the one that others would find."""
        return self._descriptor >= 0 and same_file(self.path, self._descriptor)

    def remove(self) -> None:
        """Delete the lock file and give the lock back. Raises OSError when the file cannot be deleted; the lock is
        given back all the same."""
        try:
            # In this order: whoever opened the file before it was deleted gets the lock of a file without a name, and
            # take() tells him that it is not the one.
            os.unlink(self.path)
        finally:
            self.close()

    def close(self) -> None:
        """Give the lock back. Does nothing the second time."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def take(path: str, is_new: bool = False) -> Hold | None:
    """Return the lock of the file ``path``, or None if somebody else holds it, or deleted the file meanwhile.

    Otherwise like :func:`lock`.
    """
    try:
        return lock(path, is_new)
    except (BlockingIOError, LockFileGone):
        return None


def lock(path: str, is_new: bool = False) -> Hold:
    """Lock the file ``path``. Raises BlockingIOError if somebody else holds it, and LockFileGone.

    The file is made if it is missing; with ``is_new`` it must be. Raises OSError when it cannot be opened (with ELOOP a
    symbolic link, with EINVAL something else that is no file), when it is there in spite of ``is_new``, and when the
    file system has no locks.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags | os.O_EXCL if is_new else flags, PRIVATE)
    hold = Hold(path, descriptor)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not hold.is_found:
            raise LockFileGone
    except BaseException:
        hold.close()
        raise
    return hold


def same_file(path: str, other: int | os.stat_result) -> bool:
    """Whether what is at ``path`` now is ``other``: an open file, or what was there before."""
    known = os.fstat(other) if isinstance(other, int) else other
    try:
        return os.path.samestat(os.stat(path), known)
    except FileNotFoundError:
        return False
