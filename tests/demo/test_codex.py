"""The demo's own WebSocket client; the steps themselves run as a program, see .ci/run."""

from __future__ import annotations

from typing import cast

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.demo.codex import Socket, socket_factory
from ccmproxy.testing.pump import Pump


class Server(Protocol):
    """Keeps what it received."""

    def __init__(self) -> None:
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.received += data


class SocketTests(SynchronousTestCase):
    """The handshake, and how it fails."""

    def setUp(self) -> None:
        self.socket = cast(Socket, socket_factory(Clock(), "host:1", "token").buildProtocol(None))
        self.server = Server()
        self.pump = Pump(self.socket, self.server)
        self.pump.flush()

    def answer(self, data: bytes) -> None:
        """What the server says."""
        self.pump.server.write(data)
        self.pump.flush()

    def test_asks_for_the_upgrade(self) -> None:
        head, _, _ = self.server.received.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"GET /v1/responses HTTP/1.1\r\n"))
        self.assertIn(b"Bearer token", head)
        self.assertNoResult(self.socket.opened)

    def test_refused(self) -> None:
        self.answer(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        self.failureResultOf(self.socket.opened, ConnectionError)

    def test_lost(self) -> None:
        self.pump.server.loseConnection()
        self.pump.flush()
        self.failureResultOf(self.socket.opened, ConnectionDone)
