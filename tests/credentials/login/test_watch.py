"""Tests of :mod:`ccmproxy.credentials.login.watch`: the same situations by polling and by inotify."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from ccmproxy.credentials.login import watch as watch_module
from ccmproxy.credentials.login.watch import POLL_INTERVAL, SETTLE, FileWatcher
from tests.credentials.fixtures import CredentialTestCase


@implementer(IReactorFDSet)
class DescriptorClock(Clock):
    """A Clock with file descriptors: :meth:`deliver` passes each reader the data that has arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []

    def addReader(self, reader: object) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: object) -> None:
        if reader in self.readers:
            self.readers.remove(reader)

    def addWriter(self, writer: object) -> None:
        raise AssertionError("nothing is written")

    def removeWriter(self, writer: object) -> None:
        pass

    def removeAll(self) -> list[Any]:
        return []

    def getReaders(self) -> list[Any]:
        return list(self.readers)

    def getWriters(self) -> list[Any]:
        return []

    def deliver(self) -> None:
        for reader in list(self.readers):
            do_read = getattr(reader, "doRead", None)
            assert do_read is not None
            do_read()


class Situations(CredentialTestCase):
    """The situations of a watched file. Subclasses say how long it may take until a change is noticed."""

    def setUp(self) -> None:
        super().setUp()
        self.changes: list[bytes | None] = []
        self.watcher = self.make()
        self.addCleanup(self.finish)

    def make(self) -> FileWatcher:
        return FileWatcher(self.clock)

    def finish(self) -> None:
        self.watcher.stop()
        self.no_timers()

    def watch(self, path: str | None = None) -> None:
        """Watch the file and record its content at each report."""
        watched = path or self.path
        self.watcher.watch(watched, lambda: self.changes.append(self.content(watched)))

    def content(self, path: str) -> bytes | None:
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError:
            return None

    def write(self, data: bytes, path: str | None = None) -> None:
        """Overwrite the file in place."""
        with open(path or self.path, "wb") as file:
            file.write(data)

    def notice(self) -> None:
        """Advance the clock by the time in which a change must be noticed."""
        self.clock.pump([POLL_INTERVAL, SETTLE, SETTLE])

    def seen(self, *expected: bytes | None) -> None:
        """Assert that exactly these reports were made since the last call."""
        self.notice()
        self.assertEqual(self.changes, list(expected))
        self.changes.clear()

    def test_created_later(self) -> None:
        self.watch()
        self.seen()
        self.write(b"one")
        self.seen(b"one")

    def test_edited(self) -> None:
        self.write(b"one")
        self.watch()
        self.seen()
        self.write(b"three")
        self.seen(b"three")

    def test_atomic_rename(self) -> None:
        self.put(b"one")
        self.watch()
        for data in (b"two", b"six", b"ten"):
            self.put(data)
            self.seen(data)

    def test_same_size_and_time(self) -> None:
        """Another file of the same size and mtime is a change."""
        self.put(b"one")
        status = os.stat(self.path)
        self.watch()
        with open(self.path + ".new", "wb") as file:
            file.write(b"two")
        os.utime(self.path + ".new", ns=(status.st_atime_ns, status.st_mtime_ns))
        os.rename(self.path + ".new", self.path)
        self.seen(b"two")

    def test_removed_and_back(self) -> None:
        self.put(b"one")
        self.watch()
        os.unlink(self.path)
        self.seen(None)
        self.put(b"two")
        self.seen(b"two")

    def test_moved_away(self) -> None:
        self.put(b"one")
        self.watch()
        os.rename(self.path, self.path + ".old")
        self.seen(None)

    def test_other_files_and_modes_are_not_reported(self) -> None:
        self.put(b"one")
        self.watch()
        self.write(b"x", self.path + ".other")
        os.chmod(self.path, 0o644)
        self.seen()

    def test_directory_comes_later(self) -> None:
        path = os.path.join(self.directory, "a", "b", "c", "login.json")
        self.watch(path)
        os.makedirs(os.path.dirname(path))
        self.seen()
        self.write(b"one", path)
        self.seen(b"one")
        self.write(b"three", path)
        self.seen(b"three")

    def test_directory_and_file_come_at_once(self) -> None:
        path = os.path.join(self.directory, "a", "b", "login.json")
        self.watch(path)
        os.makedirs(os.path.dirname(path))
        self.write(b"one", path)
        self.seen(b"one")

    def test_directory_removed_and_back(self) -> None:
        self.put(b"one")
        self.watch()
        shutil.rmtree(self.config)
        self.seen(None)
        os.mkdir(self.config)
        self.seen()
        self.put(b"two")
        self.seen(b"two")
        self.put(b"three")
        self.seen(b"three")

    def test_empty_directory_removed_and_back(self) -> None:
        self.watch()
        os.rmdir(self.config)
        self.seen()
        os.mkdir(self.config)
        self.put(b"one")
        self.seen(b"one")

    def test_directory_swapped(self) -> None:
        """Between two polls the directory is replaced by another one of the same name."""
        self.put(b"one")
        self.watch()
        os.rename(self.config, self.config + ".old")
        os.mkdir(self.config)
        self.put(b"two")
        self.seen(b"two")
        self.put(b"three")
        self.seen(b"three")

    def test_link_to_elsewhere(self) -> None:
        """The directory of the link's target is watched as well; then the link is changed to another target."""
        elsewhere = os.path.join(self.directory, "elsewhere")
        os.mkdir(elsewhere)
        first, second = os.path.join(elsewhere, "1"), os.path.join(elsewhere, "2")
        self.write(b"one", first)
        self.write(b"two!", second)
        os.symlink("../elsewhere/1", self.path)
        self.watch()
        self.write(b"three", first)
        self.seen(b"three")
        os.symlink("../elsewhere/2", self.path + ".new")
        os.rename(self.path + ".new", self.path)
        self.seen(b"two!")
        self.write(b"four", second)
        self.seen(b"four")

    def test_linked_directory_swapped(self) -> None:
        """Orchestrators mount secrets this way: login.json -> ..data/login.json, ..data -> a directory with a date."""
        for name, data in (("..1", b"one"), ("..2", b"three")):
            os.mkdir(os.path.join(self.config, name))
            self.write(data, os.path.join(self.config, name, "login.json"))
        os.symlink("..1", os.path.join(self.config, "..data"))
        os.symlink("..data/login.json", self.path)
        self.watch()
        self.seen()
        os.symlink("..2", os.path.join(self.config, "..new"))
        os.rename(os.path.join(self.config, "..new"), os.path.join(self.config, "..data"))
        self.seen(b"three")

    def test_watched_twice(self) -> None:
        """Two files in one directory, and one file by two watchers."""
        other = self.path + ".other"
        self.watch()
        self.watch()
        self.watch(other)
        self.put(b"one")
        self.seen(b"one", b"one")
        self.write(b"other", other)
        self.seen(b"other")

    def test_stopped(self) -> None:
        watch = self.watcher.watch(self.path, lambda: self.changes.append(b"reported"))
        self.watch()
        self.put(b"one")
        watch.stop()
        watch.stop()
        self.seen(b"one")

    def test_stopped_while_settling(self) -> None:
        self.watch()
        self.put(b"one")
        self.clock.advance(POLL_INTERVAL)
        self.watcher.stop()
        self.seen()

    def test_reaction_that_fails(self) -> None:
        self.watcher.watch(self.path, lambda: 1 / 0)  # type: ignore[arg-type]
        self.watch()
        self.put(b"one")
        self.seen(b"one")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_nonsense_path(self) -> None:
        self.watch("/nul\0byte/x")
        self.seen()


class PollTests(Situations):
    """Polling only."""

    def test_slow_writer_is_reported_once(self) -> None:
        self.put(b"")
        self.watch()
        self.write(b"a")
        self.clock.advance(POLL_INTERVAL)
        for length in range(2, 7):
            self.write(b"a" * length)
            self.clock.advance(SETTLE)
        self.assertEqual(self.changes, [])
        self.seen(b"aaaaaa")

    def test_one_that_never_settles_is_reported_all_the_same(self) -> None:
        self.watch()
        for length in range(1, 60):
            self.write(b"a" * length)
            self.clock.advance(SETTLE)
        self.assertEqual(len(self.changes), 1)
        self.changes.clear()
        self.seen(b"a" * 59)

    def test_nothing_scheduled_without_watches(self) -> None:
        self.no_timers()
        self.watcher.watch(self.path, lambda: None).stop()
        self.no_timers()


class InotifyTests(Situations):
    """By inotify, with polls so rare that they cannot explain a report."""

    if not watch_module.HAS_INOTIFY:
        skip = "no inotify here"

    clock: DescriptorClock

    def make(self) -> FileWatcher:
        now = self.clock.seconds()
        self.clock = DescriptorClock()
        self.clock.advance(now)
        return FileWatcher(self.clock, poll_interval=1e9)

    def notice(self) -> None:
        for _ in range(4):
            self.clock.deliver()
            self.clock.advance(SETTLE / 2)

    def test_stopped_while_settling(self) -> None:
        self.watch()
        self.put(b"one")
        self.clock.deliver()
        self.watcher.stop()
        self.seen()

    def test_descriptor_is_closed(self) -> None:
        self.watch()
        self.assertTrue(self.watcher.uses_inotify)
        (reader,) = self.clock.readers
        self.watcher.stop()
        self.assertFalse(self.watcher.uses_inotify)
        self.assertEqual(self.clock.readers, [])
        fileno = getattr(reader, "fileno", None)
        assert fileno is not None
        self.assertRaises(OSError, os.fstat, fileno())
        self.watch()
        self.put(b"one")
        self.seen(b"one")

    def test_no_more_instances(self) -> None:
        """When the limit of inotify instances is reached, polling goes on."""

        def refuse(reactor: object) -> None:
            raise OSError("Too many open files")

        self.patch(watch_module, "_INotify", refuse)
        self.watcher = FileWatcher(self.clock)
        self.watch()
        self.assertFalse(self.watcher.uses_inotify)
        self.put(b"one")
        self.clock.pump([POLL_INTERVAL, SETTLE, SETTLE])
        self.assertEqual(self.changes, [b"one"])
        self.watcher.stop()

    def test_instances_are_exhausted_for_a_while(self) -> None:
        """Inotify is used as soon as the system allows it, and says once that it is not (spec 12.4)."""
        usual = watch_module._INotify
        refusals = 0

        def refuse(reactor: object) -> None:
            nonlocal refusals
            refusals += 1
            raise OSError("Too many open files")

        self.patch(watch_module, "_INotify", refuse)
        self.watcher = FileWatcher(self.clock, poll_interval=100.0)
        self.watch()
        self.clock.pump([100.0] * 3)
        self.assertEqual((self.watcher.uses_inotify, refusals), (False, 4))
        self.patch(watch_module, "_INotify", usual)
        self.clock.advance(100)
        self.assertTrue(self.watcher.uses_inotify)
        self.put(b"one")
        self.seen(b"one")

    def test_watches_are_exhausted_for_a_while(self) -> None:
        self.watcher = FileWatcher(self.clock, poll_interval=100.0)
        usual = watch_module._Notifier.observe

        def refuse(*arguments: object) -> None:
            raise OSError("No space left on device")

        self.patch(watch_module._Notifier, "observe", refuse)
        self.watch()
        self.put(b"one")
        self.seen()
        self.patch(watch_module._Notifier, "observe", usual)
        self.clock.advance(100)
        self.seen(b"one")
        self.put(b"two")
        self.seen(b"two")

    def test_lost_events(self) -> None:
        """The kernel's queue has overflowed: the next poll finds the change, and watches the new directory."""
        self.watcher = FileWatcher(self.clock, poll_interval=100.0)
        self.watch()
        os.rename(self.config, self.config + ".old")
        os.mkdir(self.config)
        self.put(b"one")
        (reader,) = self.clock.readers
        os.read(reader.fileno(), 65536)
        self.seen()
        self.clock.advance(100)
        self.seen(b"one")
        self.put(b"three")
        self.seen(b"three")
        self.watcher.stop()

    def test_directory_comes_while_its_parent_is_about_to_be_watched(self) -> None:
        path = os.path.join(self.directory, "a", "b", "login.json")
        observe = watch_module._Notifier.observe

        def late(notifier: watch_module._Notifier, directory: str, seen: Callable[..., None]) -> None:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            observe(notifier, directory, seen)

        self.patch(watch_module._Notifier, "observe", late)
        self.watch(path)
        self.write(b"one", path)
        self.seen(b"one")

    def test_many_files_one_instance(self) -> None:
        for number in range(10):
            self.watch(os.path.join(self.config, str(number)))
        self.assertEqual(len(self.clock.readers), 1)


class RealReactorTests(SynchronousTestCase):
    """Try once with everything in place."""

    def test_real(self) -> None:
        reactor: PosixReactorBase = SelectReactor()
        self.addCleanup(self.tear_down_reactor, reactor)
        directory = self.mktemp()
        os.mkdir(directory)
        path = os.path.join(directory, "login.json")
        changes: list[float] = []
        watcher = FileWatcher(reactor)
        watcher.watch(path, lambda: changes.append(reactor.seconds()))
        begin = reactor.seconds()
        with open(path, "w") as file:
            file.write("one")
        while not changes and reactor.seconds() < begin + POLL_INTERVAL + 1:
            reactor.runUntilCurrent()
            reactor.doIteration(0.05)
        watcher.stop()
        self.assertEqual(len(changes), 1)
        if watch_module.HAS_INOTIFY:
            self.assertTrue(changes[0] - begin < POLL_INTERVAL, "found by looking, not by inotify")
        self.assertEqual(reactor.getDelayedCalls(), [])

    def tear_down_reactor(self, reactor: PosixReactorBase) -> None:
        for reader in reactor.removeAll():
            connection_lost = getattr(reader, "connectionLost", None)
            if connection_lost is not None:
                connection_lost(None)


# The base class of the situations is no test case.
del Situations
