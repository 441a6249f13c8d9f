"""One call for many: unplugging a cable is half a dozen notifications, and one change."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Debounce:
    """Calls ``function`` once, ``interval`` seconds after the first of the calls that it gets within that time.

    After the first, not the last: what changes all the time must be told too.
    """

    def __init__(self, clock: IReactorTime, interval: float, function: Callable[[], object]) -> None:
        self._clock = clock
        self._interval = interval
        self._function = function
        self._call: IDelayedCall | None = None

    def __call__(self) -> None:
        if self._call is None:
            self._call = self._clock.callLater(self._interval, self._fire)

    def stop(self) -> None:
        """Forget what has been called for."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _fire(self) -> None:
        self._call = None
        self._function()
