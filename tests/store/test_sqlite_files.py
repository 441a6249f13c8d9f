"""Where the files are, and whose they are."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat

from ccmproxy.interfaces.store import StoreUnusable
from ccmproxy.store.sqlite_files import (
    MOUNT_TABLE,
    DaemonLock,
    connect,
    file_system_type,
    make_private_file,
    real_path,
    refuse_network,
    require_file,
)
from tests.store.samples import StoreTestCase

MOUNTS = rb"""22 27 0:21 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /srv rw shared:5 master:1 - nfs4 server:/export rw,vers=4.2
31 30 0:41 / /srv/local\040disk rw - xfs /dev/vdb rw
32 22 0:42 / /share rw - ext4 /dev/vdc rw
33 32 0:43 / /share rw - cifs //server/share rw
nonsense
"""


def mode(path: str) -> int:
    """Its permissions."""
    return stat.S_IMODE(os.stat(path).st_mode)


class FileSystemTests(StoreTestCase):
    """Network file systems."""

    def setUp(self) -> None:
        super().setUp()
        self.mounts = os.path.join(self.folder, "mountinfo")
        with open(self.mounts, "wb") as file:
            file.write(MOUNTS)

    def test_the_innermost_mount_counts(self) -> None:
        for path, kind in (
            ("/a/b", "ext4"),
            ("/srv", "nfs4"),
            ("/srv/x.db", "nfs4"),
            ("/srvx/x.db", "ext4"),
            ("/srv/local disk/x.db", "xfs"),
            ("/share/x.db", "cifs"),  # the later one of two at the same place
        ):
            self.assertEqual(file_system_type(path, self.mounts), kind, path)

    def test_refused(self) -> None:
        with self.assertRaises(StoreUnusable) as caught:
            refuse_network("/srv/x.db", self.mounts)
        self.assertIn("network file system (nfs4)", str(caught.exception))
        refuse_network("/a/b", self.mounts)

    def test_where_nothing_is_told(self) -> None:
        self.assertEqual(file_system_type("/a", os.path.join(self.folder, "missing")), "")

    def test_this_system(self) -> None:
        refuse_network(real_path(self.path), MOUNT_TABLE)


class PrivateFileTests(StoreTestCase):
    """Whoever else is on the machine reads nothing."""

    def test_file_and_directories(self) -> None:
        path = os.path.join(self.folder, "a", "b", "store.db")
        previous = os.umask(0)
        try:
            make_private_file(path)
        finally:
            os.umask(previous)
        self.assertEqual(mode(path), 0o600)
        for name in ("a", "a/b"):
            self.assertEqual(mode(os.path.join(self.folder, name)), 0o700)

    def test_a_narrow_umask(self) -> None:
        previous = os.umask(0o277)
        try:
            make_private_file(self.path)
        finally:
            os.umask(previous)
        self.assertEqual(mode(self.path), 0o600)

    def test_what_is_there_stays(self) -> None:
        with open(self.path, "w") as file:
            file.write("x")
        make_private_file(self.path)
        self.assertEqual(os.path.getsize(self.path), 1)

    def test_no_files(self) -> None:
        with self.assertRaises(StoreUnusable) as caught:
            make_private_file(self.folder)
        self.assertIn("directory", str(caught.exception))
        os.mkfifo(self.path)
        self.assertRaises(StoreUnusable, require_file, self.path)
        self.assertRaises(FileNotFoundError, require_file, self.path + "x")

    def test_a_file_where_a_directory_should_be(self) -> None:
        make_private_file(self.path)
        self.assertRaises(OSError, make_private_file, os.path.join(self.path, "store.db"))


class ConnectTests(StoreTestCase):
    """Connections."""

    def test_unusual_names(self) -> None:
        for name in ("a b?c#d%41.db", os.fsdecode(b"\xff.db")):
            path = os.path.join(self.folder, name)
            make_private_file(path)
            connection = connect(path, 1, read_only=False)
            connection.execute("CREATE TABLE t (x)")
            connection.close()
            self.assertGreater(os.path.getsize(path), 0)

    def test_a_reader_writes_nothing(self) -> None:
        make_private_file(self.path)
        connection = connect(self.path, 1, read_only=True)
        self.addCleanup(connection.close)
        self.assertRaises(sqlite3.OperationalError, connection.execute, "CREATE TABLE t (x)")

    def test_nothing_is_made(self) -> None:
        with self.assertRaises(sqlite3.OperationalError):
            connect(self.path, 1, read_only=False).execute("SELECT 1 FROM sqlite_master")
        self.assertFalse(os.path.exists(self.path))


class LockTests(StoreTestCase):
    """One daemon has a store."""

    def test_one_at_a_time(self) -> None:
        first, second = DaemonLock(self.path), DaemonLock(self.path)
        first.take()
        self.addCleanup(first.give_up)
        self.assertTrue(first.is_held)
        with self.assertRaises(StoreUnusable) as caught:
            second.take()
        self.assertIn("another ccmproxy has it", str(caught.exception))
        self.assertFalse(second.is_held)
        first.give_up()
        first.give_up()
        second.take()
        self.assertTrue(second.is_held)
        second.give_up()
        self.assertEqual(mode(f"{self.path}.lock"), 0o600)

    def test_a_lock_that_is_deleted_is_lost(self) -> None:
        lock = DaemonLock(self.path)
        lock.take()
        self.addCleanup(lock.give_up)
        os.unlink(f"{self.path}.lock")
        self.assertFalse(lock.is_held)

    def test_deleted_before_it_was_locked(self) -> None:
        """Somebody tidied up: the lock is that of the file which the next daemon finds."""
        system = fcntl.flock
        deleted: list[int] = []

        def late(descriptor: int, operation: int) -> None:
            if not deleted:
                os.unlink(f"{self.path}.lock")
                deleted.append(descriptor)
            system(descriptor, operation)

        self.patch(fcntl, "flock", late)
        lock = DaemonLock(self.path)
        self.addCleanup(lock.give_up)
        lock.take()
        self.assertTrue(deleted)
        self.assertTrue(lock.is_held)
