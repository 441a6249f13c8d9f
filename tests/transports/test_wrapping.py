"""Connecting in two steps: which result is reported when, and that nothing is left behind."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyClass

from ccmproxy.testing.pump import MemoryNetwork, Pump
from ccmproxy.transports.tls_transport import TLSTransport
from ccmproxy.transports.tunnel import _Tunnel
from ccmproxy.transports.wrapping import Connecting, INegotiator
from tests.transports.contract import Building, Recorder

PLACE = ("10.0.0.1", 1)


class Late(Exception):
    """The negotiation took too long."""


class Refused(Exception):
    """The other side does not want us."""


@implementer(INegotiator)
class Asking(Protocol):
    """Asks a question, takes ``yes`` or ``no`` for an answer, and after ``yes`` relays to the protocol above."""

    transport: Any
    protocol: IProtocol | None = None

    def __init__(self, connecting: Connecting) -> None:
        self.connecting = connecting

    def negotiate(self) -> None:
        self.transport.write(b"may I?")

    def abortConnection(self) -> None:
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        if self.protocol is not None:
            self.protocol.dataReceived(data)
        elif data == b"no":
            self.connecting.failed(Failure(Refused()))
        elif data == b"yes":
            self.protocol = self.connecting.established(self.transport)
            if self.protocol is not None:
                self.protocol.makeConnection(self.transport)
                self.connecting.succeeded(self.protocol)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.connecting.failed(reason)


@implementer(IStreamClientEndpoint)
class Hasty:
    """An endpoint that builds and connects its protocol before its Deferred ``below`` fires."""

    def __init__(self, below: Deferred[IProtocol]) -> None:
        self.below = below
        self.built: list[Any] = []

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        self.built.append(protocol_factory.buildProtocol(IPv4Address("TCP", *PLACE)))
        self.pump = Pump(self.built[0], Recorder())
        return self.below


class ConnectingTests(SynchronousTestCase):
    """One ``connect``."""

    def setUp(self) -> None:
        self.network = MemoryNetwork()
        self.clock = self.network.clock
        self.clients = Building()
        self.servers = Building()
        self.listener = self.network.listen(*PLACE, self.servers)
        self.addCleanup(self.finish)

    def finish(self) -> None:
        """Check that no timer is left."""
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def connecting(self) -> Connecting:
        """Return a Connecting that has not begun."""

        def explain(reason: Failure) -> Failure:
            return Failure(Refused(reason.getErrorMessage()))

        return Connecting(self.clients, self.clock, Asking, 5.0, Late(), explain)

    def connect(self) -> Deferred[IProtocol]:
        """Begin to connect, over the in-memory network."""
        waiting = self.connecting().begin(self.network.endpoint(*PLACE))
        self.network.flush()
        return waiting

    def say(self, data: bytes) -> None:
        """The other side answers."""
        self.servers.built[-1].transport.write(data)
        self.network.flush()

    def assert_dropped(self) -> None:
        """No connection is left, and no protocol was built."""
        self.network.flush()
        self.assertEqual((self.listener.open_connections, self.clients.built), ([], []))

    def test_interfaces(self) -> None:
        for negotiator in (TLSTransport, _Tunnel):
            self.assertTrue(verifyClass(INegotiator, negotiator))

    def test_connected(self) -> None:
        waiting = self.connect()
        self.assertEqual(self.servers.built[0].received, b"may I?")
        self.assertNoResult(waiting)
        self.assertEqual(self.clients.built, [])
        self.say(b"yes")
        client = self.successResultOf(waiting)
        assert isinstance(client, Recorder)
        self.say(b"hello")
        self.assertEqual(client.received, b"hello")
        self.clock.advance(10)
        self.assertEqual(client.lost, [])
        client.transport.loseConnection()
        self.network.flush()

    def test_refused(self) -> None:
        waiting = self.connect()
        self.say(b"no")
        self.failureResultOf(waiting, Refused)
        self.assertEqual(self.clients.built, [])

    def test_lost(self) -> None:
        waiting = self.connect()
        self.servers.built[0].transport.abortConnection()
        self.network.flush()
        self.failureResultOf(waiting, ConnectionLost)
        self.assert_dropped()

    def test_too_late(self) -> None:
        waiting = self.connect()
        self.clock.advance(4.9)
        self.assertNoResult(waiting)
        self.clock.advance(0.2)
        self.failureResultOf(waiting, Late)
        self.assert_dropped()

    def test_time_begins_with_the_connection(self) -> None:
        self.listener.hanging = True
        waiting = self.connect()
        self.clock.advance(9)
        self.assertNoResult(waiting)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)

    def test_nobody_wants_it(self) -> None:
        self.clients.build = lambda: None
        waiting = self.connect()
        self.say(b"yes")
        self.failureResultOf(waiting, ConnectionLost)
        self.assertEqual(self.listener.open_connections, [])

    def test_not_connected(self) -> None:
        self.listener.refusing = True
        failure = self.failureResultOf(self.connect(), Refused)
        self.assertIn("refused", failure.getErrorMessage())
        connecting = Connecting(self.clients, self.clock, Asking, 5.0, Late())
        waiting = connecting.begin(self.network.endpoint(*PLACE))
        self.network.flush()
        self.failureResultOf(waiting, ConnectionRefusedError)

    def test_cancelled(self) -> None:
        """Cancelled while the endpoint below connects, and during the negotiation."""
        self.listener.hanging = True
        waiting = self.connect()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assert_dropped()
        self.listener.hanging = False
        waiting = self.connect()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assert_dropped()

    def test_connected_though_it_was_cancelled(self) -> None:
        """An endpoint below that connects when cancelled: the connection is dropped, and no later one is built."""
        endpoint = Hasty(Deferred(lambda below: below.callback(endpoint.built[0])))
        connecting = self.connecting()
        waiting = connecting.begin(endpoint)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assert_unused(endpoint.pump)
        self.assertIsNone(connecting.buildProtocol(endpoint.pump.client.getPeer()))

    def test_refused_before_it_is_told(self) -> None:
        """A refusal before the endpoint below reports the connection is final."""
        endpoint = Hasty(Deferred())
        waiting = self.connecting().begin(endpoint)
        endpoint.built[0].dataReceived(b"no")
        self.failureResultOf(waiting, Refused)
        endpoint.built[0].dataReceived(b"yes")
        endpoint.below.callback(endpoint.built[0])
        self.assert_unused(endpoint.pump)

    def assert_unused(self, pump: Pump) -> None:
        """Check that the connection was dropped without any data sent on it."""
        pump.flush()
        self.assertTrue(pump.client.disconnected)
        self.assertEqual((pump.client.written, self.clients.built), (0, []))

    def test_the_factory_learns_whether_it_is_used(self) -> None:
        connecting = self.connecting()
        connecting.doStart()
        self.assertEqual((self.clients.started, self.clients.stopped), (1, 0))
        connecting.doStop()
        self.assertEqual((self.clients.started, self.clients.stopped), (1, 1))
