"""The HTTP/1.1 server: what listens, and what it knows of its connections.

:mod:`.channel` is one connection, :mod:`.request` one request; :mod:`.request_head` and
:mod:`.request_body` read what the client sent, strictly.
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

#: Seconds between two looks at the deadlines of all connections.
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
    """An answer in plain text, for servers that speak no dialect."""
    head = ResponseHead(
        status, _REASONS.get(status, b"Error"), [(b"Content-Type", b"text/plain; charset=utf-8")]
    )
    return head, message.encode() + b"\n"


class HTTPServerFactory(Factory):
    """Builds a HTTPServerProtocol for each connection, keeps an eye on their deadlines, and ends them in
    order.

    ``handler`` is called with each request as soon as its head is complete; it must not block, and what it
    raises is logged and answered with 500. ``malformed`` shapes the answers to what never became a request,
    or could not be answered as it should (statuses as in ``plain_error``). ``connections``: those that are
    open.
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
        # One timer for all: no connection, let alone a request, has one of its own.
        self._checking = LoopingCall(self._check_deadlines)
        self._checking.clock = clock

    def buildProtocol(self, addr: IAddress | None) -> HTTPServerProtocol | None:
        return None if self.stopping else HTTPServerProtocol(self)

    def stop_accepting(self) -> None:
        """Begin to stop: idle connections are closed now, the others after the response they are at, which
        says "Connection: close". New connections are refused. Cannot be undone.
        """
        self.stopping = True
        for connection in list(self.connections):
            connection.close_when_idle()

    def drained(self) -> Deferred[None]:
        """Fires when no connection is left."""
        if not self.connections:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def abort_all(self) -> None:
        """Drop every connection; clients see their responses broken off."""
        for connection in list(self.connections):
            connection.abort()

    # For the connections

    def connection_made(self, connection: OwnedConnection) -> None:
        """A connection begins."""
        self.connections.add(connection)
        if not self._checking.running:
            self._checking.start(_CHECK_INTERVAL, now=False)

    def connection_lost(self, connection: OwnedConnection) -> None:
        """A connection is over."""
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
