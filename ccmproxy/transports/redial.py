"""When to dial a permanent connection again after it failed or was lost (spec 7.4)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ccmproxy.policy.backoff import Backoff


class Redial:
    """Dials at once, and again after an exponential back-off whenever an attempt fails or the connection is lost.

    ``dial`` is called by :meth:`start` and :meth:`restart`, and when the delay after :meth:`lost` is over; never before
    :meth:`start`, nor after :meth:`stop`. The caller owns the connection: it reports by :meth:`made` and :meth:`lost`
    how an attempt went, and cancels an attempt that is under way before it calls :meth:`restart` or :meth:`stop`.

    Twisted's ClientService does the same for connections made by an endpoint; ours begin with an HTTP request.
    """

    def __init__(self, clock: IReactorTime, random: Callable[[], float], dial: Callable[[], None]) -> None:
        """``random``: returns numbers in [0, 1). ``dial``: begins one attempt; it must not raise."""
        self._clock = clock
        self._backoff = Backoff(random)
        self._dial = dial
        self._timer: IDelayedCall | None = None
        #: Time at which the connection was made; None while there is no connection.
        self._made_at: float | None = None
        self.is_running = False

    def start(self) -> None:
        """Dial, unless this has been started already."""
        if not self.is_running:
            self.is_running = True
            self._begin()

    def stop(self) -> None:
        """Stop dialling."""
        self.is_running = False
        self._disarm()

    def restart(self) -> None:
        """Forget earlier failures, which say nothing about the next attempt, and dial at once if running."""
        self._backoff.reset()
        self._disarm()
        if self.is_running:
            self._begin()

    def made(self) -> None:
        """Record that the connection has been made."""
        self._made_at = self._clock.seconds()

    def lost(self) -> float | None:
        """Record that the attempt failed or the connection was lost, and dial again after a delay.

        Return the delay in seconds, which is shorter after a long-lived connection; None after :meth:`stop`.
        """
        if not self.is_running:
            return None
        lived = 0.0 if self._made_at is None else self._clock.seconds() - self._made_at
        delay = self._backoff.failed(lived)
        self._disarm()
        self._timer = self._clock.callLater(delay, self._timed)
        return delay

    def _timed(self) -> None:
        self._timer = None
        self._begin()

    def _begin(self) -> None:
        self._made_at = None
        self._dial()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
