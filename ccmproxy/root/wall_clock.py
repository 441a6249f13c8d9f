"""Unix time for a program that measures all durations on a monotonic clock (spec 11, F65).

Two clocks are used, and never in each other's place. *Durations* (time-outs, back-offs, rests, ages) are measured on
the monotonic clock, an ``IReactorTime`` that is called ``clock`` everywhere. *Unix time* (``now``) is for what is Unix
time elsewhere: on the wire, in files, and in the windows of an upstream.

Some moments of our own stand beside Unix times of an upstream and are compared with these, so they are Unix times as
well. They stay right if the system's clock is set, because nobody sees the new time before all of them have been moved:
``now`` advances with the monotonic clock, and takes over what the system's clock says only in :meth:`WallClock.look`,
in the same turn of the reactor in which the owners of such moments move them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

#: Seconds between two looks at the system's clock.
INTERVAL: Final = 1.0
#: A difference below this is drift between the two clocks, which is followed silently (seconds).
LEAST_JUMP: Final = 1.0


class WallClock:
    """Unix time that does not jump between two calls of :meth:`look`.

    ``clock``: the monotonic clock. ``system``: returns the Unix seconds of the system's clock.
    """

    def __init__(
        self,
        clock: IReactorTime,
        system: Callable[[], float] = time.time,  # noqa: TID251 - this is where Unix time comes from
    ) -> None:
        self._clock = clock
        self._system = system
        self._offset = system() - clock.seconds()

    def now(self) -> float:
        """Return Unix seconds."""
        return self._offset + self._clock.seconds()

    def look(self) -> float:
        """Follow the system's clock. Returns by how many seconds it was set since the last look, 0 if it was not."""
        offset = self._system() - self._clock.seconds()
        by, self._offset = offset - self._offset, offset
        return by if abs(by) >= LEAST_JUMP else 0.0


class ClockWatch:
    """Looks at the system's clock once a second, and calls ``was_set`` with the seconds by which it was set."""

    log = Logger()

    def __init__(
        self, clock: IReactorTime, look: Callable[[], float], was_set: Callable[[float], None]
    ) -> None:
        """``look``: see :meth:`WallClock.look`."""
        self._clock = clock
        self._look = look
        self._was_set = was_set
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Start to look. A change since the clock was made is noticed at once."""
        if self._call is None:
            self._look_again()

    def stop(self) -> None:
        """Stop looking, and cancel the timer."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look_again(self) -> None:
        self._call = self._clock.callLater(INTERVAL, self._look_again)
        by = self._look()
        if by:
            self.log.warn(
                "the system's clock was set {direction} by {by:.0f} s",
                direction="forward" if by > 0 else "back",
                by=abs(by),
            )
            self._was_set(by)
