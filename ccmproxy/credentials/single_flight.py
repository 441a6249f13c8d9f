"""One attempt at a time, however many want its outcome."""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Shares the outcome of an attempt among all who ask while it is under way.

    Who stops waiting does not end the attempt. ``finished``, called before anyone gets a failure, is told the
    exception, so that what is to happen once per attempt happens once.
    """

    def __init__(self, failed: Callable[[BaseException], None] = lambda error: None) -> None:
        #: True while an attempt is under way.
        self.active = False
        self._failed = failed
        self._attempt: Deferred[None] | None = None
        self._waiters: list[Deferred[T]] = []

    def join(self, begin: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> Deferred[T]:
        """The outcome of the attempt under way, or of a new one: ``begin()``. May be cancelled."""
        waiter: Deferred[T] = Deferred(self._forget)
        self._waiters.append(waiter)
        if not self.active:
            # Before the coroutine runs: what it calls may come back here.
            self.active = True
            attempt = Deferred.fromCoroutine(begin()).addBoth(self._finished)
            if self.active:
                self._attempt = attempt
        return waiter

    def cancel(self) -> None:
        """Cancel the attempt itself. All who wait get its CancelledError."""
        if self._attempt is not None:
            self._attempt.cancel()

    def _forget(self, waiter: Deferred[T]) -> None:
        if waiter in self._waiters:  # not any more while the outcome is being handed out
            self._waiters.remove(waiter)

    def _finished(self, result: T | Failure) -> None:
        self.active = False
        self._attempt = None
        waiters, self._waiters = self._waiters, []
        error = result.value if isinstance(result, Failure) else None
        if error is not None:
            self._failed(error)
        for waiter in waiters:
            if waiter.called:
                continue
            if error is not None:
                # Each its own: one that is raised collects the tracebacks of where it passed.
                waiter.errback(copy.copy(error))
            elif not isinstance(result, Failure):
                waiter.callback(result)
