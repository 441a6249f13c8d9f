"""A file with room for entries, or with as much of it as there is."""

from __future__ import annotations

import errno
import os
import stat

from ccmproxy.store import segment as segments
from ccmproxy.store.segment import FILE_NAME, HEADER, MIB, SMALLEST, Segment, create
from tests.store.folder import KIB, FolderCase, largest_file

NAME = "f06c9ab0-0939-40d2-a762-237e864d7b39"


class SegmentTests(FolderCase):
    """Making one."""

    def setUp(self) -> None:
        super().setUp()
        os.makedirs(self.folder)

    def create(self, size: int) -> Segment:
        """A segment, which is closed at the end."""
        made = create(self.folder, NAME, 3, size, is_durable=True)
        self.addCleanup(os.close, made.descriptor)
        return made

    def test_room(self) -> None:
        made = self.create(MIB)
        self.assertEqual(self.files(), [f"{NAME}-00000003.journal"])
        status = os.stat(made.path)
        self.assertEqual((made.limit, status.st_size), (MIB, MIB))
        self.assertGreaterEqual(status.st_blocks * 512, MIB)
        with open(made.path, "rb") as file:
            self.assertEqual(file.read(), HEADER + bytes(MIB - len(HEADER)))
        self.assertTrue(made.is_empty)

    def test_only_for_its_owner(self) -> None:
        for mask in (0, 0o277):
            self.addCleanup(os.umask, os.umask(mask))
            made = self.create(KIB)
            self.assertEqual(stat.S_IMODE(os.stat(made.path).st_mode), 0o600)
            os.unlink(made.path)

    def test_less_room(self) -> None:
        for room, expected in ((SMALLEST, SMALLEST), (300 * KIB, 256 * KIB), (MIB - 1, MIB // 2)):
            with largest_file(room):
                made = self.create(MIB)
            self.assertEqual((made.limit, os.stat(made.path).st_size), (expected, expected))
            os.unlink(made.path)

    def test_room_for_a_part(self) -> None:
        """What the system has given before it refused the rest is given back."""
        real = os.posix_fallocate

        def give(descriptor: int, begin: int, size: int) -> None:
            given = size - 1 if size == MIB else size
            os.truncate(descriptor, max(given, os.fstat(descriptor).st_size))
            if size == MIB:
                raise OSError(errno.ENOSPC, "")

        self.patch(os, "posix_fallocate", give)
        self.assertEqual(os.stat(self.create(MIB).path).st_size, MIB // 2)
        self.patch(os, "posix_fallocate", real)

    def test_half_of_what_is_free(self) -> None:
        """The rest is left to others, but the smallest segment may have all there is."""
        for free, expected in ((2 * MIB, MIB), (2 * MIB - 1, MIB // 2), (300 * KIB, SMALLEST), (5, SMALLEST)):
            found = os.statvfs_result((512, 1, 100, free, free, 0, 0, 0, 0, 255))

            def tell(descriptor: int, found: os.statvfs_result = found) -> os.statvfs_result:
                return found

            self.patch(os, "fstatvfs", tell)
            made = self.create(MIB)
            self.assertEqual(made.limit, expected)
            os.unlink(made.path)

    def test_on_the_disk_before_it_has_its_name(self) -> None:
        """If that is asked for."""
        found = []

        def sync(descriptor: int) -> None:
            found.append((self.files(), os.pread(descriptor, len(HEADER), 0)))

        self.patch(segments, "sync_data", sync)
        for is_durable in (False, True):
            made = create(self.folder, NAME, 1, KIB, is_durable)
            self.assertEqual(found, [([f"{NAME}-00000001.new"], HEADER)] if is_durable else [])
            made.discard()

    def test_no_room(self) -> None:
        with largest_file(SMALLEST - 1):
            error = self.assertRaises(OSError, create, self.folder, NAME, 1, MIB, True)
        self.assertEqual(error.errno, errno.EFBIG)
        self.assertEqual(self.files(), [])

    def test_no_allocation(self) -> None:
        """File systems that give no room in advance, and systems that have no such call."""

        def refuse(*arguments: int) -> None:
            raise OSError(errno.EOPNOTSUPP, "")

        self.patch(os, "posix_fallocate", refuse)
        size = 2 * MIB + 5
        self.assertGreaterEqual(os.stat(self.create(size).path).st_blocks * 512, size)
        del os.posix_fallocate
        os.unlink(os.path.join(self.folder, f"{NAME}-00000003.journal"))
        with largest_file(MIB + 2):
            self.assertEqual(os.stat(self.create(size).path).st_size, size // 2)

    def test_no_directory(self) -> None:
        missing = os.path.join(self.folder, "missing")
        self.assertRaises(FileNotFoundError, create, missing, NAME, 1, KIB, True)
        self.assertRaises(FileNotFoundError, segments.sync_directory, missing)

    def test_there_already(self) -> None:
        made = self.create(KIB)
        os.rename(made.path, made.path.replace(".journal", ".new"))
        self.assertRaises(FileExistsError, create, self.folder, NAME, 3, KIB, True)
        self.assertEqual(self.files(), [f"{NAME}-00000003.new"])

    def test_writing_in_part(self) -> None:
        made = self.create(KIB)
        with largest_file(KIB):
            segments.write_whole(made.descriptor, b"x" * 24, KIB - 24)
            error = self.assertRaises(OSError, segments.write_whole, made.descriptor, b"x" * 25, KIB - 24)
        self.assertEqual(error.errno, errno.ENOSPC)

    def test_discard(self) -> None:
        for is_there in (True, False):
            made = create(self.folder, NAME, 1, KIB, is_durable=False)
            if not is_there:
                os.unlink(made.path)
            made.discard()
            self.assertEqual(self.files(), [])
            self.assertRaises(OSError, os.fstat, made.descriptor)

    def test_discard_in_vain(self) -> None:
        made = self.create(KIB)
        made.path = self.folder
        self.assertRaises(OSError, made.discard)
        os.fstat(made.descriptor)

    def test_finish(self) -> None:
        made = create(self.folder, NAME, 1, MIB, is_durable=False)
        made.end += 10
        made.finish()
        self.assertEqual(os.stat(made.path).st_size, len(HEADER) + 10)
        self.assertRaises(OSError, os.fstat, made.descriptor)

    def test_positions_grow(self) -> None:
        first, second = (Segment("", number, -1, 2**32 - 1) for number in (1, 2))
        first.end = first.limit
        self.assertLess(first.position, second.position)

    def test_names(self) -> None:
        for name, is_ours in (
            (f"{NAME}-00000001.journal", True),
            (f"{NAME}-123456789.new", True),
            (f"{NAME}.lock", True),
            (f"{NAME}.journal", False),
            (f"{NAME}-1.journal", False),
            (f"{NAME}-00000001.lock", False),
            (f"{NAME}-00000001.journal~", False),
            (f"x{NAME}.lock", False),
            ("README", False),
        ):
            self.assertEqual(FILE_NAME.fullmatch(name) is not None, is_ours, name)
