"""Reports when a file changes, appears or disappears, by inotify where available and by polling every few seconds.

An inotify event only makes the watcher compare the file's signature, which alone decides whether the file has changed.
Atomic renames, replaced directories, swapped links and lost events are therefore all handled in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.filepath import FilePath

try:
    from twisted.internet import inotify
except ImportError:  # not Linux
    inotify = None  # type: ignore[assignment]

#: Whether this system has inotify.
HAS_INOTIFY: bool = inotify is not None

#: Identifies the state of a file: (inode, mtime in ns, size in bytes, device). None = no file.
Signature = tuple[int, int, int, int] | None

#: The signature must be stable for this long before a change is reported (seconds).
SETTLE = 0.15
#: A file whose signature never becomes stable is reported after this many checks.
SETTLE_LOOKS = 20
#: Interval of polling, for network file systems, exhausted inotify limits and links to other file systems (seconds).
POLL_INTERVAL = 3.0


def signature(path: str) -> Signature:
    """Return the present signature of ``path``, with links followed."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size, status.st_dev


class FileWatcher:
    """Watches any number of files. It only polls, every ``poll_interval`` seconds, if ``reactor`` has no file
    descriptors (a Clock) or ``use_inotify`` is False. ``clock`` times the polls; None = ``reactor``.

    While no file is watched, no file descriptor is open and no timer is set.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        poll_interval: float = POLL_INTERVAL,
        use_inotify: bool = True,
        clock: IReactorTime | None = None,
    ) -> None:
        self._reactor = reactor
        self._clock = reactor if clock is None else clock
        self._poll_interval = poll_interval
        self._use_inotify = use_inotify and HAS_INOTIFY and IReactorFDSet.providedBy(reactor)
        self._watches: set[FileWatch] = set()
        self._notifier: _Notifier | None = None
        self._is_refusal_told = False
        self._poll: IDelayedCall | None = None
        #: Watched directory → its (device, inode) when the watch was added.
        self._directories: dict[str, tuple[int, int]] = {}

    @property
    def uses_inotify(self) -> bool:
        """Whether inotify is in use at present."""
        return self._notifier is not None

    def watch(self, path: str, changed: Callable[[], None]) -> FileWatch:
        """Call ``changed`` after the content of ``path`` was replaced, or the file appeared or disappeared.

        Neither the file nor its directory need exist. The present state is not reported.
        """
        watch = FileWatch(self, os.path.abspath(path), changed)
        if not self._watches:
            self._open()
        self._watches.add(watch)
        self._place()
        return watch

    def stop(self) -> None:
        """End all watches."""
        for watch in list(self._watches):
            watch.stop()

    def _remove(self, watch: FileWatch) -> None:
        self._watches.discard(watch)
        if self._watches:
            self._place()
            return
        self._directories.clear()
        if self._notifier is not None:
            self._notifier.close()
            self._notifier = None
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None

    def _open(self) -> None:
        self._open_inotify()
        self._poll = self._clock.callLater(self._poll_interval, self._look)

    def _open_inotify(self) -> None:
        """Open inotify, unless it is open. If the system refuses, it is tried again at the next poll, since most
        reasons pass: the user's limit of instances, or exhausted file descriptors."""
        if not self._use_inotify or self._notifier is not None:
            return
        try:
            self._notifier = _Notifier(self._reactor)
        except Exception as error:
            if not self._is_refusal_told:
                self._is_refusal_told = True
                self.log.info("no inotify ({reason}): looking for changed files", reason=type(error).__name__)
        else:
            self._is_refusal_told = False

    def _look(self) -> None:
        """Poll all files, and add the watches that are missing."""
        self._poll = self._clock.callLater(self._poll_interval, self._look)
        self._open_inotify()
        self._place()
        for watch in list(self._watches):
            watch.look()

    def _place(self) -> None:
        """Update the inotify watches to the directories that exist now, since directories are created, removed and
        replaced."""
        while self._place_once():
            pass  # Before a watch was added, another directory may have been created.

    def _place_once(self) -> bool:
        """Update the watches once. Returns whether a watch was added."""
        if self._notifier is None:
            return False
        added = False
        wanted: dict[str, tuple[int, int]] = {}
        for watch in self._watches:
            for directory in _directories(watch.path):
                try:
                    status = os.stat(directory)
                except OSError:
                    continue  # It has just been removed; the next round finds its parent.
                wanted[directory] = (status.st_dev, status.st_ino)
        for directory, identity in list(self._directories.items()):
            if wanted.get(directory) != identity:
                del self._directories[directory]
                self._notifier.forget(directory)
        for directory, identity in wanted.items():
            if directory not in self._directories:
                try:
                    self._notifier.observe(directory, self._seen)
                except Exception as error:  # Removed again, or the limit of watches: polling goes on.
                    self.log.debug(
                        "{directory} not watched: {reason}", directory=directory, reason=type(error).__name__
                    )
                else:
                    self._directories[directory] = identity
                    added = True
        return added

    def _seen(self, directory: str, gone: bool, renamed: bool) -> None:
        """Handle an event in ``directory``.

        ``gone``: the directory itself was removed or moved, so that its watch is useless; ``renamed``: an entry of the
        directory was added or removed.
        """
        if gone and self._notifier is not None and self._directories.pop(directory, None) is not None:
            self._notifier.forget(directory)
        if gone or renamed:
            self._place()
        for watch in list(self._watches):
            watch.look()


class FileWatch:
    """One watched file, made by :meth:`FileWatcher.watch`."""

    log = Logger()

    def __init__(self, watcher: FileWatcher, path: str, changed: Callable[[], None]) -> None:
        self.path = path
        self._watcher = watcher
        self._changed = changed
        self._reported = signature(path)
        self._last_look: Signature = self._reported
        self._looks = 0
        self._settling: IDelayedCall | None = None
        self._stopped = False

    def stop(self) -> None:
        """End the watch: ``changed`` is not called again. Idempotent."""
        self._stopped = True
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        self._watcher._remove(self)

    def look(self) -> None:
        """Compare the file with the state that was reported last. A difference is reported once it is stable."""
        if self._settling is not None or self._stopped:
            return
        self._last_look = signature(self.path)
        if self._last_look != self._reported:
            self._looks = 0
            self._settle()

    def _settle(self) -> None:
        self._settling = self._watcher._clock.callLater(SETTLE, self._settled)

    def _settled(self) -> None:
        self._settling = None
        self._looks += 1
        present = signature(self.path)
        if present != self._last_look and self._looks < SETTLE_LOOKS:
            self._last_look = present
            self._settle()
            return
        if present == self._reported:
            return  # The file has returned to the state that was reported last.
        self._reported = present
        try:
            self._changed()
        except Exception:
            self.log.failure("reaction to a change of {path} failed", path=self.path)


def _directories(path: str) -> Iterator[str]:
    """Yield the real paths of all directories whose entries determine the state of ``path``.

    These are the directory of the file and that of each symbolic link on the way to it. A directory that does not exist
    is replaced by its nearest existing parent.
    """
    if "\0" in path:
        return  # No file can have this name.
    for _ in range(40):  # The kernel follows at most 40 links.
        yield _nearest_directory(os.path.dirname(path))
        try:
            target = os.readlink(path)
        except OSError:
            break
        path = os.path.join(os.path.dirname(path), target)
    yield _nearest_directory(os.path.dirname(os.path.realpath(path)))


def _nearest_directory(directory: str) -> str:
    directory = os.path.realpath(directory)
    while not os.path.isdir(directory) and directory != os.path.dirname(directory):
        directory = os.path.dirname(directory)
    return directory


if inotify is not None:
    _GONE = inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF | inotify.IN_UNMOUNT | inotify.IN_IGNORED
    _RENAMED = inotify.IN_CREATE | inotify.IN_MOVED_TO | inotify.IN_MOVED_FROM | inotify.IN_DELETE
    _MASK = (
        _RENAMED | inotify.IN_CLOSE_WRITE | inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF | inotify.IN_ONLYDIR
    )

    class _INotify(inotify.INotify):
        """An INotify that survives the deletion of its directories. Twisted's own closes when one is deleted."""

        def loseConnection(self) -> None:
            """Do nothing. Twisted calls this when a watched directory was deleted."""

        def _rmWatch(self, wd: int) -> None:
            """Remove a watch whose directory was deleted, unless the watcher has already removed it."""
            watchpoint = self._watchpoints.pop(wd, None)
            if watchpoint is not None and self._watchpaths.get(watchpoint.path) == wd:
                del self._watchpaths[watchpoint.path]


class _Notifier:
    """Watches directories by inotify. The constructor raises INotifyError or OSError when the system refuses another
    inotify instance."""

    def __init__(self, reactor: object) -> None:
        make: Any = _INotify
        self._inotify = make(reactor)
        self._inotify.startReading()

    def close(self) -> None:
        """Close the inotify instance."""
        self._inotify.stopReading()
        self._inotify.connectionLost(Failure(ConnectionDone()))

    def observe(self, directory: str, seen: Callable[[str, bool, bool], None]) -> None:
        """Call ``seen(directory, gone, renamed)`` at every event. Raises INotifyError when the system refuses."""

        def event(_watch: object, _path: object, mask: int) -> None:
            seen(directory, bool(mask & _GONE), bool(mask & _RENAMED))

        self._inotify.watch(FilePath(directory), mask=_MASK, callbacks=[event])

    def forget(self, directory: str) -> None:
        """Undo :meth:`observe`, whatever the state of the directory."""
        try:
            self._inotify._inotify.remove(self._inotify.fileno(), self._watch_descriptor(directory))
        except Exception:
            pass  # The kernel has already removed the watch.

    def _watch_descriptor(self, directory: str) -> int:
        path = FilePath(directory).asBytesMode()
        descriptor: int = self._inotify._watchpaths[path]
        self._inotify._rmWatch(descriptor)
        return descriptor
