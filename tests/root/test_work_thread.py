"""Work in another thread: a real one, and of the reactor only the way back from it."""

from __future__ import annotations

import gc
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.interfaces.work_queue import QueueFull
from ccmproxy.root.work_thread import MOST_WAITING, MOST_WAITING_OF_USER, WorkThread


class ThreadsOnly:
    """As much of a reactor as a thread needs that has finished something."""

    def __init__(self) -> None:
        self._calls: queue.Queue[Callable[[], object]] = queue.Queue()

    def callFromThread(self, function: Callable[..., object], *arguments: object) -> None:
        self._calls.put(lambda: function(*arguments))

    def turn(self) -> None:
        """Do what one thread has asked for; waits for it, at most 30 s."""
        self._calls.get(timeout=30)()


class WorkThreadTests(SynchronousTestCase):
    """One thread, and a queue before it."""

    def setUp(self) -> None:
        self.reactor = ThreadsOnly()
        self.work = WorkThread(self.reactor)
        self.addCleanup(self.work.stop)
        #: The thread is at its first piece until this is set.
        self.gate = threading.Event()
        self.addCleanup(self.gate.set)
        self.done: list[object] = []

    def block(self, user: str = "alice") -> Deferred[None]:
        """Keep the thread until ``gate`` is set."""

        def wait() -> None:
            self.assertTrue(self.gate.wait(30))

        return self.work.run(user, wait)

    def ask(self, user: str, name: object) -> Deferred[Any]:
        """Ask for a piece of work that leaves its name in ``done``."""
        return self.work.run(user, lambda: self.done.append(name))

    def finish(self, pieces: int) -> None:
        self.gate.set()
        for _ in range(pieces):
            self.reactor.turn()

    def test_another_thread_does_it(self) -> None:
        done = self.work.run("alice", threading.current_thread)
        self.assertNoResult(done)
        self.reactor.turn()
        self.assertIsNot(self.successResultOf(done), threading.current_thread())

    def test_there_is_no_thread_before_there_is_work(self) -> None:
        before = threading.active_count()
        work = WorkThread(self.reactor)
        self.assertEqual(threading.active_count(), before)
        work.stop()

    def test_one_after_the_other(self) -> None:
        self.block()
        for number in range(5):
            self.ask("alice", number)
        self.assertEqual(self.done, [])
        self.finish(6)
        self.assertEqual(self.done, [0, 1, 2, 3, 4])

    def test_users_take_turns(self) -> None:
        self.block()
        for number in range(3):
            self.ask("alice", f"a{number}")
        for number in range(2):
            self.ask("bob", f"b{number}")
        self.finish(6)
        self.assertEqual(self.done, ["b0", "a0", "b1", "a1", "a2"])

    def test_errors_are_told(self) -> None:
        done = self.work.run("alice", lambda: 1 // 0)
        after = self.work.run("alice", lambda: 2)
        self.reactor.turn()
        self.failureResultOf(done, ZeroDivisionError)
        self.reactor.turn()
        self.assertEqual(self.successResultOf(after), 2)

    def test_what_waits_is_bounded(self) -> None:
        self.block()
        for number in range(MOST_WAITING_OF_USER):
            self.ask("alice", number)
        self.assertRaises(QueueFull, self.ask, "alice", "more")
        for number in range(MOST_WAITING - MOST_WAITING_OF_USER):
            self.ask(f"user {number}", number)
        self.assertRaises(QueueFull, self.ask, "bob", "more")
        self.finish(1 + MOST_WAITING)
        self.assertEqual(len(self.done), MOST_WAITING)
        self.ask("alice", "again")
        self.reactor.turn()

    def test_cancelled_while_it_waits(self) -> None:
        self.block()
        kept, dropped = self.ask("alice", "kept"), self.ask("alice", "dropped")
        dropped.cancel()
        self.failureResultOf(dropped, CancelledError)
        for number in range(MOST_WAITING_OF_USER - 1):
            self.ask("alice", number)  # its place is free
        self.finish(1 + MOST_WAITING_OF_USER)
        self.successResultOf(kept)
        self.assertNotIn("dropped", self.done)

    def test_cancelled_while_it_is_done(self) -> None:
        first, second = self.block(), self.ask("alice", "second")
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertNoResult(second)
        self.finish(2)
        self.assertEqual(self.done, ["second"])

    def test_nothing_is_kept(self) -> None:
        """What work refers to, such as a body of 64 MiB, is gone with it, and does not wait for the collector."""

        class Work:
            """Can be weakly referred to."""

            def __call__(self) -> None:
                """Do nothing."""

        gc.disable()
        self.addCleanup(gc.enable)
        work = Work()
        gone = weakref.ref(work)
        done = self.work.run("alice", work)
        del work
        self.reactor.turn()
        self.work.stop()
        self.assertTrue(done.called)
        self.assertIsNone(gone())

    def test_the_end(self) -> None:
        running, waiting = self.block(), self.ask("alice", "waiting")
        before = threading.active_count()
        self.gate.set()
        self.work.stop()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(threading.active_count(), before - 1)
        self.assertRaises(QueueFull, self.ask, "alice", "more")
        self.reactor.turn()
        self.successResultOf(running)
        self.assertEqual(self.done, [])
