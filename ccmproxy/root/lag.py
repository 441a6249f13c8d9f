"""The lag of the reactor: a metric, and a warning when something blocks the reactor (F24)."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

#: Seconds between two measurements.
INTERVAL: Final = 1.0
#: Lag above which a warning is logged (seconds). Every client waits for that long.
WARNING: Final = 1.0


class LagMeter:
    """Schedules a call once a second and measures its delay.

    ``last``: the lag at the last measurement; ``worst``: the largest lag since :meth:`start`; both in seconds.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self.last = 0.0
        self.worst = 0.0
        self._clock = clock
        self._due = 0.0
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Start measuring. Resets ``last`` and ``worst``."""
        self.last = self.worst = 0.0
        if self._call is None:
            self._arm()

    def stop(self) -> None:
        """Stop measuring and cancel the timer."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _arm(self) -> None:
        self._due = self._clock.seconds() + INTERVAL
        self._call = self._clock.callLater(INTERVAL, self._measure)

    def _measure(self) -> None:
        self.last = max(0.0, self._clock.seconds() - self._due)
        self.worst = max(self.worst, self.last)
        if self.last > WARNING:
            self.log.warn("the reactor was held up for {lag:.1f} s", lag=self.last)
        self._arm()
