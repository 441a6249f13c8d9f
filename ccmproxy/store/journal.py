"""The journal of one process: a record is in it before a client sees the end of its answer, whatever kills the process
then (spec 9.2).

What was written by ``os.pwrite`` is in the memory of the kernel. It survives the process, but not a loss of power; for
that it is synced once a second.

Two threads use a journal: the reactor's appends, and one other, the writer's, does everything that may wait for the
disk. They share:

- the list of segments. Only appends add to its end, only releases delete from its beginning, and each of these, as well
  as the copy that a sync makes, is one operation of the interpreter on a list, which no other thread interrupts;
- ``end`` and ``is_full`` of a segment, which only appends change. An ``end`` that is read too early is smaller than the
  true one: the sync leaves the difference to the next one. ``is_full`` is set when ``end`` is final, and it is read
  first. So nothing is deleted that is still being written;
- ``limit``, which a failed sync sets to 0. An append that has just compared it may add one more entry to that segment,
  which is then as good as the one before it;
- the spare segment. The writer makes one where there is none, an append takes the one that is there. Making and taking
  exclude each other by a lock, for which an append waits only when its segment is full.

So no append takes a lock, except one in some hundred thousand that begins a segment.
"""

from __future__ import annotations

import os
import stat
import threading
import uuid
from contextlib import suppress
from typing import Final

from ccmproxy.store import segment as segments
from ccmproxy.store.hold import Hold, take
from ccmproxy.store.segment import HEADER, LARGEST, LOCK, MIB, Segment

#: Mode of the directory of journals.
_PRIVATE_DIRECTORY: Final = 0o700
#: How often another name is tried when somebody takes the lock file of a new journal for one that was left behind.
_ATTEMPTS: Final = 10


class JournalUnavailable(Exception):
    """No journal can be kept in a directory. ``str()`` is a sentence that says why."""


class Journal:
    """A new journal in ``directory``, which is made if it is missing, with mode 0700.

    ``segment_size``: of each file (bytes), which takes that much room on the disk from the beginning.
    ``max_segments``: how many there may be, the spare one included; at least 1. ``name``: of the journal, unique.
    ``lost``: how many entries were not taken.

    Raises JournalUnavailable when the directory cannot be made or is not ours, or when it has no locks. A disk that is
    full is no error: see :attr:`problem`. Waits for the disk, as does every method except :meth:`append`.
    """

    def __init__(self, directory: str, segment_size: int = 64 * MIB, max_segments: int = 16) -> None:
        self.directory = directory
        self.lost = 0
        self._segment_size = min(segment_size, LARGEST)
        self._max_segments = max_segments
        try:
            _make_private(directory)
            self.name, self._hold = _begin(directory)
        except OSError as error:
            reason = _reason(error)
            raise JournalUnavailable(f"no journal can be kept in {directory}: {reason}") from None
        #: In the order of their numbers; the last one is the current one.
        self._segments: list[Segment] = []
        self._current = _no_segment()
        self._spare: Segment | None = None
        self._making = threading.Lock()
        self._number = 0
        #: The last attempt to make a segment failed; the next one is made by the writer.
        self._is_blocked = False
        self._is_closed = False
        self._released = 0
        self._no_room = ""
        self._not_written = ""
        self._not_synced = ""
        self._not_deleted = ""
        self.prepare()

    @property
    def problem(self) -> str | None:
        """A sentence about what is wrong at present, None if nothing is."""
        return self._not_written or self._no_room or self._not_synced or self._not_deleted or None

    # The reactor's thread ---------------------------------------------------------------------------------

    def append(self, frame: bytes) -> int | None:
        """Write a frame (see :mod:`.entries`), and return its position; None if there is no room for it, or the journal
        is closed, which is counted in :attr:`lost`. Never raises.

        Positions grow. The frame survives the end of this process when this returns.
        """
        segment = self._current
        begin = segment.end
        end = begin + len(frame)
        if end <= segment.limit:
            try:
                if os.pwrite(segment.descriptor, frame, begin) == len(frame):
                    segment.end = end
                    return segment.first + end
            except OSError as error:
                self._not_written = f"the journal {segment.path} cannot be written: {_reason(error)}"
            else:
                self._not_written = f"the journal {segment.path} was written only in part"
        return self._append_to_next(frame)

    def _append_to_next(self, frame: bytes) -> int | None:
        """Begin a segment with this frame, if there is room for one. In the present one, it would stand behind what may
        have been written of it in part, where nobody finds it."""
        if len(HEADER) + len(frame) > self._segment_size or not self._begin_segment():
            self.lost += 1
            return None
        segment = self._current
        end = segment.end + len(frame)
        try:
            written = os.pwrite(segment.descriptor, frame, segment.end) if end <= segment.limit else 0
        except OSError:
            written = 0
        if written < len(frame):
            segment.limit = 0  # Likewise.
            self.lost += 1
            return None
        segment.end = end
        self._not_written = ""
        return segment.first + end

    def _begin_segment(self) -> bool:
        """Let another segment be the current one, and make it if the writer has not. Returns whether there is one."""
        segment = None
        if self._spare is not None or not self._is_blocked:
            with self._making:
                segment, self._spare = self._spare, None
                if segment is None:
                    segment = self._make(is_durable=False)
        if segment is not None:
            self._segments.append(segment)
        full, self._current = self._current, segment or _no_segment()
        # Even if there is no other one: only what is full can be released, and so make room for another one.
        full.is_full = True
        return segment is not None

    # The writer's thread ----------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the segment that comes next, if there is none yet, and if there is room. Call it once a second."""
        with self._making:
            if self._spare is None and not self._is_closed:
                self._spare = self._make(is_durable=True)
                self._is_blocked = self._spare is None

    def sync(self) -> None:
        """Write everything to the disk that was appended before the call. Call it once a second. If that fails, it is a
        :attr:`problem`, the next call tries again, and nothing more is appended to that segment."""
        problem = ""
        for segment in tuple(self._segments):
            end = segment.end
            if end == segment.synced:
                continue
            try:
                segments.sync_data(segment.descriptor)
                if not segment.synced:
                    segments.sync_directory(self.directory)
            except OSError as error:
                segment.limit = 0
                problem = f"the journal {segment.path} cannot be synced: {_reason(error)}"
            else:
                segment.synced = end
        self._not_synced = problem

    def release(self, position: int) -> None:
        """Every entry up to ``position`` is durable elsewhere, or needed no more: delete the segments that hold nothing
        else and are full.

        An opened entry is needed until its answer's record is durable: ``position`` has to stay below that of every
        opened entry whose answer goes on.
        """
        self._released = max(self._released, position)
        while self._segments:
            # The oldest one first: an entry that closes must not be gone before the one that opened.
            segment = self._segments[0]
            if not segment.is_full or segment.position > self._released or not self._discard(segment):
                return
            del self._segments[0]

    # Either thread, when the other one uses the journal no more -------------------------------------------

    def close(self) -> None:
        """Sync and close it. What was not released is left for :func:`.orphans`; the other files are deleted."""
        with self._making:
            if self._is_closed:
                return
            self._is_closed = self._is_blocked = True
            spare, self._spare = self._spare, None
            self._current = _no_segment()
        self.sync()
        is_left = False
        for segment in [*self._segments, *([spare] if spare else [])]:
            is_needed = not segment.is_empty and segment.position > self._released
            if is_needed or not self._discard(segment):
                segment.finish()
                is_left = True
        self._segments.clear()
        if not is_left:
            # What fails here leaves a journal without segments, which orphans() deletes.
            with suppress(OSError):
                self._hold.remove()
        self._hold.close()

    def _discard(self, segment: Segment) -> bool:
        try:
            segment.discard()
        except OSError as error:
            self._not_deleted = f"the journal {segment.path} cannot be deleted: {_reason(error)}"
            return False
        self._not_deleted = ""
        return True

    def _make(self, is_durable: bool) -> Segment | None:
        """Return a new segment, None if there is no room. The caller holds the lock."""
        if len(self._segments) >= self._max_segments:
            self._no_room = (
                f"the journal {self.name} in {self.directory} has all of the {len(self._segments)} segments that it"
                " may have"
            )
            return None
        self._number += 1
        try:
            made = segments.create(self.directory, self.name, self._number, self._segment_size, is_durable)
        except OSError as error:
            self._is_blocked = True
            self._no_room = f"the journal {self.name} in {self.directory} cannot grow: {_reason(error)}"
            return None
        self._no_room = ""
        return made


def _no_segment() -> Segment:
    """Return what stands where there is no segment: nothing fits in."""
    return Segment("", 0, -1, 0)


def _make_private(directory: str) -> None:
    """Make the directory, and let nobody else into it. Raises OSError."""
    os.makedirs(directory, _PRIVATE_DIRECTORY, exist_ok=True)
    if stat.S_IMODE(os.stat(directory).st_mode) != _PRIVATE_DIRECTORY:
        os.chmod(directory, _PRIVATE_DIRECTORY)


def _begin(directory: str) -> tuple[str, Hold]:
    """Return the name of a new journal, and its lock. Raises OSError."""
    for _ in range(_ATTEMPTS):
        name = str(uuid.uuid4())
        # None: somebody looked for journals that were left behind between the making of the file and its locking.
        hold = take(os.path.join(directory, name + LOCK), is_new=True)
        if hold is not None:
            return name, hold
    raise OSError("its lock files are taken away")


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
