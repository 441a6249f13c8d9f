"""What is under way in one service: requests that are being answered, streams, open WebSockets."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from ccmproxy.proxy.caller import Caller


class Exchange(Protocol):
    """A request that has not been answered in full."""

    @property
    def caller(self) -> Caller:
        """Who asks."""

    @property
    def credential(self) -> str:
        """Tag of the credential that it is on, or was last; empty: none yet."""

    def leave(self) -> None:
        """Its credential or its caller was taken away."""


class Stream(Protocol):
    """An answer whose body is being passed on."""

    def tick(self, keep_alive: float, sign_of_life: bytes) -> None:
        """Called once a second: write ``sign_of_life`` after ``keep_alive`` seconds without a byte of the upstream; 0:
        never."""


class WebSocket(Protocol):
    """An open WebSocket, until both of its sides are gone."""

    def tick(self) -> None:
        """Called once a second."""

    def shut_down(self, grace: float) -> None:
        """The service stops: close, within ``grace`` seconds."""

    def abort(self, result: str) -> None:
        """Drop both sides; ``result``: the word for it in the log."""


class Registry:
    """Sets of what is under way, and how much of it is each user's.

    ``under_way``: requests by user, an open WebSocket being one. ``is_closing``: no WebSocket is opened any more.
    """

    def __init__(self) -> None:
        self.exchanges: set[Exchange] = set()
        self.under_way: Counter[str] = Counter()
        self.streams: set[Stream] = set()
        self.websockets: set[WebSocket] = set()
        self.is_closing = False

    def begin(self, exchange: Exchange) -> None:
        """A request has come."""
        self.exchanges.add(exchange)
        self.under_way[exchange.caller.name] += 1

    def end(self, exchange: Exchange) -> None:
        """It has been answered in full, or will never be. To be called once for each."""
        self.exchanges.discard(exchange)
        name = exchange.caller.name
        self.under_way[name] -= 1
        if not self.under_way[name]:
            del self.under_way[name]
