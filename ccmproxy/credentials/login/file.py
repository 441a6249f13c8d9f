"""A store that is a file. It is read as a whole, and replaced atomically and durably (spec 3.1)."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zope.interface import implementer

from ccmproxy.dialects.oauth import CredentialFileError
from ccmproxy.interfaces.credentials import ICredentialStore

#: Largest file accepted (bytes): far larger than any login, and small enough not to block the reactor noticeably.
MAX_DOCUMENT = 1024 * 1024
#: Mode of a credential file: only its owner may read or write it.
PRIVATE = 0o600
#: Number of attempts to read a document that changes while it is being read.
_READ_ATTEMPTS = 5
#: Assumed growth from the old login to the new one, for the test write (bytes).
_GROWTH = 4 * 1024
#: The errors of a file that is missing or is no file. Every other error of the system is a passing one: it says nothing
#: about the login, and may be over at the next attempt.
_NOT_PASSING = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.EINVAL}
)
#: The errors of file systems that cannot sync a directory.
_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})


@implementer(ICredentialStore)
class FileStore:
    """The credential file at ``path``. A symbolic link is followed, and is still there after a write.

    The object holds only the path; every method looks at the file system again.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.description = path

    def read(self) -> bytes:
        """Return the content of the file: UTF-8 text that is not blank.

        A file that is rewritten in place meanwhile is read again. Raises CredentialFileError with a sentence when the
        file is missing, unreadable, not a regular file, empty, too large or not text.
        """
        try:
            document = self._read_unchanged()
        except FileNotFoundError:
            raise self._error("does not exist") from None
        except OSError as error:
            is_passing = error.errno not in _NOT_PASSING
            raise self._error(f"cannot be read: {_reason(error)}", is_passing) from None
        except ValueError:
            raise self._error("has a name that no file can have") from None
        if not document.strip():
            raise self._error("is empty")
        try:
            document.decode("utf-8")
        except UnicodeDecodeError:
            raise self._error("is not UTF-8 text") from None
        return document

    def write(self, document: bytes) -> None:
        """Replace the content: write a new file of mode 0600 beside the old one, sync it to disk, and rename it.

        Owner and group are kept if the system permits that. When this returns, the document would survive a crash of
        the machine. Raises OSError when the system refuses, and CredentialFileError when :attr:`path` is a directory or
        a link to itself. In both cases the old content is still in place, and no temporary file is left behind, unless
        the disk fails at the very last step, when it syncs the directory.
        """
        target = self._target()
        with _synced(os.path.dirname(target)):
            descriptor, temporary = _write_sibling(target, document)
            try:
                os.replace(temporary, target)
            except BaseException:
                _unlink(temporary)
                raise
            finally:
                os.close(descriptor)

    def check_writable(self) -> None:
        """Raise CredentialFileError if a write would fail.

        Writes a file of the size of a login into the directory and removes it again. Also checks for obstacles that
        would show only at the rename: a file that is a mount point, or that is protected.
        """
        try:
            target = self._target()
            # This fails if the file is immutable, read-only, or on a read-only file system.
            os.close(os.open(target, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW))
            size = os.stat(target).st_size + _GROWTH
            if _is_mount_point(target):
                raise self._error("is mounted by itself and cannot be replaced: mount its directory instead")
            if _is_held_by_sticky_directory(target):
                raise self._error("belongs to somebody else in a directory with restricted deletion")
            descriptor, temporary = _write_sibling(target, b"\0" * min(size, MAX_DOCUMENT))
            _unlink(temporary)
            os.close(descriptor)
        except OSError as error:
            raise self._error(f"cannot be written: {_reason(error)}", is_passing=True) from None

    def clean_up(self, is_newer: Callable[[bytes, bytes], bool]) -> bool:
        """Remove the temporary files that a crash left behind. See :class:`.ICredentialStore`.

        A writer that is alive holds a lock on its file (flock(2)), which ends with its process.
        """
        try:
            target = self._target()
            directory, name = os.path.split(target)
            temporary = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}\.tmp")
            left = [
                os.path.join(directory, each) for each in os.listdir(directory) if temporary.fullmatch(each)
            ]
        except (OSError, ValueError, CredentialFileError):
            return False  # The next read finds the files again.
        replaced = False
        for path in left:
            try:
                replaced = self._clean_up(path, target, is_newer) or replaced
            except (OSError, CredentialFileError):
                pass  # Likewise; one file that cannot be removed does not protect the others.
        return replaced

    def _clean_up(self, path: str, target: str, is_newer: Callable[[bytes, bytes], bool]) -> bool:
        """Remove the temporary file ``path``, or make it the document. Returns whether it became the document.

        Raises CredentialFileError when there is no document to compare it with, and OSError when the system refuses.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            if _is_locked(descriptor):
                return False
            content = _read_all(descriptor, MAX_DOCUMENT + 1)
            if is_newer(self.read(), content):
                os.fsync(descriptor)
                with _synced(os.path.dirname(target)):
                    os.replace(path, target)
                return True
            os.unlink(path)
            return False
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        """Delete the file, or the target of a link, if it exists. Raises OSError when it cannot be deleted."""
        try:
            os.unlink(os.path.realpath(self.path))
        except FileNotFoundError:
            pass

    def exposure(self) -> str | None:
        """Return a warning if anyone but the owner may read or write the file, else None."""
        try:
            mode = stat.S_IMODE(os.stat(self.path).st_mode)
        except OSError:
            return None
        if mode & 0o077 == 0:
            return None
        return f"credential file {self.path} is accessible to others (mode {mode:04o}); it should be 0600"

    def _read_unchanged(self) -> bytes:
        """Return the content, read again if another program wrote to the file meanwhile.

        Raises CredentialFileError when the file is not a regular file or is too large, OSError when it cannot be read,
        and ValueError for a name that no file can have.
        """
        document = b""
        for _ in range(_READ_ATTEMPTS):
            # Without O_NONBLOCK, opening a FIFO would block the process.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                before = os.fstat(descriptor)
                if stat.S_ISDIR(before.st_mode):
                    raise self._error("is a directory")
                if not stat.S_ISREG(before.st_mode):
                    raise self._error("is not a regular file")
                document = _read_all(descriptor, MAX_DOCUMENT + 1)
                after = os.fstat(descriptor)
            finally:
                os.close(descriptor)
            if len(document) > MAX_DOCUMENT:
                raise self._error(f"is larger than {MAX_DOCUMENT} bytes")
            if len(document) == after.st_size and before.st_mtime_ns == after.st_mtime_ns:
                break
        # If the file changes at every attempt, the caller judges the last version by its content.
        return document

    def _target(self) -> str:
        """Return the real path of the document, with links resolved. Raises CredentialFileError when it is a directory
        or a link to itself."""
        target = os.path.realpath(self.path)
        if os.path.islink(target):
            raise self._error("is a symbolic link to itself")
        if os.path.isdir(target):
            raise self._error("is a directory")
        return target

    def _error(self, problem: str, is_passing: bool = False) -> CredentialFileError:
        return CredentialFileError(
            f"credential file {self.path} {problem}",
            public=f"its credential file {problem}",
            is_passing=is_passing,
        )


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _read_all(descriptor: int, limit: int) -> bytes:
    """Return the rest of the file, at most ``limit`` bytes."""
    chunks = []
    while limit > 0 and (chunk := os.read(descriptor, limit)):
        chunks.append(chunk)
        limit -= len(chunk)
    return b"".join(chunks)


def _write_sibling(target: str, document: bytes) -> tuple[int, str]:
    """Write ``document`` to a new file in the directory of ``target`` and sync it. Leaves no file behind on failure.

    Returns a descriptor of the file, which holds a lock on it as long as it is open, and its path.
    """
    directory, name = os.path.split(target)
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, PRIVATE)
    try:
        _is_locked(descriptor)  # From here on the lock is ours, unless the file system has no locks.
        _keep_owner(target, descriptor)
        os.fchmod(descriptor, PRIVATE)  # The umask may have removed permissions of the owner.
        view = memoryview(document)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except BaseException:
        _unlink(temporary)
        os.close(descriptor)
        raise
    return descriptor, temporary


def _is_locked(descriptor: int) -> bool:
    """Return whether somebody else holds the lock of the file, and take it otherwise. A file system without locks has
    no locked files."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _keep_owner(target: str, descriptor: int) -> None:
    """Give the new file the owner and group of the old one, as far as this process is permitted to."""
    try:
        old = os.stat(target)
    except OSError:
        return
    new = os.fstat(descriptor)
    for uid, gid in ((old.st_uid, -1), (-1, old.st_gid)):
        if uid not in (-1, new.st_uid) or gid not in (-1, new.st_gid):
            try:
                os.fchown(descriptor, uid, gid)
            except OSError:
                pass  # Only root may change the owner of a file.


@contextmanager
def _synced(directory: str) -> Iterator[None]:
    """Make the renames of a block in ``directory`` durable at its end. Raises OSError when the disk fails.

    The directory is opened first, so that exhausted descriptors are noticed before anything is renamed.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        # The directory can be written but not listed, so that it cannot be synced.
        yield
        return
    try:
        yield
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_DIRECTORY_SYNC:
                raise
    finally:
        os.close(descriptor)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # The file, or its whole directory, is already gone.


def _is_held_by_sticky_directory(target: str) -> bool:
    """Return whether the sticky bit of the directory forbids this process to replace ``target``.

    In a sticky directory only the owner of a file or of the directory may rename another file over it (unlink(2)).
    """
    user = os.geteuid()
    directory = os.stat(os.path.dirname(target))
    return bool(directory.st_mode & stat.S_ISVTX) and user not in (
        0,
        directory.st_uid,
        os.stat(target).st_uid,
    )


def _is_mount_point(target: str) -> bool:
    """Return whether the file itself is a mount point, as is common in containers. Renaming over it fails (EBUSY)."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            return os.fsencode(target) in mount_points(file.read())
    except OSError:
        return os.path.ismount(target)


def mount_points(mountinfo: bytes) -> set[bytes]:
    """Return the mount points in a ``/proc/<pid>/mountinfo``: the fifth fields, with octal escapes decoded
    (proc_pid_mountinfo(5))."""
    fields = (line.split(b" ") for line in mountinfo.splitlines())
    return {re.sub(rb"\\([0-7]{3})", _unescape, parts[4]) for parts in fields if len(parts) > 4}


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 8) & 0xFF])
