"""A connection that is made again for ever, as long as it is wanted: when the next try is due (spec 7.4)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ccmproxy.policy.backoff import Backoff


class Redial:
    """Decides when a connection is made: at once, and again after a delay whenever a try fails or it is lost.

    ``dial`` is called by :meth:`start` and :meth:`restart`, and when the delay after :meth:`lost` is over; never before
    :meth:`start`, nor after :meth:`stop`. The connection itself belongs to somebody else, who says with :meth:`made`
    and :meth:`lost` how a try went, and gives up one that is under way before :meth:`restart` or :meth:`stop`.

    Twisted's ClientService does the same for connections that an endpoint makes; these begin with an HTTP request.
    """

    def __init__(self, clock: IReactorTime, random: Callable[[], float], dial: Callable[[], None]) -> None:
        """``random``: numbers in [0, 1). ``dial``: begins one try; it must not raise."""
        self._clock = clock
        self._backoff = Backoff(random)
        self._dial = dial
        self._timer: IDelayedCall | None = None
        #: When the connection was made; None while there is none.
        self._made_at: float | None = None
        self.is_running = False

    def start(self) -> None:
        """Dial, unless it has been started already."""
        if not self.is_running:
            self.is_running = True
            self._begin()

    def stop(self) -> None:
        """Dial no more."""
        self.is_running = False
        self._disarm()

    def restart(self) -> None:
        """What failed before says nothing of the next try: dial at once, if running, and forget earlier failures."""
        self._backoff.reset()
        self._disarm()
        if self.is_running:
            self._begin()

    def made(self) -> None:
        """The connection stands from now on."""
        self._made_at = self._clock.seconds()

    def lost(self) -> float | None:
        """The try failed, or the connection was lost: dial again after a delay.

        The delay in seconds, shorter where the connection had lived long; None where nothing is dialled any more.
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
