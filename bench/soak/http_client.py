"""A client that speaks HTTP/1.1, reads as slowly as it should, leaves when it should, and tells what it got."""

from __future__ import annotations

import socket
from typing import Any

from httptools import HttpParserError, HttpResponseParser
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from bench.soak.answers import Reading, read_stream, read_whole
from bench.soak.outcomes import End, Outcome
from bench.soak.requests import Request

#: Seconds after which a request without an end counts as hung. Every time-out of the daemons together is far shorter.
PATIENCE = 90.0
#: A connection that has been idle for so long is not used again (seconds); the daemons keep them longer.
_KEPT = 5.0
#: Bytes of the receive buffer of a slow client, and its pause after each read (seconds).
_SLOW_BUFFER = 16 * 1024
_SLOW_PAUSE = 0.15


class Connection(Protocol):
    """One connection, with one request at a time. ``used``: how many requests it has carried."""

    def __init__(self) -> None:
        self.used = 0
        self.is_open = True
        self.free_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.fields: dict[str, str] = {}
        self.body = bytearray()
        self.is_whole = False
        self.keeps = False
        self._pause = 0.0
        self._over: Deferred[None] | None = None
        self._parser = HttpResponseParser(self)

    def send(self, data: bytes, reactor: Any, reads_slowly: bool) -> Deferred[None]:
        """Send a request; the result fires when its answer is over, whole or not."""
        self._reset()
        self.used += 1
        self._reactor = reactor
        over: Deferred[None] = Deferred()
        self._over = over
        if reads_slowly:
            self._pause = _SLOW_PAUSE
            self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER)
        transport: Any = self.transport
        transport.write(data)
        return over

    def _socket(self) -> socket.socket:
        transport: Any = self.transport
        handle: socket.socket = transport.getHandle()
        return handle

    def abandon(self) -> None:
        """Drop the connection at once."""
        transport: Any = self.transport
        transport.abortConnection()

    # Protocol

    def dataReceived(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self.abandon()
            return
        if self._pause and not self.is_whole:
            transport: Any = self.transport
            transport.pauseProducing()
            self._reactor.callLater(self._pause, self._read_on)

    def _read_on(self) -> None:
        transport: Any = self.transport
        if self.is_open:
            transport.resumeProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_open = False
        self._end()

    def _end(self) -> None:
        over, self._over = self._over, None
        if over is not None:
            over.callback(None)

    # What httptools calls

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head."""
        self.fields[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Keep the status; an interim answer is forgotten when the next head comes."""
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the body."""
        self.body += data

    def on_message_complete(self) -> None:
        """The framing says that this is all."""
        if self.status < 200:
            return
        self.is_whole = True
        self.keeps = bool(self._parser.should_keep_alive())
        self._end()


class HTTPClient:
    """Sends requests one after the other, and keeps its connection for the next one where it can."""

    def __init__(self, reactor: Any, now: Any, ports: dict[str, int], tokens: dict[str, str]) -> None:
        """``now``: returns seconds of a monotonic clock. ``ports``: of each service. ``tokens``: of each user."""
        self._reactor = reactor
        self._now = now
        self._ports = ports
        self._tokens = tokens
        self._kept: dict[str, Connection] = {}

    async def ask(self, request: Request) -> Outcome:
        """Make a request, and tell what came of it."""
        outcome = new_outcome(request, self._now())
        try:
            connection = await self._connect(request)
        except Exception:
            outcome.end, outcome.ended = End.BROKEN, self._now()
            return outcome
        outcome.reused = connection.used > 0
        data = head_of(request, self._tokens, self._ports[request.service]) + request.body
        if request.leaves is not None and request.sends < 1.0:
            data = data[: max(1, int(len(data) * request.sends))]
        over = connection.send(data, self._reactor, request.reads_slowly)
        patience = PATIENCE if request.leaves is None else request.leaves
        ended_by_us = [False]

        def leave() -> None:
            ended_by_us[0] = True
            connection.abandon()

        timer = self._reactor.callLater(patience, leave)
        await over
        if timer.active():
            timer.cancel()
        outcome.ended = self._now()
        _fill_in(outcome, request, connection, ended_by_us[0])
        if connection.is_whole and connection.keeps and connection.is_open and not request.reads_slowly:
            connection.free_since = outcome.ended
            self._kept[request.service] = connection
        elif connection.is_open:
            connection.abandon()
        return outcome

    async def _connect(self, request: Request) -> Connection:
        kept = self._kept.pop(request.service, None)
        if kept is not None and kept.is_open:
            if not request.reads_slowly and self._now() - kept.free_since < _KEPT:
                return kept
            kept.abandon()
        endpoint = TCP4ClientEndpoint(self._reactor, "127.0.0.1", self._ports[request.service], timeout=10)
        connection = await endpoint.connect(Factory.forProtocol(Connection))
        assert isinstance(connection, Connection)
        return connection

    def close(self) -> None:
        """Drop the connections that are kept."""
        for connection in self._kept.values():
            connection.abandon()
        self._kept.clear()


def new_outcome(request: Request, began: float) -> Outcome:
    """Return the outcome of a request that has just begun."""
    return Outcome(
        request.id,
        request.service,
        request.kind,
        request.user,
        began,
        reaches=request.reaches,
        expected=request.expected,
        streamed=request.streamed,
    )


def head_of(request: Request, tokens: dict[str, str], port: int) -> bytes:
    """Return the head of a request as bytes. The id stands in a field of its own, for requests without a body."""
    lines = [
        f"{request.method} {request.path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"Authorization: Bearer {tokens[request.user]}",
        f"X-Soak-Id: {request.id}",
    ]
    if request.service == "claude":
        lines.append("Anthropic-Version: 2023-06-01")
    if request.method == "POST":
        lines += ["Content-Type: application/json", f"Content-Length: {len(request.body)}"]
    return "\r\n".join([*lines, "", ""]).encode()


def _fill_in(outcome: Outcome, request: Request, connection: Connection, ended_by_us: bool) -> None:
    if ended_by_us and not connection.is_whole:
        outcome.end = End.HUNG if request.leaves is None else End.LEFT
    else:
        outcome.end = End.WHOLE if connection.is_whole else End.BROKEN
    outcome.status = connection.status
    outcome.error = connection.fields.get("x-ccm-error", "")
    reading = _read(request, connection)
    outcome.failed = reading.failed
    outcome.is_right = (
        outcome.status == request.expected and reading.is_complete and reading.text == request.text
    )


def _read(request: Request, connection: Connection) -> Reading:
    body, coding = bytes(connection.body), connection.fields.get("content-encoding", "")
    if "event-stream" in connection.fields.get("content-type", ""):
        return read_stream(request.service, body, coding)
    if request.path.startswith("/v1/messages") and "count_tokens" not in request.path:
        return read_whole(request.service, body, coding)
    # Other answers than the model's need only hold what is characteristic of them.
    found = request.text in body.decode("utf-8", "replace")
    return Reading(request.text if found else "", found, False)
