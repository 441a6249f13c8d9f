"""The activities in progress in one service: requests that are being answered, streams and open WebSockets."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from ccmproxy.proxy.caller import Caller


class Exchange(Protocol):
    """A request that has not been answered completely."""

    @property
    def caller(self) -> Caller:
        """The sender of the request."""

    @property
    def credential(self) -> str:
        """Tag of the current or last credential; empty if there was none yet."""

    def leave(self) -> None:
        """End a WebSocket soon, because its credential or its caller was removed."""


class Stream(Protocol):
    """A response whose body is being relayed."""

    def tick(self, keep_alive: float, sign_of_life: bytes) -> None:
        """Write ``sign_of_life`` after ``keep_alive`` seconds without a byte from the upstream (0: never). Called once
        a second."""


class WebSocket(Protocol):
    """An open WebSocket; it stays registered until both of its connections are lost."""

    def tick(self) -> None:
        """Enforce time-outs and send keep-alive pings. Called once a second."""

    def shut_down(self, grace: float) -> None:
        """Close within ``grace`` seconds, because the service stops."""

    def abort(self, result: str) -> None:
        """Drop both connections. ``result``: the log's word for the outcome."""


class Registry:
    """The activities in progress, and the number of requests of each user.

    ``under_way``: number of requests in progress by user name, where an open WebSocket counts as one. ``is_closing``:
    no further WebSocket is opened.
    """

    def __init__(self) -> None:
        self.exchanges: set[Exchange] = set()
        self.under_way: Counter[str] = Counter()
        self.streams: set[Stream] = set()
        self.websockets: set[WebSocket] = set()
        self.is_closing = False

    def begin(self, exchange: Exchange) -> None:
        """Register a request that was received."""
        self.exchanges.add(exchange)
        self.under_way[exchange.caller.name] += 1

    def end(self, exchange: Exchange) -> None:
        """Remove a request that was answered completely, or never will be. To be called once for each request."""
        self.exchanges.discard(exchange)
        name = exchange.caller.name
        self.under_way[name] -= 1
        if not self.under_way[name]:
            del self.under_way[name]
