"""A lock has one holder at a time, whatever happens to its file."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import Any

from ccmproxy.store.hold import same_file, take
from tests.store.folder import FolderCase


class HoldTests(FolderCase):
    """One lock file."""

    def setUp(self) -> None:
        super().setUp()
        os.makedirs(self.folder)
        self.path = os.path.join(self.folder, "x.lock")

    def error(self, is_new: bool = False) -> int | None:
        """The number of the error of an attempt to take it."""
        error: OSError = self.assertRaises(OSError, take, self.path, is_new)
        return error.errno

    def test_one_at_a_time(self) -> None:
        hold = take(self.path)
        assert hold is not None
        self.assertIsNone(take(self.path))
        hold.close()
        hold.close()
        again = take(self.path)
        assert again is not None
        again.remove()
        self.assertEqual(os.listdir(self.folder), [])

    def test_only_for_its_owner(self) -> None:
        hold = take(self.path)
        assert hold is not None
        self.addCleanup(hold.close)
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)

    def test_deleted_between_opening_and_locking(self) -> None:
        """What was opened is not the lock file any more."""
        lock = fcntl.flock

        def late(descriptor: int, operation: int) -> None:
            os.unlink(self.path)
            lock(descriptor, operation)

        self.patch(fcntl, "flock", late)
        self.assertIsNone(take(self.path))

    def test_new(self) -> None:
        hold = take(self.path, is_new=True)
        assert hold is not None
        hold.close()
        self.assertEqual(self.error(is_new=True), errno.EEXIST)

    def test_what_is_no_file(self) -> None:
        kinds: list[tuple[Any, int]] = [
            (lambda: os.symlink("elsewhere", self.path), errno.ELOOP),
            (lambda: os.mkfifo(self.path), errno.EINVAL),
        ]
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        for make, expected in kinds:
            make()
            self.assertEqual(self.error(), expected)
            os.unlink(self.path)
        if before:
            self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        os.mkdir(self.path)
        self.assertEqual(self.error(), errno.EISDIR)

    def test_a_file_that_cannot_be_removed(self) -> None:
        """The lock is given back."""
        hold = take(self.path)
        assert hold is not None
        real = os.unlink

        def refuse(path: str) -> None:
            raise OSError(errno.EROFS, "")

        self.patch(os, "unlink", refuse)
        self.assertRaises(OSError, hold.remove)
        self.patch(os, "unlink", real)
        again = take(self.path)
        assert again is not None
        again.close()

    def test_same_file(self) -> None:
        def make() -> os.stat_result:
            with open(self.path, "wb"):
                return os.stat(self.path)

        known = make()
        self.assertTrue(same_file(self.path, known))
        os.rename(self.path, self.path + "x")
        self.assertFalse(same_file(self.path, known))
        make()
        self.assertFalse(same_file(self.path, known))
