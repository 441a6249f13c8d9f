"""The journals that nobody holds: what processes left behind that were killed, or could not save everything."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from ccmproxy.state.usage_record import UsageRecord
from ccmproxy.store.entries import Entry, EntryReader, settled
from ccmproxy.store.hold import Hold, take
from ccmproxy.store.segment import BEGUN, FILE_NAME, HEADER, LOCK, MIB


class Orphan:
    """A journal that nobody holds but this object, until it is deleted or closed. ``name``: of the journal.

    ``problems``: a sentence for each file of which not everything could be read.
    """

    def __init__(self, hold: Hold, directory: str, name: str, whole: list[str], begun: list[str]) -> None:
        self.name = name
        self.problems: list[str] = []
        self._hold = hold
        self._directory = directory
        self._whole = whole
        self._begun = begun
        self._read: set[str] = set()

    def entries(self) -> Iterator[Entry]:
        """Yield all entries, in the order in which they were written, from one segment in memory at a time.

        Never raises: a segment that cannot be read is left out, left alone and named in :attr:`problems`, as are
        entries that are damaged or that only another program understands.
        """
        for file in self._whole:
            path = os.path.join(self._directory, file)
            try:
                reader = EntryReader(_content(path), len(HEADER))
            except OSError as error:
                self.problems.append(_unreadable(path, error))
                continue
            yield from reader
            self._read.add(file)
            if reader.unreadable:
                self.problems.append(f"{path} has {reader.unreadable} entries that cannot be understood")
            if reader.is_damaged:
                self.problems.append(f"{path} has no whole entry after byte {reader.good}")

    def records(self) -> Iterator[UsageRecord]:
        """Yield the records that the entries amount to, see :func:`.settled`."""
        return settled(self.entries())

    def delete(self) -> None:
        """Delete every segment that was read to its end, as its entries are durable elsewhere, and close it. Raises
        OSError when a file cannot be deleted; the rest is still there then, and it is closed."""
        try:
            # The oldest one first: an entry that closes must not be gone before the one that opened.
            for file in [*self._begun, *(each for each in self._whole if each in self._read)]:
                os.unlink(os.path.join(self._directory, file))
            if self._read.issuperset(self._whole):
                self._hold.remove()
        finally:
            self.close()

    def close(self) -> None:
        """Leave it to whoever looks next. Does nothing the second time."""
        self._hold.close()


@dataclass(frozen=True, slots=True)
class Orphans:
    """What lies in a directory of journals. ``problems``: a sentence for each file that was left alone, except for
    those of journals that somebody holds."""

    journals: tuple[Orphan, ...]
    problems: tuple[str, ...]


def orphans(directory: str) -> Orphans:
    """Return the journals in ``directory`` that nobody holds. The caller holds them from now on, and has to delete or
    close each of them.

    Never raises. A directory that is missing has none. What is no journal of this program is left alone: other files,
    symbolic links, empty files, files that cannot be read. Waits for the disk.
    """
    problems: list[str] = []
    names: set[str] = set()
    try:
        for file in sorted(os.listdir(directory)):
            if match := FILE_NAME.fullmatch(file):
                names.add(match[1])
            else:
                problems.append(f"{os.path.join(directory, file)} is no journal")
    except FileNotFoundError:
        pass
    except OSError as error:
        problems.append(_unreadable(directory, error))
    found = []
    for name in sorted(names):
        path = os.path.join(directory, name + LOCK)
        try:
            hold = take(path)
        except OSError as error:
            problems.append(_unreadable(path, error))
            continue
        if hold is None:
            continue
        try:
            orphan = _adopt(hold, directory, name, problems)
        except OSError as error:
            hold.close()
            problems.append(_unreadable(directory, error))
            continue
        if orphan is not None:
            found.append(orphan)
    return Orphans(tuple(found), tuple(problems))


def _adopt(hold: Hold, directory: str, name: str, problems: list[str]) -> Orphan | None:
    """Return the journal whose lock is ``hold``. If it has no segments, delete what there is of it, and return None.

    Raises OSError when the system refuses.
    """
    # Listed again: until the lock was taken, its owner may have begun and deleted segments.
    files = sorted(each for each in os.listdir(directory) if each.startswith(f"{name}-"))
    whole = []
    for file in files:
        if not FILE_NAME.fullmatch(file) or file.endswith(BEGUN):
            continue
        path = os.path.join(directory, file)
        try:
            problem = _why_none(path)
        except OSError as error:
            problem = _unreadable(path, error)
        if problem:
            problems.append(problem)
        else:
            whole.append(file)
    begun = [each for each in files if FILE_NAME.fullmatch(each) and each.endswith(BEGUN)]
    orphan = Orphan(hold, directory, name, whole, begun)
    if whole:
        return orphan
    orphan.delete()
    return None


def _why_none(path: str) -> str | None:
    """Return a sentence if the file at ``path`` is no segment that we understand. Raises OSError if it cannot be
    read."""
    descriptor = _open(path)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return f"{path} is not a regular file"
        if not status.st_size:
            return f"{path} is empty"
        if os.read(descriptor, len(HEADER)) != HEADER:
            return f"{path} is no journal, or one of another version"
    finally:
        os.close(descriptor)
    return None


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _content(path: str) -> bytearray:
    """Return what is written in a segment, and some zeros after it. Raises OSError."""
    content = bytearray()
    descriptor = _open(path)
    try:
        # A frame is much shorter than what is read at once. So where that is zeros, so is the head of a frame.
        while (part := os.read(descriptor, MIB)) and part.count(0) < len(part):
            content += part
    finally:
        os.close(descriptor)
    return content


def _unreadable(path: str, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return f"{path} is a symbolic link"
    return f"{path} cannot be read: {error.strerror or type(error).__name__}"
