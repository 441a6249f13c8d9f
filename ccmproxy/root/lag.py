"""How late the reactor is: a metric, and a warning where something holds it up (F24)."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

#: Seconds between two measurements.
INTERVAL: Final = 1.0
#: From this lateness on (seconds) something is wrong: every client waits for so long.
WARNING: Final = 1.0


class LagMeter:
    """Asks once a second to be called, and measures how late the call comes.

    ``last``: lateness at the last measurement, ``worst``: the greatest since :meth:`start`; both in seconds. A clock
    that is set forward looks the same, once.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self.last = 0.0
        self.worst = 0.0
        self._clock = clock
        self._due = 0.0
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Begin to measure."""
        self.last = self.worst = 0.0
        if self._call is None:
            self._arm()

    def stop(self) -> None:
        """End; nothing stays with the clock."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _arm(self) -> None:
        self._due = self._clock.seconds() + INTERVAL
        self._call = self._clock.callLater(INTERVAL, self._measure)

    def _measure(self) -> None:
        # A clock that was set back makes nobody wait.
        self.last = max(0.0, self._clock.seconds() - self._due)
        self.worst = max(self.worst, self.last)
        if self.last > WARNING:
            self.log.warn("the reactor was held up for {lag:.1f} s", lag=self.last)
        self._arm()
