"""Pings: those that the owner requests, our own that check whether the peer is alive, and those of the peer."""

from __future__ import annotations

from typing import Final

from ccmproxy.yamux.errors import ProtocolError
from ccmproxy.yamux.parameters import Rate, RateLimit

_NEVER: Final = float("inf")
_NUMBERS: Final = 2**32


class KeepAlive:
    """Tracks unanswered pings, and decides when to send a keep-alive ping and when to give up. Times in seconds.

    ``interval``: from the answer to one keep-alive ping to the next one, so that a slow peer does not get more of them.
    ``timeout``: for the answer to a keep-alive ping. ``requests``: the rate of pings allowed to the peer. ``deadline``:
    when to send a keep-alive ping, or to give up if ``is_asking``.
    """

    __slots__ = ("_interval", "_next", "_own", "_requests", "_sent", "_timeout", "deadline")

    def __init__(self, interval: float, timeout: float, requests: Rate, now: float) -> None:
        self._interval = interval
        self._timeout = timeout
        #: When each unanswered ping was sent, and the number of the keep-alive ping among them.
        self._sent: dict[int, float] = {}
        self._own: int | None = None
        self._next = 0
        self._requests = RateLimit(requests, now)
        self.deadline = now + interval

    @property
    def is_asking(self) -> bool:
        """Whether a keep-alive ping has not been answered yet."""
        return self._own is not None

    def ping(self, now: float) -> int:
        """Record a ping that is sent now, and return its number. Numbers count from 0, as in Go's implementation."""
        number = self._next
        self._next = (number + 1) % _NUMBERS
        self._sent[number] = now
        return number

    def ask(self, now: float) -> int:
        """Do the same as ``ping`` for a keep-alive ping, which must be answered by ``deadline``."""
        self._own = self.ping(now)
        self.deadline = now + self._timeout
        return self._own

    def requested(self, now: float) -> None:
        """Count a ping of the peer. Raises ProtocolError when there are too many."""
        if not self._requests.allows(now):
            raise ProtocolError("too many pings")

    def answered(self, number: int, now: float) -> float | None:
        """Record the answer to a ping. Return the round-trip time in seconds; None if the owner did not request it."""
        sent = self._sent.pop(number, None)
        if sent is None:
            return None
        if number == self._own:
            self._own = None
            self.deadline = now + self._interval
            return None
        return now - sent

    def stop(self) -> None:
        """Send no more keep-alive pings, and await no answer."""
        self._own = None
        self.deadline = _NEVER
