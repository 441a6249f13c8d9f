"""What was left behind is found, once, and everything else is left alone."""

from __future__ import annotations

import errno
import os
from itertools import count
from zlib import crc32

from ccmproxy.store.hold import take
from ccmproxy.store.orphans import Orphan, orphans
from ccmproxy.store.segment import HEADER, MIB
from tests.store.folder import KIB, FolderCase
from tests.store.records import CLOSED, OPENED, frame, record

NAME = "00000000-0939-40d2-a762-237e864d7b39"
SEGMENT = f"{NAME}-00000001.journal"
SECOND = f"{NAME}-00000002.journal"


class FoundTests(FolderCase):
    """What is there to be found."""

    def only(self) -> Orphan:
        """The one journal that is found, without problems."""
        found = orphans(self.folder)
        self.assertEqual(found.problems, ())
        (orphan,) = found.journals
        self.addCleanup(orphan.close)
        return orphan

    def test_nothing(self) -> None:
        self.assertEqual(orphans(self.folder).journals, ())
        self.assertEqual(orphans(self.folder).problems, ())
        os.makedirs(self.folder)
        self.assertEqual(orphans(self.folder).journals, ())

    def test_over_segments(self) -> None:
        """One answer's entries may stand in different ones."""
        self.write(SEGMENT, HEADER + frame(OPENED, 1) + frame(OPENED, 2) + bytes(100))
        self.write(SECOND, HEADER + frame(CLOSED, 2, output=5))
        orphan = self.only()
        self.assertEqual(orphan.name, NAME)
        self.assertEqual([each.kind for each in orphan.entries()], [OPENED, OPENED, CLOSED])
        self.assertEqual(
            list(orphan.records()),
            [record(2, output=5), record(1, is_incomplete=True, result="incomplete")],
        )
        orphan.delete()
        self.assertEqual(self.files(), [])

    def test_more_than_is_read_at_once(self) -> None:
        whole = frame(CLOSED, 1, agent="x" * 10_000)
        number = 2 * MIB // len(whole)
        self.write(SEGMENT, HEADER + whole * number + bytes(3 * MIB))
        self.assertEqual(len(list(self.only().entries())), number)

    def test_one_finder(self) -> None:
        self.write(SEGMENT, HEADER + frame(CLOSED))
        orphan = self.only()
        self.assertEqual(orphans(self.folder).journals, ())
        orphan.close()
        self.assertEqual(list(self.only().records()), [record()])

    def test_held(self) -> None:
        """A journal that somebody has is left alone, with all that belongs to it."""
        journal = self.journal()
        self.fill(journal, iter(range(50)))
        for ending in ("-00009999.new", "-00009998.journal"):
            self.write(journal.name + ending, b"")
        before = self.files()
        self.assertEqual(orphans(self.folder).journals, ())
        self.assertEqual(orphans(self.folder).problems, ())
        self.assertEqual(self.files(), before)

    def test_litter(self) -> None:
        """What a kill leaves of a journal that has no entries yet."""
        for files in ([f"{NAME}.lock"], [f"{NAME}-00000001.new"], [f"{NAME}.lock", f"{NAME}-00000001.new"]):
            for file in files:
                self.write(file, b"")
            found = orphans(self.folder)
            self.assertEqual((found.journals, found.problems, self.files()), ((), (), []))

    def test_begun_beside_whole(self) -> None:
        self.write(SEGMENT, HEADER + frame(CLOSED))
        self.write(f"{NAME}-00000002.new", HEADER + frame(CLOSED, 2))
        self.assertEqual(self.left_behind(delete=True), [record()])
        self.assertEqual(self.files(), [])

    def test_taken_between_listing_and_locking(self) -> None:
        """Whoever deleted the journal meanwhile leaves nothing to find, and nothing is left of the search."""
        self.write(SEGMENT, HEADER + frame(CLOSED))
        real = os.listdir

        def late(folder: str) -> list[str]:
            names = real(folder)
            self.patch(os, "listdir", real)
            os.unlink(os.path.join(folder, SEGMENT))
            return names

        self.patch(os, "listdir", late)
        found = orphans(self.folder)
        self.assertEqual((found.journals, found.problems, self.files()), ((), (), []))


class LeftAloneTests(FolderCase):
    """What is none of ours, or cannot be read."""

    def problems(self) -> list[str]:
        """What is said, without the path of the directory; nothing is found, and nothing is changed."""
        before = self.files()
        found = orphans(self.folder)
        self.assertEqual(found.journals, ())
        self.assertEqual(self.files(), before)
        return [each.replace(self.folder + os.sep, "") for each in found.problems]

    def test_other_files(self) -> None:
        self.write("README", b"")
        self.write(f"{NAME}.journal", HEADER)
        self.assertEqual(self.problems(), [f"{NAME}.journal is no journal", "README is no journal"])

    def test_contents(self) -> None:
        for content, problem in (
            (b"", "is empty"),
            (b"x", "is no journal, or one of another version"),
            (bytes(KIB), "is no journal, or one of another version"),
            (HEADER[:-1], "is no journal, or one of another version"),
            (HEADER.replace(b"1", b"2") + frame(CLOSED), "is no journal, or one of another version"),
        ):
            self.write(SEGMENT, content)
            self.assertEqual(self.problems(), [f"{SEGMENT} {problem}"])

    def test_symbolic_links(self) -> None:
        target = self.write("target", HEADER + frame(CLOSED))
        os.rename(target, os.path.join(self.folder, os.pardir, "target"))
        os.symlink("../target", os.path.join(self.folder, SEGMENT))
        self.assertEqual(self.problems(), [f"{SEGMENT} is a symbolic link"])
        os.rename(os.path.join(self.folder, SEGMENT), os.path.join(self.folder, f"{NAME}.lock"))
        self.assertEqual(self.problems(), [f"{NAME}.lock is a symbolic link"])

    def test_what_is_no_file(self) -> None:
        os.makedirs(os.path.join(self.folder, SEGMENT))
        self.assertEqual(self.problems(), [f"{SEGMENT} is not a regular file"])
        os.rmdir(os.path.join(self.folder, SEGMENT))
        os.mkfifo(os.path.join(self.folder, SEGMENT))
        self.assertEqual(self.problems(), [f"{SEGMENT} is not a regular file"])

    def test_no_permission(self) -> None:
        path = self.write(SEGMENT, HEADER + frame(CLOSED))
        lock = self.write(f"{NAME}.lock", b"")
        os.chmod(path, 0)
        # Root may read everything, and another user may have no access to the parent directories.
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        for each in (self.folder, lock):
            os.chmod(each, 0o777)
        if os.geteuid() == 0:
            self.addCleanup(os.seteuid, 0)
            os.seteuid(65534)
        found = orphans(".")
        self.assertEqual(found.problems, (f"./{SEGMENT} cannot be read: Permission denied",))

    def test_no_directory(self) -> None:
        path = self.write("file", b"")
        self.assertEqual(orphans(path).problems, (f"{path} cannot be read: Not a directory",))

    def test_beside_what_is_found(self) -> None:
        self.write(SEGMENT, HEADER + frame(CLOSED))
        self.write(SECOND, b"")
        found = orphans(self.folder)
        self.assertEqual(found.problems, (f"{os.path.join(self.folder, SECOND)} is empty",))
        (orphan,) = found.journals
        self.assertEqual(list(orphan.records()), [record()])
        orphan.delete()
        self.assertEqual(self.files(), [SECOND])


class DeletingTests(FolderCase):
    """Nothing is deleted that was not read."""

    def setUp(self) -> None:
        super().setUp()
        for number, file in enumerate((SEGMENT, SECOND)):
            self.write(file, HEADER + frame(CLOSED, number))
        (self.orphan,) = orphans(self.folder).journals
        self.addCleanup(self.orphan.close)

    def test_unread(self) -> None:
        self.orphan.delete()
        self.assertEqual(self.files(), [SEGMENT, SECOND, f"{NAME}.lock"])
        self.assertEqual(self.left_behind(), [record(0), record(1)])

    def test_read_in_part(self) -> None:
        entries = self.orphan.entries()
        next(entries), next(entries)
        self.orphan.delete()
        self.assertEqual(self.files("journal"), [SECOND])

    def test_not_readable(self) -> None:
        """The other segment counts; this one is named and stays."""
        path = os.path.join(self.folder, SEGMENT)
        os.unlink(path)
        os.mkdir(path)
        self.assertEqual(list(self.orphan.records()), [record(1)])
        self.assertEqual(self.orphan.problems, [f"{path} cannot be read: Is a directory"])
        self.orphan.delete()
        self.assertEqual(self.files("journal"), [SEGMENT])

    def test_damaged(self) -> None:
        """What comes before is used; the rest is of no use to anybody, but it is told."""
        path = os.path.join(self.folder, SEGMENT)
        whole = frame(CLOSED, 5)
        self.write(SEGMENT, HEADER + whole + whole[:-1] + b"?" + whole)
        self.write(SECOND, HEADER + frame(CLOSED, 6) + b"\0\0\0\1\x0d\x8b\xb5\xaf\xc1")
        self.assertEqual([each.request_id for each in self.orphan.records()], ["req_000005", "req_000006"])
        first, second = self.orphan.problems
        self.assertEqual(first, f"{path} has no whole entry after byte {len(HEADER) + len(whole)}")
        self.assertIn("has no whole entry after byte", second)
        self.orphan.delete()
        self.assertEqual(self.files(), [])

    def test_not_understood(self) -> None:
        """Those of another program are told, and do not hide what follows."""
        path = os.path.join(self.folder, SEGMENT)
        payload = b"\x80"
        other = len(payload).to_bytes(4, "big") + crc32(payload).to_bytes(4, "big") + payload
        self.write(SEGMENT, HEADER + other * 2 + frame(CLOSED, 5))
        self.assertEqual(list(self.orphan.records()), [record(5), record(1)])
        self.assertEqual(self.orphan.problems, [f"{path} has 2 entries that cannot be understood"])

    def test_the_oldest_first(self) -> None:
        """When it fails midway, an entry that closes is still there with the one that opened."""
        list(self.orphan.entries())
        removed = []
        real = os.unlink

        def failing(path: str) -> None:
            removed.append(os.path.basename(path))
            if len(removed) == 2:
                raise OSError(errno.EIO, "")
            real(path)

        self.patch(os, "unlink", failing)
        self.assertRaises(OSError, self.orphan.delete)
        self.assertEqual(removed, [SEGMENT, SECOND])
        hold = take(os.path.join(self.folder, f"{NAME}.lock"))
        assert hold is not None
        hold.close()


class OwnJournalsTests(FolderCase):
    """Those that our own journals leave."""

    def test_each_of_many(self) -> None:
        numbers = count()
        expected: list[int] = []
        for _ in range(3):
            journal = self.journal(4 * KIB, 3)
            expected += self.fill(journal, numbers)
            journal.close()
        found = self.left_behind(delete=True)
        self.assertEqual(
            sorted(each.started_at for each in found), [record(each).started_at for each in expected]
        )
        self.assertEqual(self.files(), [])
