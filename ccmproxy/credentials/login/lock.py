"""The lock that the official client holds during a token refresh: a directory (spec 3.2 point 2)."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Callable
from math import inf
from types import TracebackType

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater

#: Age of the last touch after which a lock is stale, because its owner must have died (seconds).
STALE_AFTER = 10.0
#: Interval at which a held lock is touched (seconds).
TOUCH_INTERVAL = 5.0
#: Number of attempts to take the lock.
ATTEMPTS = 6


class LockUnavailable(Exception):
    """The lock could not be taken. ``str()`` is a sentence for the operator's log that says why; ``public``: the same
    one for clients, without paths."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"lock {path} {problem}")
        self.public = f"its lock {problem}"


def lock_path(config_directory: str) -> str:
    """Return the path of the official client's lock for the credentials in ``config_directory``."""
    return os.path.realpath(config_directory) + ".lock"


class DirectoryLock:
    """A lock between processes, used as ``async with``. The process that created the directory ``path`` holds it.

    ``clock`` times the waits; ``random`` returns numbers in [0, 1) for the jitter between attempts; ``now`` returns
    Unix seconds, comparable with the times of the file system. The lock is not reentrant: it also excludes other users
    in the same process.

    The age of a lock is a duration that programs tell each other by Unix time, so it is wrong after the clock was set.
    A lock that seems to be from the future, or that was touched before the clock was set, is stale only once it was
    seen unchanged for as long as a stale lock is.
    """

    def __init__(
        self,
        path: str,
        clock: IReactorTime,
        random: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self.path = path
        self._clock = clock
        self._random = random
        self._now = now
        self._mark: tuple[int, int] | None = None
        #: The lock of another program whose age is not known, and when it was first seen (seconds of the clock).
        self._seen: tuple[tuple[int, int] | None, float] = (None, 0.0)
        #: When the system's clock was last set (seconds of the clock); -inf = never.
        self._clock_set_at = -inf
        self._toucher: IDelayedCall | None = None

    def obstacle(self) -> str | None:
        """Return a sentence that says why the lock cannot be taken at all at present, or None if it can be."""
        parent = os.path.dirname(self.path)
        if os.path.isdir(parent) and not os.access(parent, os.W_OK | os.X_OK):
            return (
                f"no refresh will be possible: {parent}, where the lock {self.path} is taken, is not writable"
            )
        return None

    async def __aenter__(self) -> None:
        """Take the lock in up to 6 attempts, 1 to 2 s apart. Raises LockUnavailable when another program holds it all
        that time, or when it cannot be taken at all. May be cancelled."""
        for attempt in range(ATTEMPTS):
            if attempt:
                await deferLater(self._clock, 1.0 + self._random())
            try:
                if self._take():
                    return
            except OSError as error:
                problem = f"cannot be taken: {error.strerror or type(error).__name__}"
                raise LockUnavailable(self.path, problem) from None
        raise LockUnavailable(self.path, "is held by another program")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    @property
    def held(self) -> bool:
        """Whether this object still holds the lock. Looks at the file system, because another program may have taken
        the lock for stale and removed it."""
        return self._mark is not None and _mark(self.path) == self._mark

    def release(self) -> None:
        """Release the lock if it is held. Does not touch a lock that another program has taken over. Idempotent."""
        if self._toucher is not None:
            self._toucher.cancel()
            self._toucher = None
        if self.held:
            try:
                os.rmdir(self.path)
            except OSError:
                pass  # The lock becomes stale, and the next program that wants it removes it.
        self._mark = None

    def clock_set(self, by: float) -> None:
        """Note that the system's clock was set. A lock that is held is touched at once, so that others see its age."""
        self._clock_set_at = self._clock.seconds()
        if self._toucher is not None:
            self._toucher.cancel()
            self._touch()

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
                return False  # Another program was faster.
        self._touch()
        self._clean_up()
        return True

    def _touch(self) -> None:
        """Touch the directory, now and periodically, to show that the owner of the lock is alive."""
        self._toucher = None
        if self._mark is not None and not self.held:
            return  # Another program has taken the lock over, and a touch would prolong its lock.
        now = self._now()
        try:
            os.utime(self.path, (now, now))
        except OSError:
            pass  # Another program has removed the lock, which `held` reports.
        self._mark = _mark(self.path)
        self._toucher = self._clock.callLater(TOUCH_INTERVAL, self._touch)

    def _remove_stale(self) -> bool:
        """Remove a lock that is stale or gone. Returns False if its owner is alive or another program has just taken
        it."""
        found = _mark(self.path)
        if found is None:
            return True
        if not self._is_stale(found):
            return False
        # Since the check, another program may have removed the stale lock and taken the lock itself. The rename moves
        # exactly one directory to a name that only this process knows, so that it can be compared with the stale lock.
        aside = f"{self.path}.{secrets.token_hex(8)}"
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return True
        if _mark(aside) != found:
            _give_back(aside, self.path)
            return False
        _remove(aside)
        return True

    def _is_stale(self, found: tuple[int, int]) -> bool:
        """Return whether the owner of the lock ``found`` has not touched it for so long that it must be dead."""
        age, tick = self._now() - found[1] / 1e9, self._clock.seconds()
        if 0 <= age <= STALE_AFTER:
            return False
        if age > 0 and tick - self._clock_set_at > STALE_AFTER:
            return True
        if self._seen[0] != found:
            self._seen = found, tick
        return tick - self._seen[1] > STALE_AFTER

    def _clean_up(self) -> None:
        """Remove the stale locks that other processes had renamed and then, because they were killed, not removed."""
        directory, name = os.path.split(self.path)
        aside = re.compile(rf"{re.escape(name)}\.[0-9a-f]{{16}}")
        now = self._now()
        try:
            left = [os.path.join(directory, each) for each in os.listdir(directory) if aside.fullmatch(each)]
        except OSError:
            return
        for path in left:
            mark = _mark(path)
            if mark is not None and abs(now - mark[1] / 1e9) > STALE_AFTER:
                _remove(path)


def _mark(path: str) -> tuple[int, int] | None:
    """Return (inode, mtime in ns), which identify a lock directory among others at the same path. None if there is no
    such directory."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        return None  # This is not a lock, and must not be removed.
    return status.st_ino, status.st_mtime_ns


def _remove(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        pass  # It is in nobody's way.


def _give_back(aside: str, path: str) -> None:
    """Undo the removal of a lock whose owner is alive after all. If this comes too late, the owner notices the loss."""
    try:
        if os.path.lexists(path):
            os.rmdir(aside)
        else:
            os.rename(aside, path)
    except OSError:
        pass
