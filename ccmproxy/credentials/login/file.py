"""A credential file: read whole, replaced atomically and durably (spec 3.1)."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat

from zope.interface import implementer

from ccmproxy.dialects.oauth import CredentialFileError
from ccmproxy.interfaces.credentials import ICredentialStore

#: Far beyond any login, and far below what would hold up the reactor: a larger file is something else (bytes).
MAX_DOCUMENT = 1024 * 1024
#: A login is for its owner alone.
PRIVATE = 0o600
#: A document that changes while it is read is read again, this often in all.
_READ_ATTEMPTS = 5
#: How much a new login may be longer than the old one, for the test write (bytes).
_GROWTH = 4 * 1024
#: File systems without a notion of syncing a directory say so with these.
_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})


@implementer(ICredentialStore)
class FileStore:
    """The credential file at ``path``. A symbolic link is followed, and survives a write.

    Nothing but the path is kept: every method looks at the file system anew.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.description = path

    def read(self) -> bytes:
        """The file's content, UTF-8 text that is not blank.

        A file that is rewritten in place while it is read is read again. Raises CredentialFileError with a sentence:
        missing, unreadable, not a regular file, empty, too large, not text.
        """
        try:
            document = self._read_unchanged()
        except FileNotFoundError:
            raise self._error("does not exist") from None
        except OSError as error:
            raise self._error(f"cannot be read: {_reason(error)}") from None
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
        """Replace the content: a new file of mode 0600 beside it, synced to disk, then renamed over it.

        Owner and group are kept where the system permits. Returns only when the document would survive a crash of
        the machine. Raises OSError where the system refuses, and CredentialFileError where :attr:`path` can hold no
        file; the old content is then still in place, and nothing is left behind.
        """
        target = self._target()
        temporary = _write_sibling(target, document)
        try:
            os.replace(temporary, target)
        except BaseException:
            _unlink(temporary)
            raise
        _sync_directory(os.path.dirname(target))

    def check_writable(self) -> None:
        """Raise CredentialFileError if a write would fail.

        Really writes a file of the size of a login into the directory, and removes it; and looks for what would only
        be noticed at the rename: a file that is mounted by itself, or protected.
        """
        try:
            target = self._target()
            # Fails for a file that is immutable, on a read-only file system, or kept read-only on purpose.
            os.close(os.open(target, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW))
            size = os.stat(target).st_size + _GROWTH
            if _is_mount_point(target):
                raise self._error("is mounted by itself and cannot be replaced: mount its directory instead")
            if _is_held_by_sticky_directory(target):
                raise self._error("belongs to somebody else in a directory with restricted deletion")
            _unlink(_write_sibling(target, b"\0" * min(size, MAX_DOCUMENT)))
        except OSError as error:
            raise self._error(f"cannot be written: {_reason(error)}") from None

    def remove(self) -> None:
        """Delete the file (of a link: its target); none is no error. Raises OSError where it cannot be deleted."""
        try:
            os.unlink(os.path.realpath(self.path))
        except FileNotFoundError:
            pass

    def exposure(self) -> str | None:
        """A sentence if others than the owner may read or write the file, else None."""
        try:
            mode = stat.S_IMODE(os.stat(self.path).st_mode)
        except OSError:
            return None
        if mode & 0o077 == 0:
            return None
        return f"credential file {self.path} is accessible to others (mode {mode:04o}); it should be 0600"

    def _read_unchanged(self) -> bytes:
        """The content at a moment when nobody was writing it. Raises CredentialFileError where this is no regular file
        or too large, OSError where it cannot be read, and ValueError for a name that no file can have."""
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
        # If somebody keeps rewriting it, what was read last is judged by its content.
        return document

    def _target(self) -> str:
        """Where the document really lies, links resolved. Raises CredentialFileError for a directory, and for a link
        that leads to itself."""
        target = os.path.realpath(self.path)
        if os.path.islink(target):
            raise self._error("is a symbolic link to itself")
        if os.path.isdir(target):
            raise self._error("is a directory")
        return target

    def _error(self, problem: str) -> CredentialFileError:
        return CredentialFileError(f"credential file {self.path} {problem}")


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _read_all(descriptor: int, limit: int) -> bytes:
    """What follows in the file, at most ``limit`` bytes."""
    chunks = []
    while limit > 0 and (chunk := os.read(descriptor, limit)):
        chunks.append(chunk)
        limit -= len(chunk)
    return b"".join(chunks)


def _write_sibling(target: str, document: bytes) -> str:
    """A new file in ``target``'s directory that holds ``document``, synced; its path. Leaves nothing on failure."""
    directory, name = os.path.split(target)
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, PRIVATE)
    try:
        try:
            _keep_owner(target, descriptor)
            os.fchmod(descriptor, PRIVATE)  # a umask may have taken the owner's own rights
            view = memoryview(document)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        _unlink(temporary)
        raise
    return temporary


def _keep_owner(target: str, descriptor: int) -> None:
    """Give the new file the owner and group of the old one, as far as this process may."""
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
                pass  # only root may give files away


def _sync_directory(directory: str) -> None:
    """Make a rename in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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
        pass  # gone already, or a directory that vanished with it


def _is_held_by_sticky_directory(target: str) -> bool:
    """In a sticky directory only the owner of a file, or of the directory, may rename over it (unlink(2))."""
    user = os.geteuid()
    directory = os.stat(os.path.dirname(target))
    return bool(directory.st_mode & stat.S_ISVTX) and user not in (
        0,
        directory.st_uid,
        os.stat(target).st_uid,
    )


def _is_mount_point(target: str) -> bool:
    """Is this very file a mount, as containers like to have it? Renaming over one fails (EBUSY)."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            return os.fsencode(target) in mount_points(file.read())
    except OSError:
        return os.path.ismount(target)


def mount_points(mountinfo: bytes) -> set[bytes]:
    """The mount points in a ``/proc/<pid>/mountinfo`` (proc_pid_mountinfo(5)): fifth field, octal escapes."""
    fields = (line.split(b" ") for line in mountinfo.splitlines())
    return {re.sub(rb"\\([0-7]{3})", _unescape, parts[4]) for parts in fields if len(parts) > 4}


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 8) & 0xFF])
