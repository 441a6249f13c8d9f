"""One file of a journal: its name, its room, and how far it is written."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from ccmproxy.store.entries import HEAD_SIZE, LONGEST_PAYLOAD
from ccmproxy.store.hold import PRIVATE

KIB: Final = 1024
MIB: Final = 1024 * KIB

#: What a segment begins with. The number is that of the format: a program leaves the segments of another one alone.
HEADER: Final = b"ccm journal 001\n"
#: The least room that a segment is given where there is no room for a whole one (bytes). Every frame fits in.
SMALLEST: Final = 128 * KIB
#: Endings of the names of a segment, of one that is being made, and of the file whose lock the journal's owner has.
WHOLE: Final = ".journal"
BEGUN: Final = ".new"
LOCK: Final = ".lock"

#: The name of a journal, and for a segment its number.
FILE_NAME: Final = re.compile(
    r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:-([0-9]{8,})(?:\.journal|\.new)|\.lock)"
)

#: Bits of a position that are the place in its segment. The others are the segment's number.
_PLACE_BITS: Final = 32
#: The largest segment (bytes), so that every place in it fits into a position.
LARGEST: Final = (1 << _PLACE_BITS) - 1

#: The errors of file systems that cannot give a file its room.
_NO_ALLOCATION: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV})
#: The errors of a disk or a quota that has less room than was asked for.
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: The errors of file systems that cannot sync a directory.
_NO_DIRECTORY_SYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})

assert len(HEADER) + HEAD_SIZE + LONGEST_PAYLOAD <= SMALLEST

#: Writes the content of a file to the disk, and of its description what is needed to find it. (macOS has no fdatasync.)
sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


class Segment:
    """A segment that is being written. ``number``: in the journal, from 1; ``path``: its file.

    Which thread may change what: ``end`` and ``is_full`` that of the appends, ``synced`` that of the syncs, ``limit``
    both, but only to 0.
    """

    __slots__ = ("descriptor", "end", "first", "is_full", "limit", "path", "synced")

    def __init__(self, path: str, number: int, descriptor: int, limit: int) -> None:
        self.path = path
        self.descriptor = descriptor
        #: What the place in the segment is added to, to get a position.
        self.first = number << _PLACE_BITS
        #: Up to where it may be written (bytes); 0 when nothing more may be.
        self.limit = limit
        #: Up to where it is written (bytes).
        self.end = len(HEADER)
        #: Up to where it is on the disk (bytes); 0 if its name may not be there either.
        self.synced = 0
        #: Nothing will be appended any more.
        self.is_full = False

    @property
    def position(self) -> int:
        """Of the last entry."""
        return self.first + self.end

    @property
    def is_empty(self) -> bool:
        """Whether it has no entries."""
        return self.end == len(HEADER)

    def discard(self) -> None:
        """Close it and delete it. Raises OSError when the file cannot be deleted; it is still open then."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        os.close(self.descriptor)

    def finish(self) -> None:
        """Give back the room that was not needed, and close it."""
        try:
            os.ftruncate(self.descriptor, self.end)
        except OSError:
            pass  # The zeros at its end are not read.
        os.close(self.descriptor)


def create(directory: str, name: str, number: int, size: int, is_durable: bool) -> Segment:
    """Make a segment of the journal ``name`` with room for ``size`` bytes (at most LARGEST), or for as much as there
    is: a half, a quarter and so on, down to SMALLEST. A nearly full disk is not filled by that.

    It gets its name when it is complete, so that a kill leaves no segment without a header. ``is_durable``: the header
    is on the disk before that, for which the disk is waited for. Raises OSError when there is no room at all, or the
    system refuses; no file is left behind then.
    """
    path = os.path.join(directory, f"{name}-{number:08d}{WHOLE}")
    begun = path.removesuffix(WHOLE) + BEGUN
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(begun, flags, PRIVATE)
    try:
        os.fchmod(descriptor, PRIVATE)  # The umask may have removed permissions of the owner.
        room = _allocate_some(descriptor, size)
        write_whole(descriptor, HEADER, 0)
        if is_durable:
            sync_data(descriptor)
        os.rename(begun, path)
    except BaseException:
        os.close(descriptor)
        with suppress(OSError):
            os.unlink(begun)
        raise
    return Segment(path, number, descriptor, room)


def _allocate_some(descriptor: int, size: int) -> int:
    """Give the file its room, and return how much (bytes). Raises OSError when there is none.

    As long as it can be smaller, it takes no more than half of what is free: the database that the entries go to needs
    room too, and while it has none, nothing is released.
    """
    disk = os.fstatvfs(descriptor)
    while disk.f_blocks and size > disk.f_bavail * disk.f_frsize // 2 and size // 2 >= SMALLEST:
        size //= 2
    while True:
        try:
            _allocate(descriptor, size)
            return size
        except OSError as error:
            if error.errno not in _NO_ROOM or size // 2 < SMALLEST:
                raise
        os.ftruncate(descriptor, 0)  # The part for which there was room.
        size //= 2


def _allocate(descriptor: int, size: int) -> None:
    """Give the file ``size`` bytes of the disk. Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in _NO_ALLOCATION:
                raise
    fill(descriptor, size)


def fill(descriptor: int, size: int) -> None:
    """Write ``size`` zeros, where the system cannot give a file room without that. Raises OSError."""
    zeros = bytes(MIB)
    for begin in range(0, size, MIB):
        write_whole(descriptor, zeros[: size - begin], begin)


def write_whole(descriptor: int, data: bytes, place: int) -> None:
    """Write ``data`` at ``place``. Raises OSError, with ENOSPC if only a part of it could be written."""
    if os.pwrite(descriptor, data, place) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sync_directory(directory: str) -> None:
    """Write the names of new files to the disk. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(descriptor)
