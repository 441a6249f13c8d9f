"""Tests of :mod:`ccmproxy.credentials.login.file`: every defect of a file, and writes that lose nothing."""

from __future__ import annotations

import errno
import os
import stat
import threading

from ccmproxy.credentials.login import file as store_module
from ccmproxy.credentials.login.file import MAX_DOCUMENT, FileStore, mount_points
from ccmproxy.dialects.oauth import CredentialFileError
from tests.credentials.fixtures import CredentialTestCase

DOCUMENT = b'{"login": 1}'


class StoreTestCase(CredentialTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.store = FileStore(self.path)

    def problem(self) -> str:
        """Return the error of a read, which must name the file."""
        error = self.assertRaises(CredentialFileError, self.store.read)
        self.assertIn(self.path, str(error))
        return str(error).replace(f"credential file {self.path} ", "")

    def mode(self) -> int:
        return stat.S_IMODE(os.stat(self.path).st_mode)

    def only_the_file(self) -> None:
        """No temporary file was left behind."""
        self.assertEqual(os.listdir(self.config), ["login.json"])


class ReadTests(StoreTestCase):
    def test_whole(self) -> None:
        self.put(DOCUMENT)
        self.assertEqual(self.store.read(), DOCUMENT)

    def test_missing(self) -> None:
        self.assertEqual(self.problem(), "does not exist")

    def test_directory_missing(self) -> None:
        self.store = FileStore(self.path + "/deeper/login.json")
        self.assertIn("does not exist", str(self.assertRaises(CredentialFileError, self.store.read)))

    def test_empty(self) -> None:
        for document in (b"", b" \n"):
            self.put(document)
            self.assertEqual(self.problem(), "is empty")

    def test_directory(self) -> None:
        os.mkdir(self.path)
        descriptors = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
        for _ in range(5):
            self.assertEqual(self.problem(), "is a directory")
        if descriptors:
            self.assertEqual(len(os.listdir("/proc/self/fd")), len(descriptors))

    def test_fifo_does_not_block(self) -> None:
        os.mkfifo(self.path)
        self.assertEqual(self.problem(), "is not a regular file")

    def test_unreadable(self) -> None:
        self.put(DOCUMENT)
        os.chmod(self.path, 0)
        # Root may read everything, and another user may have no access to the parent directories.
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.config)
        os.chmod(self.config, 0o755)
        if os.geteuid() == 0:
            self.addCleanup(os.seteuid, 0)
            os.seteuid(65534)
        error = self.assertRaises(CredentialFileError, FileStore("login.json").read)
        self.assertEqual(str(error), "credential file login.json cannot be read: Permission denied")

    def test_not_text(self) -> None:
        self.put(b'{"login": "\xff\xfe"}')
        self.assertEqual(self.problem(), "is not UTF-8 text")

    def test_too_large(self) -> None:
        self.put(b"x" * (MAX_DOCUMENT + 1))
        self.assertEqual(self.problem(), f"is larger than {MAX_DOCUMENT} bytes")

    def test_link_loop(self) -> None:
        os.symlink(self.path, self.path)
        self.assertIn("cannot be read", self.problem())
        self.assertRaises(CredentialFileError, self.store.write, DOCUMENT)

    def test_impossible_name(self) -> None:
        self.store = FileStore("/nul\0byte")
        self.assertRaises(CredentialFileError, self.store.read)

    def test_content_is_never_quoted(self) -> None:
        self.put(b'{"secret": "\xff"}')
        self.assertNotIn("secret", self.problem())

    def test_replaced_while_read(self) -> None:
        """A reader sees one of the written documents as a whole, however often the file is replaced."""
        documents = [bytes([letter]) * 40_000 for letter in b"abcd"]
        self.put(documents[0])
        done = threading.Event()

        def replace() -> None:
            other = FileStore(self.path)
            for at in range(60):
                other.write(documents[at % 4])
            done.set()

        writer = threading.Thread(target=replace)
        writer.start()
        try:
            while not done.is_set():
                self.assertIn(self.store.read(), documents)
        finally:
            writer.join()

    def test_rewritten_in_place_while_read(self) -> None:
        """A file that has grown between the fstat and the end of the read is read again."""
        self.put(b"half")
        real = store_module._read_all
        grown: list[bool] = []

        def read(descriptor: int, limit: int) -> bytes:
            found = real(descriptor, limit)
            if not grown:
                grown.append(True)
                with open(self.path, "ab") as file:
                    file.write(b" and half")
            return found

        self.patch(store_module, "_read_all", read)
        self.assertEqual(self.store.read(), b"half and half")

    def test_overwritten_in_place_while_read(self) -> None:
        """A document of the same size may still be another document."""
        self.put(b"old")
        os.utime(self.path, ns=(1, 1))
        real = store_module._read_all
        overwritten: list[bool] = []

        def read(descriptor: int, limit: int) -> bytes:
            found = real(descriptor, limit)
            if not overwritten:
                overwritten.append(True)
                with open(self.path, "wb") as file:
                    file.write(b"new")
            return found

        self.patch(store_module, "_read_all", read)
        self.assertEqual(self.store.read(), b"new")


class WriteTests(StoreTestCase):
    def test_replaces(self) -> None:
        self.put(b"old")
        self.store.write(DOCUMENT)
        self.assertEqual(self.store.read(), DOCUMENT)
        self.only_the_file()

    def test_is_a_new_file(self) -> None:
        """A reader that has the old file open can still read all of it."""
        self.put(b"old")
        with open(self.path, "rb") as reader:
            self.store.write(DOCUMENT)
            self.assertEqual(reader.read(), b"old")

    def test_mode_whatever_it_was_and_whatever_the_umask(self) -> None:
        for umask in (0o000, 0o022, 0o777):
            self.put(b"old")
            os.chmod(self.path, 0o644)
            previous = os.umask(umask)
            try:
                self.store.write(DOCUMENT)
            finally:
                os.umask(previous)
            self.assertEqual(self.mode(), 0o600)

    def test_owner_is_kept(self) -> None:
        if os.geteuid() != 0:
            raise self.skipTest("only root may give files away")
        self.put(b"old")
        os.chown(self.path, 65534, 65533)
        self.store.write(DOCUMENT)
        status = os.stat(self.path)
        self.assertEqual((status.st_uid, status.st_gid, self.mode()), (65534, 65533, 0o600))

    def test_follows_links(self) -> None:
        """The link remains a link; its target is replaced, in the target's directory."""
        target = os.path.join(self.directory, "elsewhere.json")
        with open(target, "wb") as file:
            file.write(b"old")
        os.symlink("../elsewhere.json", self.path)
        self.store.write(DOCUMENT)
        self.assertTrue(os.path.islink(self.path))
        with open(target, "rb") as file:
            self.assertEqual(file.read(), DOCUMENT)
        self.assertEqual(sorted(os.listdir(self.directory)), ["config", "elsewhere.json"])
        self.only_the_file()

    def test_durable_before_it_is_in_place(self) -> None:
        """F3: first the content is synced, then it is renamed, then the directory is synced."""
        self.put(b"old")
        steps: list[str] = []
        fsync, replace = os.fsync, os.replace

        def synced(descriptor: int) -> None:
            kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
            steps.append(f"sync {kind} {os.fstat(descriptor).st_size if kind == 'file' else ''}".strip())
            fsync(descriptor)

        def renamed(source: str, target: str) -> None:
            steps.append("rename")
            replace(source, target)

        self.patch(os, "fsync", synced)
        self.patch(os, "replace", renamed)
        self.store.write(DOCUMENT)
        self.assertEqual(steps, [f"sync file {len(DOCUMENT)}", "rename", "sync directory"])

    def test_failures_leave_the_old_file_and_nothing_else(self) -> None:
        def full(*arguments: object, **_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        for call in ("write", "fsync", "replace", "fchmod"):
            self.put(b"old")
            real = getattr(os, call)
            setattr(os, call, full)
            try:
                self.assertRaises(OSError, self.store.write, DOCUMENT)
            finally:
                setattr(os, call, real)
            self.assertEqual(self.store.read(), b"old")
            self.only_the_file()

    def test_no_descriptor_for_the_directory(self) -> None:
        """That is noticed before the file is replaced."""
        self.put(b"old")
        opened = os.open

        def refused(path: str, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_DIRECTORY:
                raise OSError(errno.EMFILE, "Too many open files")
            return opened(path, flags, mode)

        self.patch(os, "open", refused)
        self.assertRaises(OSError, self.store.write, DOCUMENT)
        self.assertEqual(self.store.read(), b"old")
        self.only_the_file()

    def test_a_directory_that_cannot_be_listed(self) -> None:
        """It cannot be synced, which is no reason not to write."""
        self.put(b"old")
        opened = os.open

        def refused(path: str, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_DIRECTORY:
                raise PermissionError(errno.EACCES, "Permission denied")
            return opened(path, flags, mode)

        self.patch(os, "open", refused)
        self.store.write(DOCUMENT)
        self.assertEqual(self.store.read(), DOCUMENT)

    def test_short_writes(self) -> None:
        self.put(b"old")
        write = os.write
        self.patch(os, "write", lambda descriptor, data: write(descriptor, bytes(data[:3])))
        self.store.write(DOCUMENT)
        self.assertEqual(self.store.read(), DOCUMENT)

    def test_directory_in_its_place(self) -> None:
        os.mkdir(self.path)
        self.assertRaises(CredentialFileError, self.store.write, DOCUMENT)


class WritableTests(StoreTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.put(DOCUMENT)

    def problem(self) -> str:
        return str(self.assertRaises(CredentialFileError, self.store.check_writable))

    def test_writable(self) -> None:
        before = os.stat(self.path)
        self.store.check_writable()
        self.assertEqual(os.stat(self.path), before)
        self.only_the_file()

    def test_disk_full(self) -> None:
        """The disk is known to be full only by writing to it."""

        def full(descriptor: int, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        self.patch(os, "write", full)
        self.assertIn("cannot be written: No space left on device", self.problem())
        self.only_the_file()

    def test_read_only_file_or_directory(self) -> None:
        if os.geteuid() == 0:
            opened = os.open

            def refused(path: str, flags: int, mode: int = 0o777) -> int:
                if flags & (os.O_WRONLY | os.O_CREAT) == self.refuse:
                    raise OSError(errno.EACCES, "Permission denied")
                return opened(path, flags, mode)

            self.patch(os, "open", refused)
        for self.refuse in (os.O_WRONLY, os.O_WRONLY | os.O_CREAT):
            if os.geteuid() != 0:
                os.chmod(self.path, 0o400)
                self.addCleanup(os.chmod, self.config, 0o700)
                os.chmod(self.config, 0o500)
            self.assertIn("cannot be written: Permission denied", self.problem())

    def test_missing(self) -> None:
        os.unlink(self.path)
        self.assertIn("cannot be written: No such file", self.problem())

    def test_mounted_by_itself(self) -> None:
        """Containers mount single files, and these cannot be replaced."""
        self.patch(store_module, "_is_mount_point", lambda target: target == self.path)
        self.assertIn("mount its directory instead", self.problem())

    def test_mount_points(self) -> None:
        info = (
            b"22 1 254:1 / / rw,relatime - ext4 /dev/root rw\n"
            b"36 22 254:1 /a /home/me/with\\040blank/.credentials.json rw shared:2 - ext4 /dev/root rw\n"
            b"broken\n"
        )
        self.assertEqual(mount_points(info), {b"/", b"/home/me/with blank/.credentials.json"})

    def test_root_is_a_mount_point(self) -> None:
        self.assertTrue(store_module._is_mount_point("/"))
        self.assertFalse(store_module._is_mount_point(self.path))

    def test_sticky_directory(self) -> None:
        os.chmod(self.config, 0o1777)
        status = os.stat(self.path)
        self.assertFalse(store_module._is_held_by_sticky_directory(self.path))
        self.patch(os, "geteuid", lambda: status.st_uid + 1)
        self.assertTrue(store_module._is_held_by_sticky_directory(self.path))
        os.chmod(self.config, 0o777)
        self.assertFalse(store_module._is_held_by_sticky_directory(self.path))


class LeftoverTests(StoreTestCase):
    """What a crash in the middle of a write left behind (spec 3.2 point 6)."""

    def setUp(self) -> None:
        super().setUp()
        self.put(DOCUMENT)
        self.compared: list[tuple[bytes, bytes]] = []

    def leave(self, content: bytes, name: str = ".login.json.0123456789abcdef.tmp") -> str:
        path = os.path.join(self.config, name)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def newer(self, present: bytes, left: bytes) -> bool:
        self.compared.append((present, left))
        return left == b"newer"

    def test_removed(self) -> None:
        self.leave(b"older")
        self.assertFalse(self.store.clean_up(self.newer))
        self.assertEqual((self.compared, self.store.read()), ([(DOCUMENT, b"older")], DOCUMENT))
        self.only_the_file()

    def test_put_in_place(self) -> None:
        self.leave(b"newer")
        self.leave(b"older", ".login.json.1123456789abcdef.tmp")
        self.assertTrue(self.store.clean_up(self.newer))
        self.assertEqual(self.store.read(), b"newer")
        self.only_the_file()

    def test_one_that_cannot_be_opened_protects_no_other(self) -> None:
        os.mkdir(os.path.join(self.config, ".login.json.0000000000000000.tmp"))
        os.symlink("/nowhere", os.path.join(self.config, ".login.json.0000000000000001.tmp"))
        os.symlink("/nowhere", os.path.join(self.config, ".login.json.ffffffffffffffff.tmp"))
        self.leave(b"newer")
        self.leave(b"older", ".login.json.1123456789abcdef.tmp")
        self.assertTrue(self.store.clean_up(self.newer))
        self.assertEqual(self.store.read(), b"newer")
        self.assertEqual(len(os.listdir(self.config)), 4)

    def test_nothing_there(self) -> None:
        self.assertFalse(self.store.clean_up(self.newer))
        self.assertEqual(self.compared, [])

    def test_files_of_others_stay(self) -> None:
        for name in (".login.json.tmp", "login.json.0123456789abcdef.tmp", ".other.0123456789abcdef.tmp"):
            self.leave(b"newer", name)
        self.assertFalse(self.store.clean_up(self.newer))
        self.assertEqual(len(os.listdir(self.config)), 4)

    def test_a_write_in_progress_is_left_alone(self) -> None:
        """Whoever else reads at that moment, in this process or another."""
        replace, seen = os.replace, []

        def replace_late(source: str, target: str) -> None:
            seen.append(FileStore(self.path).clean_up(lambda present, left: True))
            seen.append(os.path.exists(source))
            replace(source, target)

        self.patch(os, "replace", replace_late)
        self.store.write(b"newer")
        self.assertEqual((seen, self.store.read()), ([False, True], b"newer"))

    def test_a_login_that_was_removed_does_not_come_back(self) -> None:
        os.unlink(self.path)
        left = self.leave(b"newer")
        self.assertFalse(self.store.clean_up(self.newer))
        self.assertEqual((os.path.exists(self.path), os.path.exists(left)), (False, True))

    def test_follows_links(self) -> None:
        link = os.path.join(self.directory, "link.json")
        os.symlink(self.path, link)
        self.leave(b"newer")
        self.assertTrue(FileStore(link).clean_up(self.newer))
        self.assertTrue(os.path.islink(link))
        self.assertEqual(self.store.read(), b"newer")
        os.unlink(link)

    def test_nowhere(self) -> None:
        for path in (self.path + "/deeper/login.json", self.directory + "/none/login.json", "a\0b"):
            self.assertFalse(FileStore(path).clean_up(self.newer))


class OtherTests(StoreTestCase):
    def test_exposure(self) -> None:
        self.assertIsNone(self.store.exposure())
        self.put(DOCUMENT)
        self.assertIsNone(self.store.exposure())
        for mode in (0o640, 0o604, 0o620):
            os.chmod(self.path, mode)
            self.assertIn(f"mode {mode:04o}", self.store.exposure() or "")

    def test_remove(self) -> None:
        self.store.remove()
        self.put(DOCUMENT)
        self.store.remove()
        self.assertFalse(os.path.exists(self.path))
