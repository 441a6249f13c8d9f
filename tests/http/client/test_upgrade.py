"""Tests for :mod:`ccmproxy.http.client.upgrade`: asking an upstream to switch protocols."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.client.connection_pool import ClientLimits
from ccmproxy.http.client.upgrade import SwitchedConnection
from ccmproxy.http.failures import RequestNotSent, ResponseLost, UpstreamProtocolError, UpstreamTimeout
from ccmproxy.http.message import Headers, RequestHead, ResponseHead
from tests.http.upstream import Receiver, Scene

FIELDS: Headers = [(b"Host", b"upstream.test"), (b"Connection", b"Upgrade"), (b"Upgrade", b"echo")]
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\nX-More: 1\r\n\r\n"


class Successor(Protocol):
    """A protocol to which the upstream switches."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.lost: type[BaseException] | None = None

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.received += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """Keep why."""
        self.lost = reason.type


class UpgradeTests(SynchronousTestCase):
    """One upgrade, as the upstream answers it."""

    def setUp(self) -> None:
        self.scene = Scene(limits=ClientLimits(first_byte_timeout=20.0))
        self.addCleanup(self.finished)
        self.heads: list[ResponseHead] = []
        self.switched: list[SwitchedConnection] = []
        self.receiver = Receiver()
        self.call = self.scene.pool.upgrade(
            RequestHead(b"GET", b"/x", list(FIELDS)), self.receiver, self.on_switch
        )
        self.receiver.sent = True
        self.scene.network.flush()

    def finished(self) -> None:
        """Nothing is left pending on the clock or in the pool."""
        self.call.cancel()
        self.scene.pool.close()
        self.scene.settle()
        self.scene.pass_time(30)
        self.assertEqual(self.scene.clock.getDelayedCalls(), [])
        self.assertEqual((self.scene.pool.busy, self.scene.pool.idle, self.scene.pool.connecting), (0, 0, 0))

    def on_switch(self, head: ResponseHead, connection: SwitchedConnection) -> None:
        """The upstream agreed."""
        self.heads.append(head)
        self.switched.append(connection)

    def answer(self, data: bytes, step: int = 0) -> None:
        """The upstream sends ``data``, in pieces of ``step`` bytes."""
        for at in range(0, len(data), step or len(data)):
            self.scene.server.transport.write(data[at : at + step] if step else data)
            self.scene.settle()

    def test_request(self) -> None:
        """The head goes out as given."""
        self.assertEqual(
            bytes(self.scene.server.received),
            b"GET /x HTTP/1.1\r\nHost: upstream.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
        )

    def test_switch(self) -> None:
        """Both directions belong to the successor, and so does the end."""
        self.answer(b"HTTP/1.1 100 Continue\r\n\r\n" + SWITCHING)
        self.assertEqual(self.heads[0].status, 101)
        self.assertIn((b"X-More", b"1"), self.heads[0].headers)
        self.assertIsNone(self.receiver.head)
        successor = Successor()
        self.switched[0].hand_over(successor)
        self.answer(b"down")
        successor.transport.write(b"up")
        self.scene.settle()
        self.assertEqual(successor.received, b"down")
        self.assertTrue(self.scene.server.received.endswith(b"\r\n\r\nup"))
        # The pool's time-outs do not apply to it any more.
        self.scene.pass_time(1000)
        self.assertIsNone(successor.lost)
        self.scene.server.transport.loseConnection()
        self.scene.settle()
        self.assertIs(successor.lost, ConnectionDone)

    def test_early_bytes(self) -> None:
        """Bytes in the same read as the head, or after it before the hand-over, are kept, and reading is paused."""
        for step in (0, 1):
            self.answer(SWITCHING + b"early", step)
            self.answer(b" and more")
            successor = Successor()
            self.switched[-1].hand_over(successor)
            self.scene.settle()
            self.assertEqual(successor.received, b"early and more")
            successor.transport.abortConnection()
            self.setUp()

    def test_nothing_is_read_before(self) -> None:
        """Back-pressure holds back an upstream that keeps sending."""
        self.answer(SWITCHING)
        self.answer(bytes(10_000_000))
        self.assertGreater(self.scene.pump.server.buffered, 9_000_000)
        self.switched[0].abort()

    def test_lost_before_it_is_handed_over(self) -> None:
        self.answer(SWITCHING + b"bye")
        self.scene.pump.client.abortConnection()
        self.scene.settle()
        successor = Successor()
        self.switched[0].hand_over(successor)
        self.assertEqual(successor.received, b"bye")
        self.assertIsNotNone(successor.lost)

    def test_abort(self) -> None:
        self.answer(SWITCHING)
        self.switched[0].abort()
        self.scene.settle()
        self.assertIsNotNone(self.scene.server.lost)

    def test_cancel_after_it_switched(self) -> None:
        """The call is over, so cancelling it does not touch the connection."""
        self.answer(SWITCHING)
        self.call.cancel()
        self.scene.settle()
        self.assertIsNone(self.scene.server.lost)
        self.switched[0].abort()

    def test_refused(self) -> None:
        """The receiver gets an ordinary response, and the connection can be reused."""
        self.answer(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\n{}")
        self.assertEqual(
            (self.receiver.status, self.receiver.body, self.receiver.outcome), (429, b"{}", "ended")
        )
        self.assertEqual(self.switched, [])
        self.assertEqual(self.scene.pool.idle, 1)

    def test_bad_answers(self) -> None:
        for data in (b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 101\r\nbroken\r\n\r\n"):
            self.answer(data)
            self.assertIsInstance(self.receiver.outcome, UpstreamProtocolError)
            self.setUp()

    def test_closed_without_an_answer(self) -> None:
        self.scene.server.transport.loseConnection()
        self.scene.settle()
        self.assertIsInstance(self.receiver.outcome, ResponseLost)

    def test_never_answered(self) -> None:
        self.scene.pass_time(22)
        self.assertIsInstance(self.receiver.outcome, UpstreamTimeout)

    def test_refused_connection(self) -> None:
        self.call.cancel()
        self.scene.listener.refusing = True
        receiver = Receiver()
        self.scene.pool.upgrade(RequestHead(b"GET", b"/x", list(FIELDS)), receiver, self.on_switch)
        receiver.sent = True
        self.scene.settle()
        self.assertIsInstance(receiver.outcome, RequestNotSent)

    def test_one_who_raises(self) -> None:
        """The exception is logged, and the connection dropped."""

        def fail(head: ResponseHead, connection: SwitchedConnection) -> None:
            raise ValueError("mine")

        self.call.on_switch = fail
        self.answer(SWITCHING)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertIsNotNone(self.scene.server.lost)
