"""Single flight: concurrent callers share one attempt and its outcome."""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Shares the outcome of an attempt among all callers that join while it is in flight.

    A caller that cancels its Deferred does not end the attempt. ``failed`` is called with the exception once per
    failed attempt, before any caller receives it.
    """

    def __init__(self, failed: Callable[[BaseException], None] = lambda error: None) -> None:
        #: True while an attempt is in flight.
        self.active = False
        self._failed = failed
        self._attempt: Deferred[None] | None = None
        self._waiters: list[Deferred[T]] = []

    def join(self, begin: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> Deferred[T]:
        """Return the outcome of the attempt in flight or, if there is none, of a new one started by ``begin()``.

        The Deferred may be cancelled. It fails with a copy of the exception that ``begin()`` raised, or with
        CancelledError after :meth:`cancel`.
        """
        waiter: Deferred[T] = Deferred(self._forget)
        self._waiters.append(waiter)
        if not self.active:
            # Set before the coroutine runs, because the coroutine may cause a reentrant call of join().
            self.active = True
            attempt = Deferred.fromCoroutine(begin()).addBoth(self._finished)
            if self.active:
                self._attempt = attempt
        return waiter

    def cancel(self) -> None:
        """Cancel the attempt itself. All waiting callers receive its CancelledError."""
        if self._attempt is not None:
            self._attempt.cancel()

    def _forget(self, waiter: Deferred[T]) -> None:
        if waiter in self._waiters:  # It is gone from the list while the outcome is being delivered.
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
                # A copy for each waiter, because an exception collects the tracebacks of all places that raise it.
                waiter.errback(copy.copy(error))
            elif not isinstance(result, Failure):
                waiter.callback(result)
