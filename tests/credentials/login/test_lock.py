"""Tests of :mod:`ccmproxy.credentials.login.lock`: one holder at a time, also across processes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

from twisted.internet.defer import CancelledError, Deferred

from ccmproxy.credentials.login import lock as lock_module
from ccmproxy.credentials.login.lock import DirectoryLock, LockUnavailable, lock_path
from tests.credentials.fixtures import CredentialTestCase

#: A program that tries to take the lock at argv[1] directly by mkdir, and prints whether it did.
OTHER_PROGRAM = (
    "import os, sys\ntry: os.mkdir(sys.argv[1])\nexcept FileExistsError: print('held')\nelse: print('free')"
)


class LockTests(CredentialTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.lock_path = lock_path(self.config)
        self.lock = self.make()

    def make(self, random: float = 0.5) -> DirectoryLock:
        return DirectoryLock(self.lock_path, self.clock, lambda: random, self.clock.seconds)

    def take(self, lock: DirectoryLock) -> Deferred[None]:
        """Fires when ``lock`` is held."""
        return Deferred.fromCoroutine(lock.__aenter__())

    def foreign(self, age: float = 0.0) -> None:
        """Create another program's lock, last touched ``age`` seconds ago."""
        os.mkdir(self.lock_path)
        touched = self.clock.seconds() - age
        os.utime(self.lock_path, (touched, touched))

    def assertFree(self) -> None:
        self.assertEqual(os.listdir(self.directory), ["config"])

    def test_path(self) -> None:
        link = os.path.join(self.directory, "link")
        os.symlink("config", link)
        self.assertEqual(lock_path(link), self.config + ".lock")
        self.assertEqual(lock_path(self.config + "/"), self.config + ".lock")

    def test_obstacle(self) -> None:
        """A directory that is not writable is noticed before the lock is needed. (Root can write everywhere.)"""
        self.assertIsNone(self.lock.obstacle())
        self.patch(os, "access", lambda path, mode: path != self.directory)
        self.assertIn(f"{self.directory}, where the lock", self.lock.obstacle() or "")
        self.lock_path = "/nonexistent/folder/config.lock"
        self.assertIsNone(self.make().obstacle())

    def test_held_while_inside(self) -> None:
        inside: Deferred[None] = Deferred()

        async def use() -> str:
            async with self.lock:
                await inside
                return "done"

        using = Deferred.fromCoroutine(use())
        self.assertTrue(os.path.isdir(self.lock_path))
        self.assertTrue(self.lock.held)
        inside.callback(None)
        self.assertEqual(self.successResultOf(using), "done")
        self.assertFree()
        self.no_timers()

    def test_released_on_error_and_on_cancel(self) -> None:
        async def use(inside: Deferred[None]) -> None:
            async with self.lock:
                await inside

        failing: Deferred[None] = Deferred()
        using = Deferred.fromCoroutine(use(failing))
        failing.errback(ZeroDivisionError())
        self.failureResultOf(using, ZeroDivisionError)
        self.assertFree()
        using = Deferred.fromCoroutine(use(Deferred()))
        self.assertTrue(self.lock.held)
        using.cancel()
        self.failureResultOf(using, CancelledError)
        self.assertFree()
        self.no_timers()

    def test_touched_every_five_seconds(self) -> None:
        self.successResultOf(self.take(self.lock))
        for _ in range(10):
            self.clock.advance(5)
            self.assertEqual(os.stat(self.lock_path).st_mtime, self.clock.seconds())
            self.assertTrue(self.lock.held)
        self.lock.release()
        self.assertFree()

    def test_six_tries(self) -> None:
        """The attempts are one to two seconds apart, and end while the other program still holds the lock."""
        self.foreign()
        tries: list[float] = []
        mkdir = os.mkdir

        def recorded(path: str, mode: int = 0o777) -> None:
            tries.append(self.clock.seconds())
            mkdir(path, mode)

        self.patch(os, "mkdir", recorded)
        waiting = self.take(self.lock)
        for _ in range(80):
            self.clock.advance(0.1)
            os.utime(self.lock_path, (self.clock.seconds(),) * 2)
        error = self.failureResultOf(waiting, LockUnavailable).value
        self.assertIn("held by another program", str(error))
        self.assertEqual(len(tries), 6)
        for earlier, later in itertools.pairwise(tries):
            self.assertApproximates(later - earlier, 1.5, 0.11)
        self.no_timers()
        self.assertTrue(os.path.isdir(self.lock_path))

    def test_waits_are_random(self) -> None:
        for random, wait in ((0.0, 1.0), (0.999, 1.999)):
            self.foreign()
            waiting = self.take(self.make(random))
            os.rmdir(self.lock_path)
            self.clock.advance(wait - 0.01)
            self.assertNoResult(waiting)
            self.clock.advance(0.02)
            self.successResultOf(waiting)
            os.rmdir(self.lock_path)

    def test_taken_when_the_other_lets_go(self) -> None:
        other = self.make()
        self.successResultOf(self.take(other))
        waiting = self.take(self.lock)
        self.clock.advance(1.5)
        self.assertNoResult(waiting)
        other.release()
        self.clock.advance(1.5)
        self.successResultOf(waiting)
        self.assertTrue(self.lock.held)

    def test_cancelled_while_waiting(self) -> None:
        self.foreign()
        waiting = self.take(self.lock)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.no_timers()
        self.assertTrue(os.path.isdir(self.lock_path))

    def test_stale_after_ten_seconds(self) -> None:
        self.foreign(age=10.0)
        waiting = self.take(self.lock)
        self.assertNoResult(waiting)
        self.clock.advance(1.5)
        self.successResultOf(waiting)
        self.lock.release()
        self.foreign(age=10.1)
        self.successResultOf(self.take(self.lock))
        self.lock.release()
        self.assertFree()

    def test_touched_in_the_future(self) -> None:
        """The owner died before the wall clock was set back. A lock that nobody touches for ten seconds is stale."""
        self.foreign(age=-86400.0)
        waiting = self.take(self.lock)
        self.clock.pump([1.5] * 5)
        self.failureResultOf(waiting, LockUnavailable)
        waiting = self.take(self.lock)
        self.clock.pump([1.5] * 2)
        self.successResultOf(waiting)
        self.lock.release()
        self.assertFree()

    def test_touched_in_the_future_by_a_living_owner(self) -> None:
        self.foreign(age=-86400.0)
        for _ in range(10):
            waiting = self.take(self.lock)
            for _ in range(6):
                self.clock.advance(1.5)
                at = self.clock.seconds() + 86400
                os.utime(self.lock_path, (at, at))
            self.failureResultOf(waiting, LockUnavailable)

    def test_left_by_a_process_that_was_killed(self) -> None:
        """Between the rename of a stale lock and its removal."""
        left = [f"{self.lock_path}.{number:016x}" for number in range(2)]
        for path in left:
            os.mkdir(path)
            os.utime(path, (1.0, 1.0))
        os.utime(left[1], (self.clock.seconds(),) * 2)
        others = f"{self.lock_path}.older"
        os.mkdir(others)
        self.successResultOf(self.take(self.lock))
        self.lock.release()
        self.assertEqual([os.path.isdir(path) for path in (*left, others)], [False, True, True])

    def test_clients_are_told_no_path(self) -> None:
        error = LockUnavailable(self.lock_path, "is held by another program")
        self.assertIn(self.lock_path, str(error))
        self.assertEqual(error.public, "its lock is held by another program")

    def test_stale_removal_takes_nobody_elses(self) -> None:
        """Between the check of a stale lock and its removal, another program has removed it and taken the lock."""
        self.foreign(age=60.0)
        rename = os.rename
        other = self.make()

        def late(source: str, target: str) -> None:
            if source == self.lock_path:
                self.patch(os, "rename", rename)
                os.rmdir(self.lock_path)
                self.successResultOf(self.take(other))
            rename(source, target)

        self.patch(os, "rename", late)
        waiting = self.take(self.lock)
        self.assertNoResult(waiting)
        self.assertTrue(other.held)
        other.release()
        self.clock.advance(1.5)
        self.successResultOf(waiting)
        self.lock.release()
        self.assertFree()

    def test_two_see_the_same_stale_lock(self) -> None:
        self.foreign(age=60.0)
        rename = os.rename

        def gone(source: str, target: str) -> None:
            self.patch(os, "rename", rename)
            os.rmdir(self.lock_path)
            rename(source, target)

        self.patch(os, "rename", gone)
        self.successResultOf(self.take(self.lock))
        self.lock.release()
        self.assertFree()

    def test_lost_lock_is_noticed_and_left_alone(self) -> None:
        """Another program took the lock because its owner seemed dead (a suspended laptop). It keeps the lock."""
        self.successResultOf(self.take(self.lock))
        os.rmdir(self.lock_path)
        self.assertFalse(self.lock.held)
        self.foreign(age=3.0)
        self.assertFalse(self.lock.held)
        before = os.stat(self.lock_path)
        self.clock.advance(5)
        self.lock.release()
        after = os.stat(self.lock_path)
        self.assertEqual((before.st_ino, before.st_mtime_ns), (after.st_ino, after.st_mtime_ns))
        self.no_timers()

    def test_a_lock_from_the_future(self) -> None:
        """Its owner may be alive on a machine whose clock was set back; it is, if it is touched (spec 11)."""
        self.foreign(age=-3 * 3600.0)
        self.failureResultOf(self.run_out(self.take(self.lock)), LockUnavailable)
        self.clock.advance(3)
        self.successResultOf(self.take(self.lock))
        self.lock.release()
        self.assertFree()

    def test_the_lock_of_a_living_program_after_the_clock_was_set_forward(self) -> None:
        """It looks stale to whoever asks the time of day alone, until it is touched the next time."""
        self.foreign(age=3600.0)
        self.lock.clock_set(3600.0)
        taking = self.take(self.lock)
        self.clock.pump([0.5] * 8)
        self.assertNoResult(taking)
        touched = self.clock.seconds()
        os.utime(self.lock_path, (touched, touched))
        self.clock.pump([0.5] * 8)
        self.failureResultOf(taking, LockUnavailable)

    def test_the_lock_of_a_dead_program_after_the_clock_was_set_forward(self) -> None:
        self.foreign(age=3600.0)
        self.lock.clock_set(3600.0)
        self.failureResultOf(self.run_out(self.take(self.lock)), LockUnavailable)
        self.clock.advance(3)
        self.successResultOf(self.take(self.lock))
        self.lock.release()

    def run_out(self, taking: Deferred[None]) -> Deferred[None]:
        """Let the time pass that all attempts take."""
        self.clock.pump([0.5] * 16)
        return taking

    def test_a_held_lock_is_touched_when_the_clock_is_set(self) -> None:
        """Otherwise others would take it for stale, or for one from the future."""
        self.successResultOf(self.take(self.lock))
        self.clock.advance(1)
        self.lock.clock_set(3600.0)
        self.assertEqual(os.stat(self.lock_path).st_mtime, self.clock.seconds())
        self.assertTrue(self.lock.held)
        self.lock.release()
        self.no_timers()

    def test_cannot_be_created(self) -> None:
        path = self.directory + "/missing/config.lock"
        lock = DirectoryLock(path, self.clock, lambda: 0.0, self.clock.seconds)
        error = self.failureResultOf(self.take(lock), LockUnavailable).value
        self.assertIn("cannot be taken: No such file", str(error))
        self.no_timers()

    def test_a_file_in_its_place(self) -> None:
        with open(self.lock_path, "w"):
            pass
        os.utime(self.lock_path, (1, 1))
        waiting = self.take(self.lock)
        for _ in range(6):
            self.clock.advance(2)
        self.failureResultOf(waiting, LockUnavailable)
        self.assertEqual(sorted(os.listdir(self.directory)), ["config", "config.lock"])

    def test_another_process_sees_it(self) -> None:
        self.successResultOf(self.take(self.lock))
        ask = [sys.executable, "-S", "-c", OTHER_PROGRAM, self.lock_path]
        self.assertEqual(subprocess.check_output(ask), b"held\n")
        self.lock.release()
        self.assertEqual(subprocess.check_output(ask), b"free\n")

    def test_constants(self) -> None:
        """The constants are shared with another program and must not change."""
        self.assertEqual(
            (lock_module.STALE_AFTER, lock_module.TOUCH_INTERVAL, lock_module.ATTEMPTS), (10, 5, 6)
        )
