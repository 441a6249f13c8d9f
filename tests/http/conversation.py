"""In-memory clients of the HTTP server, whose responses are parsed by the standard library."""

from __future__ import annotations

import io
from collections.abc import Callable
from http.client import HTTPResponse
from socket import socket
from typing import cast

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.message import Body, ResponseHead
from ccmproxy.http.server.factory import HTTPServerFactory, ServerLimits, ServerRequest
from ccmproxy.testing.memory_transport import MemoryTransport
from ccmproxy.testing.pump import Pump

OK = ResponseHead(200, b"OK", [(b"Content-Type", b"text/plain")])


class _Answers(io.BytesIO):
    """A byte stream from which several responses are read, one after the other."""

    def makefile(self, mode: str) -> _Answers:
        """The method that http.client calls on a socket."""
        return self

    def close(self) -> None:
        """Do nothing, so that more than one response can be read."""


class Client(Protocol):
    """Sends bytes, and keeps what it receives."""

    transport: MemoryTransport

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: type[BaseException] | None = None
        self.pump: Pump

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.lost = reason.type

    def send(self, *pieces: bytes) -> None:
        """Send each piece, letting it arrive before the next."""
        for piece in pieces:
            self.transport.write(piece)
            self.pump.flush()

    def answers(self, *methods: str) -> list[tuple[int, bytes]]:
        """Status and body of each response to requests with these methods; there must be no other bytes.

        "100 Continue" is skipped. Raises http.client's errors for incomplete responses.
        """
        stream = _Answers(self.received)
        found = []
        for method in methods:
            response = HTTPResponse(cast(socket, stream), method=method)
            response.begin()
            found.append((response.status, response.read()))
        rest = stream.read()
        assert not rest, rest
        return found


class ServerTestCase(SynchronousTestCase):
    """A server whose requests a test answers itself, unless it sets ``handler``."""

    limits = ServerLimits()

    def setUp(self) -> None:
        self.clock = Clock()
        self.requests: list[ServerRequest] = []
        self.handler: Callable[[ServerRequest], None] = self.requests.append
        self.factory = HTTPServerFactory(lambda request: self.handler(request), self.clock, self.limits)
        self.pumps: list[Pump] = []

    def connect(self, chunk_size: int = 64 * 1024) -> Client:
        """A new connection."""
        client = Client()
        protocol = self.factory.buildProtocol(None)
        assert protocol is not None
        client.pump = Pump(client, protocol, chunk_size=chunk_size)
        self.pumps.append(client.pump)
        return client

    def flush(self) -> None:
        """Deliver everything that is in flight, in as many turns of the reactor as that takes."""
        while True:
            for pump in self.pumps:
                pump.flush()
            self.pumps = [pump for pump in self.pumps if not pump.closed]
            if not self.is_due():
                return
            self.clock.advance(0)

    def is_due(self) -> bool:
        """Whether something is to happen in the next turn of the reactor."""
        return any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls())

    def wait(self, seconds: float) -> None:
        """Let time pass, a second at a time."""
        while seconds > 0:
            self.clock.advance(min(1.0, seconds))
            self.flush()
            seconds -= 1.0

    def logged(self, kind: type[BaseException]) -> None:
        """One error of this kind was logged."""
        self.assertEqual(len(self.flushLoggedErrors(kind)), 1)


def echo(request: ServerRequest) -> None:
    """A handler that answers with the method, the target and the body."""

    def answer(body: Body) -> None:
        request.respond(OK, b"%b %b %b" % (request.head.method, request.head.target, body.joined()))

    def refuse(error: Exception) -> None:
        request.respond(ResponseHead(400, b"Bad Request", []), type(error).__name__.encode())

    request.receive_body(1_000_000, answer, refuse)
