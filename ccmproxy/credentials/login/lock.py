"""The lock that the official client takes around a token refresh: a directory (spec 3.2 point 2)."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from types import TracebackType

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater

#: A lock that was not touched for this long has lost its owner (seconds).
STALE_AFTER = 10.0
#: How often a held lock is touched (seconds).
TOUCH_INTERVAL = 5.0
#: How often it is tried to take the lock.
ATTEMPTS = 6


class LockUnavailable(Exception):
    """The lock could not be taken. ``str()`` is a sentence."""


def lock_path(config_directory: str) -> str:
    """Where the official client has the lock for the credentials in ``config_directory``."""
    return os.path.realpath(config_directory) + ".lock"


class DirectoryLock:
    """A lock between processes: whoever created the directory ``path`` holds it. Used as ``async with``.

    Waiting is done on ``clock``; ``random`` gives numbers in [0, 1) that spread the attempts; ``now`` is Unix seconds,
    comparable with the file system's times. Not reentrant; two users in one process exclude each other like two
    processes do.
    """

    def __init__(
        self,
        path: str,
        clock: IReactorTime,
        random: Callable[[], float],
        now: Callable[[], float] | None = None,
    ) -> None:
        self.path = path
        self._clock = clock
        self._random = random
        self._now: Callable[[], float] = now or clock.seconds
        self._mark: tuple[int, int] | None = None
        self._toucher: IDelayedCall | None = None

    def obstacle(self) -> str | None:
        """Why the lock can never be taken as things are, in a sentence; None if nothing speaks against it."""
        parent = os.path.dirname(self.path)
        if os.path.isdir(parent) and not os.access(parent, os.W_OK | os.X_OK):
            return (
                f"no refresh will be possible: {parent}, where the lock {self.path} is taken, is not writable"
            )
        return None

    async def __aenter__(self) -> None:
        """Take the lock: up to 6 tries, 1 to 2 s apart. Raises LockUnavailable where it is held by another program all
        that time, or cannot be taken at all. May be cancelled."""
        for attempt in range(ATTEMPTS):
            if attempt:
                await deferLater(self._clock, 1.0 + self._random())
            try:
                if self._take():
                    return
            except OSError as error:
                raise LockUnavailable(
                    f"lock {self.path} cannot be taken: {error.strerror or type(error).__name__}"
                ) from None
        raise LockUnavailable(f"lock {self.path} is held by another program")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    @property
    def held(self) -> bool:
        """Is the lock still ours? Looks at the file system: a program that believed us dead may have taken it."""
        return self._mark is not None and _mark(self.path) == self._mark

    def release(self) -> None:
        """Give the lock back. Harmless where it is not held; a lock that somebody took from us is left alone."""
        if self._toucher is not None:
            self._toucher.cancel()
            self._toucher = None
        if self.held:
            try:
                os.rmdir(self.path)
            except OSError:
                pass  # it turns stale and is then removed by whoever wants it next
        self._mark = None

    def _take(self) -> bool:
        if self._mark is not None:
            return False
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            if not self._remove_stale():
                return False
            try:
                os.mkdir(self.path, 0o700)
            except FileExistsError:
                return False  # another one was faster
        self._touch()
        return True

    def _touch(self) -> None:
        """Say that the lock's owner lives, and go on saying so."""
        self._toucher = None
        if self._mark is not None and not self.held:
            return  # taken from us: touching would prolong somebody else's
        now = self._now()
        try:
            os.utime(self.path, (now, now))
        except OSError:
            pass  # removed from under us: `held` says so
        self._mark = _mark(self.path)
        self._toucher = self._clock.callLater(TOUCH_INTERVAL, self._touch)

    def _remove_stale(self) -> bool:
        """Remove a lock whose owner is gone. False if it is alive, or somebody else was faster."""
        found = _mark(self.path)
        if found is None:
            return True
        if self._now() - found[1] / 1e9 <= STALE_AFTER:
            return False
        # Between the look and the removal another program may have removed it and taken the lock itself. A rename
        # moves exactly one directory to a name that only we know, so that what was caught can be looked at.
        aside = f"{self.path}.{secrets.token_hex(8)}"
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return True
        if _mark(aside) != found:
            _give_back(aside, self.path)
            return False
        os.rmdir(aside)
        return True


def _mark(path: str) -> tuple[int, int] | None:
    """What tells one lock directory from another at the same path: inode and mtime (ns). None: there is none."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        return None  # whatever it is, it is not ours to remove
    return status.st_ino, status.st_mtime_ns


def _give_back(aside: str, path: str) -> None:
    """Undo the removal of a lock that turned out to be alive. Its owner notices if this comes too late."""
    try:
        if os.path.lexists(path):
            os.rmdir(aside)
        else:
            os.rename(aside, path)
    except OSError:
        pass
