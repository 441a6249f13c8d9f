"""Connections through a proxy, in memory: success, failures with their messages, and that nothing is left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from ccmproxy.http.client.connection_pool import ClientLimits, ConnectionPool
from ccmproxy.http.failures import RequestNotSent
from ccmproxy.http.message import RequestHead
from ccmproxy.testing.pump import KIB, MemoryNetwork, Pump
from ccmproxy.transports.connect import ConnectHandshake
from ccmproxy.transports.proxy_dialogue import Handshake, ProxyError
from ccmproxy.transports.socks import SocksHandshake
from ccmproxy.transports.tunnel import TunnelEndpoint
from tests.http.upstream import Receiver
from tests.transports.contract import Building, Recorder, Source
from tests.transports.proxies import ConnectProxy, Proxy, SocksProxy

PROXY = ("10.0.0.1", 1080)
TARGET = ("h.test", 443)
GREETING = b"220 hello\r\n"
AGREED = b"HTTP/1.1 200 OK\r\n\r\n"


class Scene:
    """A client, a proxy and a destination."""

    def __init__(self, test: SynchronousTestCase) -> None:
        self.test = test
        self.network = MemoryNetwork()
        self.clients = Building()
        self.servers = Building()
        self.network.listen(*TARGET, self.servers)
        self.endpoint = TunnelEndpoint(
            self.network.endpoint(*PROXY), lambda: ConnectHandshake(*TARGET), self.network.clock, timeout=5.0
        )
        verifyObject(IStreamClientEndpoint, self.endpoint)

    def scripted(self) -> Building:
        """Replace the proxy by protocols whose side of the conversation the test plays."""
        proxies = Building()
        self.network.listen(*PROXY, proxies)
        return proxies

    def connect(self) -> Deferred[IProtocol]:
        """Begin to connect."""
        waiting = self.endpoint.connect(self.clients)
        self.network.flush()
        return waiting

    @property
    def pump(self) -> Pump:
        """The connection to the proxy."""
        return self.network.listeners[PROXY].connections[-1]

    def failed(self, waiting: Deferred[IProtocol], words: str) -> None:
        """Check that ``waiting`` failed, and that nothing is left: no connection, no timer, no protocol."""
        self.network.flush()
        failure = self.test.failureResultOf(waiting, ProxyError)
        self.test.assertIn(words, failure.getErrorMessage())
        self.clean()

    def clean(self) -> None:
        """Check that no connection, timer or protocol is left."""
        self.network.flush()
        self.test.assertEqual([pump for pump in self.network.connections if not pump.closed], [])
        self.test.assertEqual(self.network.clock.getDelayedCalls(), [])
        self.test.assertEqual(self.clients.built, [])


class TunnelTests(SynchronousTestCase):
    """Connections that are made."""

    def test_both_kinds_in_pieces_of_any_size(self) -> None:
        kinds: list[tuple[type[Proxy], Callable[[str, int], Handshake]]] = [
            (SocksProxy, SocksHandshake),
            (ConnectProxy, ConnectHandshake),
        ]
        for make, handshake in kinds:
            for size in (1, 64 * KIB):
                scene = Scene(self)
                listener = scene.network.listen(*PROXY, make(scene.network.endpoint))
                listener.options = {"chunk_size": size}
                scene.endpoint = TunnelEndpoint(
                    scene.network.endpoint(*PROXY), partial(handshake, *TARGET), scene.network.clock
                )
                client = self.successResultOf(scene.connect())
                assert isinstance(client, Recorder)
                client.transport.write(b"question")
                scene.network.flush()
                (server,) = scene.servers.built
                self.assertEqual(server.received, b"question")
                server.transport.write(b"answer")
                scene.network.flush()
                self.assertEqual(client.received, b"answer")
                server.transport.loseConnection()
                scene.network.flush()
                self.assertEqual(client.lost, [ConnectionDone])
                self.assertEqual(scene.network.clock.getDelayedCalls(), [])

    def test_bytes_behind_the_reply(self) -> None:
        """Data of a destination that speaks first goes to the protocol, after ``connect`` has fired."""
        scene = Scene(self)
        proxies = scene.scripted()
        waiting = scene.connect()
        events: list[str] = []

        def connected(protocol: Any) -> None:
            events.append(f"connected, {len(protocol.received)} bytes")

        waiting.addCallback(connected)
        proxies.built[0].transport.write(AGREED + GREETING)
        scene.network.flush()
        self.assertEqual(events, ["connected, 0 bytes"])
        self.assertEqual(scene.clients.built[0].received, GREETING)

    def test_nothing_is_sent_to_a_destination_before_the_tunnel_stands(self) -> None:
        class Eager(Protocol):
            transport: Any

            def connectionMade(self) -> None:
                self.transport.write(b"secret")

        scene = Scene(self)
        proxies = scene.scripted()
        scene.endpoint.connect(Factory.forProtocol(Eager))
        scene.network.flush()
        self.assertFalse(b"secret" in proxies.built[0].received)
        proxies.built[0].transport.write(AGREED)
        scene.network.flush()
        self.assertTrue(proxies.built[0].received.endswith(b"\r\n\r\nsecret"))

    def test_address(self) -> None:
        """The transport's peer address is that of the proxy."""
        asked = []

        class Clients(Building):
            def buildProtocol(self, addr: object) -> Any:
                asked.append(addr)
                return super().buildProtocol(addr)

        scene = Scene(self)
        scene.network.listen(*PROXY, ConnectProxy(scene.network.endpoint))
        scene.clients = Clients()
        client = self.successResultOf(scene.connect())
        assert isinstance(client, Recorder)
        self.assertEqual(asked, [client.transport.getPeer()])

    def test_back_pressure(self) -> None:
        """The transport is that of the connection to the proxy: a slow destination slows the client down."""
        scene = Scene(self)
        scene.network.listen(*PROXY, ConnectProxy(scene.network.endpoint))
        client = self.successResultOf(scene.connect())
        assert isinstance(client, Recorder)
        self.assertIs(client.transport, scene.pump.client)
        scene.servers.built[0].transport.pauseProducing()
        producer = Source(client, 4096 * KIB)
        client.transport.registerProducer(producer, True)
        producer.run()
        scene.network.flush()
        self.assertTrue(producer.paused)
        self.assertGreater(producer.left, 3000 * KIB)
        scene.servers.built[0].transport.resumeProducing()
        scene.network.flush()
        self.assertEqual(len(scene.servers.built[0].received), 4096 * KIB)


class FailureTests(SynchronousTestCase):
    """Connections that are not made."""

    def test_refused(self) -> None:
        scene = Scene(self)
        proxy = ConnectProxy(scene.network.endpoint)
        proxy.forbidden = {TARGET[0]}
        scene.network.listen(*PROXY, proxy)
        scene.failed(scene.connect(), "403 Forbidden")

    def test_no_proxy_there(self) -> None:
        scene = Scene(self)
        scene.failed(scene.connect(), "cannot connect to the proxy: Connection was refused")

    def test_mute(self) -> None:
        """A proxy that does not answer, or sends a little now and then, is given up after the time-out."""
        scene = Scene(self)
        proxies = scene.scripted()
        waiting = scene.connect()
        for byte in b"HTTP":
            scene.network.advance(1)
            proxies.built[0].transport.write(bytes([byte]))
            scene.network.flush()
        self.assertNoResult(waiting)
        scene.network.advance(1.1)
        scene.failed(waiting, "did not answer within 5 seconds")

    def test_closes(self) -> None:
        scene = Scene(self)
        proxies = scene.scripted()
        waiting = scene.connect()
        proxies.built[0].transport.write(b"HTTP/1.1 2")
        proxies.built[0].transport.loseConnection()
        scene.failed(waiting, "closed the connection")

    def test_talks_on_after_a_refusal(self) -> None:
        scene = Scene(self)
        proxies = scene.scripted()
        waiting = scene.connect()
        proxies.built[0].transport.write(b"HTTP/1.1 407 x\r\n\r\n" + AGREED + bytes(100_000))
        scene.failed(waiting, "407")

    def test_cancelled(self) -> None:
        """Cancelled while connecting to the proxy, and during the handshake."""
        scene = Scene(self)
        scene.scripted()
        waiting = scene.endpoint.connect(scene.clients)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        scene.clean()
        listener = scene.network.listeners[PROXY]
        self.assertEqual(listener.connections, [])
        listener.hanging = True
        waiting = scene.connect()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        scene.clean()
        listener.hanging = False
        waiting = scene.connect()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        scene.clean()

    def test_nobody_wants_it(self) -> None:
        class Nobody(Factory):
            def buildProtocol(self, addr: IAddress | None) -> None:
                return None

        scene = Scene(self)
        proxies = scene.scripted()
        waiting = scene.endpoint.connect(Nobody())
        scene.network.flush()
        proxies.built[0].transport.write(AGREED)
        scene.network.flush()
        self.failureResultOf(waiting, ConnectionLost)
        scene.clean()

    def test_lost_later(self) -> None:
        """The protocol is told of a loss after the tunnel is established; it is no failure to connect."""
        scene = Scene(self)
        proxies = scene.scripted()
        waiting = scene.connect()
        proxies.built[0].transport.write(AGREED)
        scene.network.flush()
        proxies.built[0].transport.abortConnection()
        scene.network.flush()
        client = self.successResultOf(waiting)
        assert isinstance(client, Recorder)
        self.assertEqual(client.lost, [ConnectionLost])


class EndpointTests(SynchronousTestCase):
    """Endpoints of the proxy that report a connection late, or connect although they were cancelled."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clients = Building()
        self.tunnels: list[IProtocol | None] = []
        self.transport = StringTransport()

    def connect(self, connect: Callable[[IProtocolFactory], Deferred[IProtocol]]) -> Deferred[IProtocol]:
        """Begin to connect through a proxy whose endpoint is the function ``connect``."""

        @implementer(IStreamClientEndpoint)
        class Way:
            def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
                return connect(protocol_factory)

        endpoint = TunnelEndpoint(Way(), lambda: ConnectHandshake(*TARGET), self.clock)
        return endpoint.connect(self.clients)

    def made(self, factory: IProtocolFactory) -> IProtocol:
        """Build a protocol of ``factory``, and connect it."""
        tunnel = factory.buildProtocol(IPv4Address("TCP", *PROXY))
        assert tunnel is not None
        tunnel.makeConnection(self.transport)
        return tunnel

    def test_lost_before_it_is_told(self) -> None:
        def connect(factory: IProtocolFactory) -> Deferred[IProtocol]:
            tunnel = self.made(factory)
            tunnel.connectionLost(Failure(ConnectionLost()))
            return succeed(tunnel)

        self.failureResultOf(self.connect(connect), ProxyError)
        self.assertEqual((self.transport.value(), self.clock.getDelayedCalls()), (b"", []))

    def test_refused_before_it_is_told(self) -> None:
        """The proxy refuses before its endpoint reports the connection; that it agrees later changes nothing."""

        def connect(factory: IProtocolFactory) -> Deferred[IProtocol]:
            tunnel = self.made(factory)
            tunnel.dataReceived(b"HTTP/1.1 403 x\r\n\r\n")
            tunnel.dataReceived(AGREED)
            return succeed(tunnel)

        self.failureResultOf(self.connect(connect), ProxyError)
        self.assertEqual((self.transport.value(), self.clients.built), (b"", []))

    def test_connected_though_it_was_cancelled(self) -> None:
        factories: list[IProtocolFactory] = []

        def connect(factory: IProtocolFactory) -> Deferred[IProtocol]:
            factories.append(factory)
            return Deferred()

        waiting = self.connect(connect)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertIsNone(factories[0].buildProtocol(IPv4Address("TCP", *PROXY)))


class PoolTests(SynchronousTestCase):
    """A connection pool on top of a tunnel."""

    def test_a_refusal_is_a_request_that_was_not_sent(self) -> None:
        """The request may be tried elsewhere; and the error message says that the proxy refused."""
        scene = Scene(self)
        proxy = ConnectProxy(scene.network.endpoint, ("me", "s3cr3t"))
        scene.network.listen(*PROXY, proxy)
        pool = ConnectionPool(scene.endpoint, scene.network.clock, ClientLimits())
        receiver = Receiver()
        pool.send(RequestHead(b"GET", b"/", [(b"Host", b"h.test")]), [], receiver)
        receiver.sent = True
        scene.network.flush()
        scene.network.advance(0)
        self.assertIsInstance(receiver.outcome, RequestNotSent)
        self.assertTrue(
            re.search("upstream: the proxy refuses the tunnel: 407", str(receiver.outcome)), receiver.outcome
        )
        self.assertEqual(len(scene.servers.built), 0)

    def test_a_failure_holds_no_login(self) -> None:
        failure = Failure(ProxyError("the proxy does not accept the user name and password"))
        self.assertFalse("s3cr3t" in failure.getTraceback(detail="verbose"))
