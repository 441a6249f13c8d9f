"""A queue of work that does nothing until a test tells it to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface import implementer

from ccmproxy.interfaces.work_queue import IWorkQueue, QueueFull

_T = TypeVar("_T")


@implementer(IWorkQueue)
class ManualWork:
    """``waiting``: the users whose work waits, in order. ``room``: how many pieces may wait."""

    def __init__(self) -> None:
        self.room = 10
        self.stopped = False
        self._pieces: list[tuple[str, Callable[[], Any], Deferred[Any]]] = []

    @property
    def waiting(self) -> list[str]:
        return [user for user, _, _ in self._pieces]

    def run(self, user: str, work: Callable[[], _T]) -> Deferred[_T]:
        if len(self._pieces) >= self.room:
            raise QueueFull
        done: Deferred[_T] = Deferred(self._drop)
        self._pieces.append((user, work, done))
        return done

    def do_next(self) -> None:
        """Do the piece that has waited longest."""
        _, work, done = self._pieces.pop(0)
        maybeDeferred(work).chainDeferred(done)

    def stop(self) -> None:
        self.stopped = True

    def _drop(self, cancelled: Deferred[Any]) -> None:
        self._pieces = [piece for piece in self._pieces if piece[2] is not cancelled]
