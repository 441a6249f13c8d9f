"""Pings: those that the owner asks for, those that show whether the peer is still there, and those of the peer."""

from __future__ import annotations

from typing import Final

from ccmproxy.yamux.errors import ProtocolError
from ccmproxy.yamux.parameters import Rate, RateLimit

_NEVER: Final = float("inf")
_NUMBERS: Final = 2**32


class KeepAlive:
    """Which pings have not been answered, when to ask again, and when to give up. Times in seconds.

    ``interval`` passes from one answer to the next question of our own, so a peer that is slow is not asked more
    often. ``requests``: how many questions the peer may ask. ``deadline``: when something is to be done: to ask, or to
    give up. ``is_asking``: a question of our own is not answered yet.
    """

    __slots__ = ("_interval", "_next", "_own", "_requests", "_sent", "_timeout", "deadline")

    def __init__(self, interval: float, timeout: float, requests: Rate, now: float) -> None:
        self._interval = interval
        self._timeout = timeout
        #: When each ping was sent; and which of them is our own question.
        self._sent: dict[int, float] = {}
        self._own: int | None = None
        self._next = 0
        self._requests = RateLimit(requests, now)
        self.deadline = now + interval

    @property
    def is_asking(self) -> bool:
        """Whether the answer to a question of our own is awaited."""
        return self._own is not None

    def ping(self, now: float) -> int:
        """The number of the ping that goes out now. They count from 0, as Go's do."""
        number = self._next
        self._next = (number + 1) % _NUMBERS
        self._sent[number] = now
        return number

    def ask(self, now: float) -> int:
        """As ``ping``, for a question of our own, which must be answered by ``deadline``."""
        self._own = self.ping(now)
        self.deadline = now + self._timeout
        return self._own

    def requested(self, now: float) -> None:
        """The peer asks for an answer. Raises ProtocolError where it does so too often."""
        if not self._requests.allows(now):
            raise ProtocolError("too many pings")

    def answered(self, number: int, now: float) -> float | None:
        """An answer has come. The seconds that it took; None where the owner did not ask for it."""
        sent = self._sent.pop(number, None)
        if sent is None:
            return None
        if number == self._own:
            self._own = None
            self.deadline = now + self._interval
            return None
        return now - sent

    def stop(self) -> None:
        """Nothing is to be done any more."""
        self._own = None
        self.deadline = _NEVER
