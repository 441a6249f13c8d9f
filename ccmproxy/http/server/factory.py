"""The HTTP/1.1 server: the factory that listens and keeps track of its connections.

:mod:`.channel` is one connection and :mod:`.request` one request; :mod:`.request_head` and :mod:`.request_body` are the
strict parsers of the client's bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from ccmproxy.http.message import ResponseHead
from ccmproxy.http.server.channel import HTTPServerProtocol
from ccmproxy.http.server.owner import OwnedConnection, ServerLimits
from ccmproxy.http.server.request import ServerRequest

__all__ = ["HTTPServerFactory", "HTTPServerProtocol", "ServerLimits", "ServerRequest", "plain_error"]

_log = Logger()

#: Interval at which the deadlines of all connections are checked (seconds).
_CHECK_INTERVAL: Final = 1.0

_REASONS: Final = {
    400: b"Bad Request",
    408: b"Request Timeout",
    417: b"Expectation Failed",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    505: b"HTTP Version Not Supported",
}


def plain_error(status: int, message: str) -> tuple[ResponseHead, bytes]:
    """Return head and body of a plain-text error, for servers without a dialect of their own."""
    head = ResponseHead(
        status, _REASONS.get(status, b"Error"), [(b"Content-Type", b"text/plain; charset=utf-8")]
    )
    return head, message.encode() + b"\n"


class HTTPServerFactory(Factory):
    """Builds an HTTPServerProtocol for each connection, enforces their deadlines, and shuts them down gracefully.

    ``handler`` is called with each request as soon as its head is complete. It must not block; an exception from it is
    logged and answered with 500. ``malformed`` formats the answers to malformed requests and to requests whose handler
    failed; its arguments and result are those of ``plain_error``. ``connections``: the open connections.
    """

    noisy = False

    def __init__(
        self,
        handler: Callable[[ServerRequest], None],
        clock: IReactorTime,
        limits: ServerLimits = ServerLimits(),  # noqa: B008 - frozen
        malformed: Callable[[int, str], tuple[ResponseHead, bytes]] = plain_error,
    ) -> None:
        self.handler = handler
        self.clock = clock
        self.limits = limits
        self.malformed = malformed
        self.connections: set[OwnedConnection] = set()
        self.stopping = False
        self._waiting: list[Deferred[None]] = []
        # A single timer serves all connections; neither connections nor requests have timers of their own.
        self._checking = LoopingCall(self._check_deadlines)
        self._checking.clock = clock

    def buildProtocol(self, addr: IAddress | None) -> HTTPServerProtocol | None:
        return None if self.stopping else HTTPServerProtocol(self)

    def stop_accepting(self) -> None:
        """Begin to stop: idle connections are closed now, the others after their current response, which says
        "Connection: close". New connections are refused. Cannot be undone.
        """
        self.stopping = True
        for connection in list(self.connections):
            connection.close_when_idle()

    def drained(self) -> Deferred[None]:
        """Return a Deferred that fires with None when no connection is left."""
        if not self.connections:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def abort_all(self) -> None:
        """Drop every connection; clients see truncated responses."""
        for connection in list(self.connections):
            connection.abort()

    # For the connections

    def connection_made(self, connection: OwnedConnection) -> None:
        """Register a new connection."""
        self.connections.add(connection)
        if not self._checking.running:
            self._checking.start(_CHECK_INTERVAL, now=False)

    def connection_lost(self, connection: OwnedConnection) -> None:
        """Forget a connection that was lost."""
        self.connections.discard(connection)
        if self.connections:
            return
        if self._checking.running:
            self._checking.stop()
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def _check_deadlines(self) -> None:
        now = self.clock.seconds()
        for connection in list(self.connections):
            try:
                connection.check_deadline(now)
            except Exception:
                _log.failure("a connection could not be timed out")
                connection.abort()
