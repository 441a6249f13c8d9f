"""Debouncing: many notifications cause one call. Unplugging a cable causes half a dozen notifications, for example."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Debounce:
    """Calls ``function`` once for all calls within ``interval`` seconds, at the end of that time.

    The time runs from the first call, not from the last, so that continuous changes are reported too.
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
        """Cancel a pending call."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _fire(self) -> None:
        self._call = None
        self._function()
