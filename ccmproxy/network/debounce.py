"""Debouncing: many notifications cause one call. Unplugging a cable causes half a dozen notifications, for example."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ccmproxy.interfaces.network import NetworkChange


class Debounce:
    """Calls ``function`` once for all calls within ``interval`` seconds, at the end of that time, with the greatest
    change of all.

    The time runs from the first call, not from the last, so that continuous changes are reported too.
    """

    def __init__(
        self, clock: IReactorTime, interval: float, function: Callable[[NetworkChange], object]
    ) -> None:
        self._clock = clock
        self._interval = interval
        self._function = function
        self._call: IDelayedCall | None = None
        self._greatest = NetworkChange.NONE

    def __call__(self, change: NetworkChange) -> None:
        self._greatest = max(self._greatest, change)
        if self._call is None:
            self._call = self._clock.callLater(self._interval, self._fire)

    def stop(self) -> None:
        """Cancel a pending call."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._greatest = NetworkChange.NONE

    def _fire(self) -> None:
        self._call = None
        greatest, self._greatest = self._greatest, NetworkChange.NONE
        self._function(greatest)
