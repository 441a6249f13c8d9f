"""The one thread of a service beside the reactor's, for work that would keep the reactor too long (F24, F63)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from ccmproxy.interfaces.work_queue import IWorkQueue, QueueFull

_T = TypeVar("_T")

#: Most pieces of work that wait, of all users and of one of them. Each holds a request body, and takes half a second
#: at worst.
MOST_WAITING: Final = 32
MOST_WAITING_OF_USER: Final = 8


class _Piece:
    """A piece of work that was asked for."""

    __slots__ = ("done", "user", "work")

    def __init__(self, user: str, work: Callable[[], Any], done: Deferred[Any]) -> None:
        self.user = user
        self.work = work
        self.done = done


@implementer(IWorkQueue)
class WorkThread:
    """A queue of work, and one thread that does it.

    The thread is made for the first piece of work. It takes pieces in turn from each user that has some waiting, so
    that nobody waits behind all that another user has sent.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool: ThreadPool | None = None
        #: In the order in which they came.
        self._waiting: list[_Piece] = []
        #: How many of each user wait.
        self._counts: Counter[str] = Counter()
        #: When a piece of each user was last begun, as the number of that piece; forgotten when nothing waits.
        self._turns: dict[str, int] = {}
        self._begun = 0
        self._busy = False
        self._stopped = False

    def run(self, user: str, work: Callable[[], _T]) -> Deferred[_T]:
        if self._stopped or len(self._waiting) >= MOST_WAITING or self._counts[user] >= MOST_WAITING_OF_USER:
            raise QueueFull
        piece = _Piece(user, work, Deferred(self._forget))
        self._waiting.append(piece)
        self._counts[user] += 1
        self._next()
        return piece.done

    def stop(self) -> None:
        self._stopped = True
        for piece in tuple(self._waiting):
            piece.done.cancel()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()

    def _forget(self, done: Deferred[Any]) -> None:
        """A piece was cancelled. If it has begun, its result is dropped when it comes."""
        for piece in self._waiting:
            if piece.done is done:
                self._take(piece)
                return

    def _take(self, piece: _Piece) -> None:
        self._waiting.remove(piece)
        self._counts[piece.user] -= 1
        if not self._counts[piece.user]:
            del self._counts[piece.user]

    def _next(self) -> None:
        if self._busy or self._stopped:
            return
        if not self._waiting:
            self._turns.clear()
            return
        # The first one of the user whose last turn is longest ago.
        piece = min(self._waiting, key=lambda each: self._turns.get(each.user, 0))
        self._take(piece)
        self._begun += 1
        self._turns[piece.user] = self._begun
        self._busy = True
        if self._pool is None:
            self._pool = ThreadPool(minthreads=0, maxthreads=1, name="ccmproxy bodies")
            self._pool.start()
        deferToThreadPool(self._reactor, self._pool, piece.work).addBoth(self._ended, piece.done)

    def _ended(self, result: Any, done: Deferred[Any]) -> None:
        self._busy = False
        self._next()
        if done.called:
            return  # cancelled meanwhile
        if isinstance(result, Failure):
            done.errback(result)
        else:
            done.callback(result)
