"""Entries are kept in the order in which they came, as long as there is room, until they are released."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import stat
import threading
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from ccmproxy.store import segment as segments
from ccmproxy.store.journal import Journal, JournalUnavailable
from ccmproxy.store.orphans import orphans
from ccmproxy.store.segment import HEADER, MIB, SMALLEST
from tests.profiles import examples
from tests.store.folder import KIB, FolderCase, largest_file
from tests.store.records import CLOSED, OPENED, frame, record

#: How long the frame of a closed entry is (bytes).
SIZE = len(frame(CLOSED))


class MadeTests(FolderCase):
    """What is there from the beginning."""

    def test_private(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        journal = self.journal(MIB)
        self.assertEqual(stat.S_IMODE(os.stat(self.folder).st_mode), 0o700)
        self.assertEqual(self.files(), [f"{journal.name}-00000001.journal", f"{journal.name}.lock"])
        for file in self.files():
            self.assertEqual(stat.S_IMODE(os.stat(os.path.join(self.folder, file)).st_mode), 0o600)
        self.assertEqual(os.stat(os.path.join(self.folder, self.files()[0])).st_size, MIB)

    def test_a_directory_that_is_open_to_others(self) -> None:
        os.makedirs(self.folder)
        os.chmod(self.folder, 0o755)
        self.journal()
        self.assertEqual(stat.S_IMODE(os.stat(self.folder).st_mode), 0o700)

    def test_no_directory(self) -> None:
        path = self.write("file", b"")
        for folder, reason in ((path, "File exists"), (f"{path}/deeper", "Not a directory")):
            error = self.assertRaises(JournalUnavailable, Journal, folder)
            self.assertEqual(str(error), f"no journal can be kept in {folder}: {reason}")

    def test_no_locks(self) -> None:
        def refuse(descriptor: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        self.patch(fcntl, "flock", refuse)
        error = self.assertRaises(JournalUnavailable, Journal, self.folder)
        self.assertIn("No locks available", str(error))

    def test_whoever_looks_for_orphans_meanwhile(self) -> None:
        """takes the lock file of a journal that is being made for one that was left behind. Then another is made."""
        lock = fcntl.flock

        def late(descriptor: int, operation: int) -> None:
            self.patch(fcntl, "flock", lock)
            orphans(self.folder)
            lock(descriptor, operation)

        self.patch(fcntl, "flock", late)
        journal = self.journal()
        self.assertEqual(self.files("lock"), [f"{journal.name}.lock"])
        self.assertEqual(orphans(self.folder).journals, ())


class AppendTests(FolderCase):
    """What is appended is there, in order."""

    def test_in_order(self) -> None:
        """Whether the writer makes the next segment or the append has to."""
        for is_prepared in (True, False):
            journal = self.journal(4 * KIB, 100)
            positions = []
            for number in range(100):
                position = journal.append(frame(CLOSED, number))
                assert position is not None
                positions.append(position)
                if is_prepared:
                    journal.prepare()
            self.assertEqual(positions, sorted(set(positions)))
            self.assertGreater(len(self.files("journal")), 5)
            self.assertEqual((journal.lost, journal.problem), (0, None))
            journal.close()
            self.assertEqual(self.left_behind(delete=True), [record(number) for number in range(100)])

    def test_a_frame_that_just_fits(self) -> None:
        journal = self.journal(len(HEADER) + SIZE, 2)
        self.assertIsNone(journal.append(frame(CLOSED) + b"\0"))
        self.assertEqual(journal.lost, 1)
        self.assertIsNotNone(journal.append(frame(CLOSED)))
        self.assertIsNotNone(journal.append(frame(CLOSED, 1)))
        self.assertIsNone(journal.append(frame(CLOSED, 2)))
        journal.close()
        self.assertEqual(self.left_behind(), [record(0), record(1)])

    def test_nobody_else_takes_it(self) -> None:
        journal = self.journal()
        journal.append(frame(CLOSED))
        self.assertEqual(orphans(self.folder).journals, ())

    def test_after_the_end(self) -> None:
        journal = self.journal()
        journal.append(frame(CLOSED))
        for _ in range(2):
            journal.close()
            self.assertEqual(self.files("lock"), [f"{journal.name}.lock"], "somebody else may hold it now")
        self.assertIsNone(journal.append(frame(CLOSED, 1)))
        journal.prepare()
        journal.sync()
        journal.release(2**60)
        self.assertIsNone(journal.append(frame(CLOSED, 1)))
        self.assertEqual(journal.lost, 2)
        self.assertEqual(self.left_behind(), [record(0)])

    @examples(30)
    @given(st.lists(st.sampled_from(["append", "prepare", "sync", "release"]), max_size=60))
    def test_any_order(self, steps: list[str]) -> None:
        """What was appended and not released is there, whatever else was done."""
        journal = Journal(self.folder, len(HEADER) + 3 * SIZE, 4)
        taken: list[tuple[int, int]] = []
        numbers, released = count(), 0
        for step in steps:
            if step == "append":
                number = next(numbers)
                position = journal.append(frame(CLOSED, number))
                if position is not None:
                    taken.append((position, number))
            elif step == "release":
                released = max([released, *(position for position, _ in taken[: len(taken) // 2 + 1])])
                journal.release(released)
            else:
                getattr(journal, step)()
        self.assertLessEqual(len(self.files("journal")), 4)
        journal.close()
        found = {each.key for each in self.left_behind(delete=True)}
        self.assertTrue(found <= {record(number).key for _, number in taken})
        self.assertTrue(found >= {record(number).key for position, number in taken if position > released})
        self.assertEqual(self.files(), [])


class ReleaseTests(FolderCase):
    """What is needed no more is deleted, and nothing else."""

    def test_whole_segments(self) -> None:
        journal = self.journal(len(HEADER) + 2 * SIZE)
        positions = [journal.append(frame(CLOSED, number)) or 0 for number in range(6)]
        numbers = []
        for position in positions:
            journal.release(position)
            numbers.append([int(file[-10:-8]) for file in self.files("journal")])
        self.assertEqual(numbers, [[1, 2, 3], [2, 3], [2, 3], [3], [3], [3]])
        journal.append(frame(CLOSED, 6))
        journal.release(0)
        self.assertEqual([int(file[-10:-8]) for file in self.files("journal")], [4])

    def test_an_end_without_anything_left(self) -> None:
        journal = self.journal(len(HEADER) + 2 * SIZE)
        for number in range(5):
            position = journal.append(frame(CLOSED, number)) or 0
        journal.prepare()
        journal.release(position)
        journal.close()
        self.assertEqual(self.files(), [])

    def test_an_end_with_something_left(self) -> None:
        """It takes no more room than it needs."""
        journal = self.journal(MIB)
        position = journal.append(frame(CLOSED, 0)) or 0
        journal.append(frame(CLOSED, 1))
        journal.prepare()
        journal.release(position)
        journal.close()
        (file,) = self.files("journal")
        self.assertEqual(os.stat(os.path.join(self.folder, file)).st_size, len(HEADER) + 2 * SIZE)
        self.assertEqual(self.left_behind(delete=True), [record(0), record(1)])
        self.assertEqual(self.files(), [])

    def test_without_entries(self) -> None:
        self.journal().close()
        self.assertEqual(self.files(), [])

    def test_files_that_cannot_be_deleted(self) -> None:
        journal = self.journal(len(HEADER) + SIZE)
        for number in range(3):
            position = journal.append(frame(CLOSED, number)) or 0
        real = os.unlink

        def refuse(path: str) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        self.patch(os, "unlink", refuse)
        journal.release(position)
        self.assertIn("cannot be deleted: Read-only file system", journal.problem or "")
        self.assertEqual(len(self.files("journal")), 3)
        self.patch(os, "unlink", real)
        journal.release(position)
        self.assertEqual((journal.problem, len(self.files("journal"))), (None, 1))
        self.patch(os, "unlink", refuse)
        journal.close()
        self.patch(os, "unlink", real)
        self.assertEqual(self.left_behind(delete=True), [record(2)])


class SyncTests(FolderCase):
    """What is written to the disk, and what if that fails."""

    def setUp(self) -> None:
        super().setUp()
        self.synced: list[int] = []
        self.error: OSError | None = None
        real = segments.sync_data

        def sync(descriptor: int) -> None:
            if self.error:
                raise self.error
            real(descriptor)
            self.synced.append(os.fstat(descriptor).st_ino)

        self.patch(segments, "sync_data", sync)

    def inodes(self) -> list[int]:
        """Of the segments."""
        return [os.stat(os.path.join(self.folder, file)).st_ino for file in self.files("journal")]

    def test_once(self) -> None:
        journal = self.journal(len(HEADER) + SIZE)
        self.synced.clear()
        for number in range(2):
            journal.append(frame(CLOSED, number))
        journal.sync()
        self.assertEqual(self.synced, self.inodes())
        journal.sync()
        self.assertEqual(len(self.synced), 2)
        journal.append(frame(CLOSED, 2))
        journal.sync()
        self.assertEqual(self.synced, self.inodes())

    def test_again_when_there_is_more(self) -> None:
        journal = self.journal()
        for number in range(3):
            journal.append(frame(CLOSED, number))
            self.synced.clear()
            journal.sync()
            self.assertEqual(self.synced, self.inodes())

    def test_the_names_too(self) -> None:
        synced: list[str] = []
        self.patch(segments, "sync_directory", synced.append)
        journal = self.journal()
        for number in range(3):
            journal.append(frame(CLOSED, number))
            journal.sync()
        self.assertEqual(synced, [self.folder])

    def test_at_the_end(self) -> None:
        journal = self.journal()
        journal.append(frame(CLOSED))
        self.synced.clear()
        journal.close()
        self.assertEqual(self.synced, self.inodes())

    def test_failure(self) -> None:
        """It is told, it is tried again, and what comes then goes to another segment."""
        journal = self.journal()
        journal.append(frame(CLOSED, 0))
        journal.prepare()
        self.error = OSError(errno.EIO, os.strerror(errno.EIO))
        journal.sync()
        self.assertIn("cannot be synced: Input/output error", journal.problem or "")
        journal.append(frame(CLOSED, 1))
        self.assertEqual(len(self.files("journal")), 2)
        self.error = None
        self.synced.clear()
        journal.sync()
        self.assertEqual(self.synced, self.inodes())
        self.assertIsNone(journal.problem)
        journal.close()
        self.assertEqual(self.left_behind(), [record(0), record(1)])


class FullTests(FolderCase):
    """Where there is no room, entries are lost and counted, and nothing fails."""

    def test_as_many_segments_as_there_may_be(self) -> None:
        journal = self.journal(4 * KIB, 2)
        numbers = count()
        taken = self.fill(journal, numbers)
        self.assertEqual(len(taken), 2 * ((4 * KIB - len(HEADER)) // SIZE))
        self.assertEqual(taken + self.fill(journal, numbers), taken)
        self.assertEqual(journal.lost, 2)
        self.assertIn("has all of the 2 segments that it may have", journal.problem or "")
        journal.prepare()
        self.assertEqual(len(self.files("journal")), 2)
        journal.close()
        self.assertEqual(self.left_behind(), [record(each) for each in taken])

    def test_room_again(self) -> None:
        """What is released makes room, also where there is room for one segment alone."""
        for most in (1, 3):
            journal = self.journal(4 * KIB, most)
            position = 0
            for number in count():
                last = journal.append(frame(CLOSED, number))
                if last is None:
                    break
                position = last
            journal.prepare()
            self.assertIsNone(journal.append(frame(CLOSED)))
            journal.release(position)
            journal.prepare()
            self.assertEqual((len(self.files("journal")), journal.problem), (1, None))
            self.assertEqual(len(self.fill(journal, count())), most * ((4 * KIB - len(HEADER)) // SIZE))
            journal.close()
            self.left_behind(delete=True)

    def test_no_room_at_the_start(self) -> None:
        """Nothing fails, and it begins when there is room."""
        with largest_file(SMALLEST - 1):
            journal = self.journal(MIB)
            self.assertIsNone(journal.append(frame(CLOSED, 0)))
            self.assertIn("cannot grow: File too large", journal.problem or "")
            self.assertEqual(self.files(), [f"{journal.name}.lock"])
        self.assertIsNone(journal.append(frame(CLOSED, 1)), "only the writer tries again")
        journal.prepare()
        # Enough for two segments, of which the appends make the second one.
        for number in range(2, MIB // SIZE + 10):
            self.assertIsNotNone(journal.append(frame(CLOSED, number)))
        self.assertEqual((journal.lost, journal.problem), (2, None))
        journal.close()
        self.assertEqual(self.left_behind()[0], record(2))

    def test_appends_do_not_try_again_and_again(self) -> None:
        """They would keep the reactor with a disk that is known to be full."""
        journal = self.journal(len(HEADER) + SIZE)
        tries = []

        def refuse(*arguments: object) -> None:
            tries.append(arguments)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        self.patch(segments, "create", refuse)
        self.assertIsNotNone(journal.append(frame(CLOSED, 0)))
        for number in range(5):
            self.assertIsNone(journal.append(frame(CLOSED, number)))
        self.assertEqual(len(tries), 1)
        self.assertIn("No space left", journal.problem or "")

    def test_less_room(self) -> None:
        """Smaller segments do as well."""
        with largest_file(SMALLEST):
            journal = self.journal(MIB, 3)
            taken = self.fill(journal, count())
        self.assertEqual(len(taken), 3 * ((SMALLEST - len(HEADER)) // SIZE))
        journal.close()
        self.assertEqual(self.left_behind(), [record(each) for each in taken])

    def test_room_for_a_part(self) -> None:
        """What was written in part does not hide what follows: that stands in the next segment."""
        journal = self.journal(4 * KIB)
        journal.append(frame(CLOSED, 0))
        journal.append(frame(CLOSED, 1))
        journal.prepare()
        with largest_file(len(HEADER) + 2 * SIZE + 100):
            self.assertIsNotNone(journal.append(frame(CLOSED, 2)))
            self.assertIsNotNone(journal.append(frame(CLOSED, 3)))
            self.assertIsNone(journal.append(frame(CLOSED, 4)))
            self.assertEqual(journal.lost, 1)
        self.assertIn("was written only in part", journal.problem or "")
        journal.prepare()
        self.assertIsNotNone(journal.append(frame(CLOSED, 5)))
        self.assertIsNone(journal.problem)
        journal.close()
        (orphan,) = orphans(self.folder).journals
        self.addCleanup(orphan.close)
        self.assertEqual(list(orphan.records()), [record(number) for number in (0, 1, 2, 3, 5)])

    def test_a_disk_that_fails(self) -> None:
        """Both segments refuse: the entry is lost, and the sentence says why."""
        journal = self.journal(4 * KIB)
        journal.append(frame(CLOSED, 0))
        journal.prepare()
        with largest_file(1):
            for number in range(3):
                self.assertIsNone(journal.append(frame(CLOSED, number)))
        self.assertEqual(journal.lost, 3)
        self.assertIn("cannot be written: File too large", journal.problem or "")
        journal.close()
        self.assertEqual(self.left_behind(), [record(0)])


class ThreadTests(FolderCase):
    """The writer's thread beside the reactor's."""

    def test_together(self) -> None:
        """Nothing is lost, nothing is twice, and no segment is deleted that is needed."""
        journal = self.journal(8 * KIB, 1000)
        ended = threading.Event()
        durable = [0]
        problems: list[object] = []

        def write() -> None:
            draw = random.Random(1)
            try:
                while not ended.is_set():
                    for step in draw.sample(["prepare", "sync", "release", ""], 2):
                        if step == "release":
                            journal.release(durable[0])
                        elif step:
                            getattr(journal, step)()
                    ended.wait(0.0005)
            except BaseException as error:
                problems.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        positions = []
        try:
            for number in range(6000):
                position = journal.append(frame(OPENED if number % 7 else CLOSED, number))
                assert position is not None, journal.problem
                positions.append(position)
                if number > 1500:
                    durable[0] = positions[number - 1500]
                if number % 100 == 0:
                    ended.wait(0.001)
        finally:
            ended.set()
            writer.join()
        self.assertEqual((problems, journal.problem, journal.lost), ([], None, 0))
        self.assertEqual(positions, sorted(set(positions)))
        journal.release(durable[0])
        journal.close()
        found = sorted(each.started_at for each in self.left_behind())
        self.assertEqual(found, sorted(set(found)))
        self.assertEqual(found[-1499:], [record(number).started_at for number in range(4501, 6000)])
        self.assertLess(len(found), 1600)
