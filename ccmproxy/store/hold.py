"""Whose a journal is: whoever has the lock on its lock file (flock(2)), which ends with the process."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

#: Mode of the files of a journal: only their owner may read or write them.
PRIVATE = 0o600


class Hold:
    """The lock of one journal, as long as this object is open. ``path``: its lock file."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

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
        is_gone = os.fstat(descriptor).st_nlink == 0
    except BlockingIOError:
        is_gone = True
    except BaseException:
        hold.close()
        raise
    if is_gone:
        hold.close()
        return None
    return hold
