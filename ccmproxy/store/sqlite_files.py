"""The files of an SQLite store: where they may be, who may read them, and which daemon has them."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ccmproxy.store.hold import PRIVATE, Hold, LockFileGone, lock
from ccmproxy.store.sqlite_errors import unusable

#: Where Linux says what is mounted.
MOUNT_TABLE: Final = "/proc/self/mountinfo"

_PRIVATE_DIRECTORY: Final = 0o700
#: Memory that a reader may fill (KiB). What is sorted for a report has room in it.
_READER_CACHE: Final = 32 * 1024
#: How blanks are written in the table of mounts.
_OCTAL: Final = re.compile(rb"\\([0-3][0-7]{2})")
#: Types of file systems that several machines share. SQLite's index of its write-ahead log is memory that processes of
#: one machine share, and locks are not to be relied on there.
_NETWORK_FILE_SYSTEMS: Final = frozenset(
    "nfs nfs4 cifs smb2 smb3 smbfs ncpfs afs coda ceph lustre beegfs gfs2 ocfs2 gpfs glusterfs"
    " fuse.ceph fuse.glusterfs fuse.sshfs fuse.rclone fuse.s3fs fuse.smbnetfs fuse.nfs fuse.davfs davfs".split()
)


def file_system_type(path: str, mount_table: str) -> str:
    """Return the type of the file system that ``path`` is on, or would be; empty where the system does not tell.

    ``path``: absolute and without links. ``mount_table``: a file like MOUNT_TABLE.
    """
    try:
        lines = Path(mount_table).read_bytes().splitlines()
    except OSError:
        return ""
    found, longest = b"", -1
    wanted = os.fsencode(path)
    for line in lines:
        fields, _, source = line.partition(b" - ")
        columns = fields.split(b" ")
        if len(columns) < 5 or not source:
            continue
        point = _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), columns[4])
        inside = wanted == point or wanted.startswith(point.rstrip(b"/") + b"/")
        if inside and len(point) >= longest:  # of two at the same place, the later one hides the other
            found, longest = source.split(b" ")[0], len(point)
    return found.decode("ascii", "replace")


def real_path(path: str) -> str:
    """Return where the file ``path`` is, or would be: absolute and without links."""
    return os.path.realpath(path)


def refuse_network(path: str, mount_table: str) -> None:
    """Raise StoreUnusable if ``path``, absolute and without links, is on a network file system."""
    kind = file_system_type(path, mount_table)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise unusable(path, f"it is on a network file system ({kind}), where SQLite's locks do not work")


def make_private_file(path: str) -> None:
    """Make sure that there is a file ``path``. What is made, file and directories, is its owner's alone.

    Raises OSError, and StoreUnusable for what is no file.

    A file that is there is not opened: closing it would take away the locks that SQLite has on it in this process.
    """
    _make_directories(os.path.dirname(path))
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    except FileExistsError:
        require_file(path)
        return
    try:
        os.fchmod(descriptor, PRIVATE)
    finally:
        os.close(descriptor)


def require_file(path: str) -> None:
    """Raise StoreUnusable if ``path`` is something else than a file; OSError if it is nothing."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise unusable(path, "it is a directory")
    if not stat.S_ISREG(mode):
        raise unusable(path, "it is no ordinary file")


def _make_directories(path: str) -> None:
    if os.path.isdir(path):
        return
    _make_directories(os.path.dirname(path))
    try:
        os.mkdir(path, _PRIVATE_DIRECTORY)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def connect(path: str, patience: float, *, read_only: bool) -> sqlite3.Connection:
    """Return a connection to the file ``path``, which must be there. Raises sqlite3.Error.

    ``patience``: seconds to wait for a lock. Transactions begin where it is said. A reader opens the file as a writer
    would where it may, because otherwise it would leave the files of the write-ahead log behind when it is the last.
    """
    mode = "ro" if read_only and not os.access(path, os.W_OK) else "rw"
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode={mode}",
        uri=True,
        timeout=patience,
        isolation_level=None,
        check_same_thread=False,  # one thread at a time, which is what the interface asks for
    )
    if read_only:
        connection.execute("PRAGMA query_only = ON")
        connection.execute(f"PRAGMA cache_size = -{_READER_CACHE}")
    return connection


class DaemonLock:
    """A lock that at most one process holds, as long as it lives: a file beside the store, locked as a whole.

    The file stays when the lock is given up: if it were deleted, two processes could hold a lock on two files of this
    name. SQLite's own locks would not do, as they are held for a moment only.
    """

    def __init__(self, path: str) -> None:
        self._path = f"{path}.lock"
        self._store = path
        self._hold: Hold | None = None

    def take(self) -> None:
        """Take it. Raises StoreUnusable if another process has it, and OSError."""
        while self._hold is None:
            try:
                self._hold = lock(self._path)
            except BlockingIOError:
                raise unusable(
                    self._store, "another ccmproxy has it; each daemon needs a store of its own"
                ) from None
            except LockFileGone:
                continue

    @property
    def is_held(self) -> bool:
        """Whether this process has the lock, and its file is still the one that others would find."""
        return self._hold is not None and self._hold.is_found

    def give_up(self) -> None:
        """Let others have it. Idempotent."""
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.close()
