"""Our TLS against pyOpenSSL's, over in-memory transports."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.interfaces import (
    IConsumer,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.http.failures import RequestNotSent, ResponseLost
from ccmproxy.http.message import RequestHead
from ccmproxy.testing.pump import KIB, MemoryListener, MemoryNetwork, Pump
from ccmproxy.transports.tls import ClientTLS, TLSTransport
from tests.http.upstream import Receiver
from tests.transports.certificates import make_authority

HOST = "upstream.test"
PORT = 443


class Recorder(Protocol):
    """Keeps what it receives, and how its connection ended."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.pieces: list[int] = []
        self.lost: list[type[BaseException]] = []

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.pieces.append(len(data))

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        assert reason.type is not None
        self.lost.append(reason.type)


class RecorderFactory(Factory):
    """Remembers the protocols that it built."""

    def __init__(self) -> None:
        self.built: list[Recorder] = []

    def buildProtocol(self, addr: object) -> Recorder:
        protocol = Recorder()
        self.built.append(protocol)
        return protocol


@implementer(IPushProducer)
class Producer:
    """Writes pieces until paused, ``limit`` bytes in all."""

    def __init__(self, transport: ITransport, limit: int) -> None:
        self._transport = transport
        self.remaining = limit
        self.paused = False
        self.pauses = 0
        self.stopped = False

    def resumeProducing(self) -> None:
        self.paused = False
        while not self.paused and self.remaining > 0:
            self.remaining -= 16 * KIB
            self._transport.write(bytes(16 * KIB))

    def pauseProducing(self) -> None:
        self.paused = True
        self.pauses += 1

    def stopProducing(self) -> None:
        self.stopped = True


class Scene:
    """A TLS server in memory, and a client that trusts its authority."""

    def __init__(self, test: SynchronousTestCase, trust: bool = True, **options: Any) -> None:
        self.test = test
        self.authority = make_authority()
        self.network = MemoryNetwork()
        self.servers = RecorderFactory()
        self.clients = RecorderFactory()
        names = options.pop("names", (HOST,))
        self.listener = self.serve(self.authority.server_options(*names, **options))
        ca_file = self.authority.write(Path(test.mktemp())) if trust else None
        self.tls = ClientTLS(ca_file, handshake_timeout=5.0)

    def serve(self, options: CertificateOptions) -> MemoryListener:
        """Replaces the server."""
        factory = TLSMemoryBIOFactory(options, False, self.servers, self.network.clock)
        self.listener = self.network.listen("10.0.0.1", PORT, factory)
        return self.listener

    def connect(self, host: str = HOST) -> Deferred[IProtocol]:
        """Begin to connect."""
        endpoint = self.tls.wrap(self.network.endpoint("10.0.0.1", PORT), host, PORT, self.network.clock)
        return endpoint.connect(self.clients)

    def settle(self) -> None:
        """Carry everything, and let the server write what it holds back for a turn."""
        for _ in range(3):
            self.network.flush()
            self.network.clock.advance(0)
        self.network.flush()

    def connected(self, host: str = HOST) -> tuple[Recorder, Recorder]:
        """A client and its server, after the handshake."""
        result = self.connect(host)
        self.settle()
        client = self.test.successResultOf(result)
        assert isinstance(client, Recorder)
        return client, self.servers.built[-1]


class HandshakeTests(SynchronousTestCase):
    """Which connections are made, and which are not."""

    def test_name_is_verified_and_sent(self) -> None:
        scene = Scene(self, alpn=[b"http/1.1"])
        client, server = scene.connected()
        self.assertEqual(client.transport.negotiatedProtocol, b"http/1.1")
        connection: SSL.Connection = server.transport.getHandle()
        self.assertEqual(connection.get_servername(), HOST.encode())
        self.assertEqual(connection.get_protocol_version_name(), "TLSv1.3")
        verifyObject(ITransport, client.transport)
        verifyObject(IConsumer, client.transport)
        verifyObject(IPushProducer, client.transport)

    def test_address(self) -> None:
        scene = Scene(self, names=("127.0.0.1", "::1"))
        for host in ("127.0.0.1", "::1"):
            _, server = scene.connected(host)
            self.assertIsNone(server.transport.getHandle().get_servername())
        result = scene.connect("127.0.0.2")
        scene.settle()
        self.failureResultOf(result, ssl.SSLCertVerificationError)

    def test_tls_12(self) -> None:
        _, server = Scene(self, newest=TLSVersion.TLSv1_2).connected()
        self.assertEqual(server.transport.getHandle().get_protocol_version_name(), "TLSv1.2")

    def test_nothing_older_is_offered(self) -> None:
        scene = Scene(self)
        recorders = RecorderFactory()
        scene.network.listen("10.0.0.1", PORT, recorders)
        scene.connect().addErrback(lambda reason: None)
        scene.settle()
        # RFC 8446 section 4.2.1: supported_versions, TLS 1.3 and 1.2
        self.assertIn(bytes.fromhex("002b 0005 04 0304 0303"), recorders.built[0].received)
        scene.network.advance(6)

    def refused(self, scene: Scene, host: str = HOST) -> ssl.SSLCertVerificationError:
        result = scene.connect(host)
        scene.settle()
        error = self.failureResultOf(result, ssl.SSLCertVerificationError).value
        assert isinstance(error, ssl.SSLCertVerificationError)
        self.assertEqual(
            scene.clients.built, [], "the protocol is not built for an upstream that is not verified"
        )
        self.assertEqual(scene.listener.open_connections, [])
        return error

    def test_other_name(self) -> None:
        error = self.refused(Scene(self), "other.test")
        self.assertIn("other.test", str(error))

    def test_unknown_authority(self) -> None:
        self.refused(Scene(self, trust=False))

    def test_expired(self) -> None:
        self.assertIn("expired", str(self.refused(Scene(self, expired=True))))

    def test_plain_server(self) -> None:
        """Garbage instead of a handshake is an SSL error, at once."""

        class Plain(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        scene = Scene(self)
        scene.network.listen("10.0.0.1", PORT, Factory.forProtocol(Plain))
        result = scene.connect()
        scene.settle()
        self.failureResultOf(result, ssl.SSLError)

    def test_silent_server(self) -> None:
        scene = Scene(self)
        listener = scene.network.listen("10.0.0.1", PORT, RecorderFactory())
        result = scene.connect()
        scene.network.flush()
        scene.network.advance(4.9)
        self.assertNoResult(result)
        scene.network.advance(0.2)
        self.failureResultOf(result, TimeoutError)
        scene.settle()
        self.assertEqual(listener.open_connections, [])
        self.assertEqual(scene.network.clock.getDelayedCalls(), [])

    def test_server_hangs_up(self) -> None:
        scene = Scene(self)

        class Rude(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.loseConnection()

        scene.network.listen("10.0.0.1", PORT, Factory.forProtocol(Rude))
        result = scene.connect()
        scene.settle()
        self.failureResultOf(result, ConnectionLost)
        self.assertEqual(scene.network.clock.getDelayedCalls(), [])

    def test_refused(self) -> None:
        scene = Scene(self)
        scene.listener.refusing = True
        result = scene.connect()
        scene.settle()
        self.failureResultOf(result, ConnectionRefusedError)

    def test_cancelled(self) -> None:
        """Cancelled at any moment, the connection is closed and the protocol never built."""
        for rounds in range(100):
            scene = Scene(self)
            scene.listener.options["chunk_size"] = 200
            result = scene.connect()
            if rounds:
                with contextlib.suppress(AssertionError):
                    scene.network.flush(1)
            for pump in scene.network.connections:
                pump.advance(rounds)
            if result.called:
                self.assertGreater(rounds, 3)
                return
            result.cancel()
            self.failureResultOf(result, CancelledError)
            scene.settle()
            self.assertEqual(scene.clients.built, [])
            self.assertEqual(scene.listener.open_connections, [])
            scene.network.advance(0.1)
            self.assertEqual(scene.network.clock.getDelayedCalls(), [])
        self.fail("the handshake never ended")

    def test_lost_before_the_endpoint_says_so(self) -> None:
        scene = Scene(self)

        @implementer(IStreamClientEndpoint)
        class Hasty:
            def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
                client = protocol_factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", PORT))
                assert client is not None
                server = Recorder()
                pump = Pump(client, server)
                server.transport.loseConnection()
                pump.flush()
                return succeed(client)

        result = scene.tls.wrap(Hasty(), HOST, PORT, scene.network.clock).connect(scene.clients)
        self.failureResultOf(result, ConnectionLost)
        self.assertEqual(scene.network.clock.getDelayedCalls(), [])

    def test_impossible_name(self) -> None:
        tls = ClientTLS()
        with self.assertRaises(ValueError):
            tls.wrap(MemoryNetwork().endpoint("h", 1), "a" * 64 + ".test", 443, Clock())

    def test_unreadable_authority(self) -> None:
        with self.assertRaises(OSError):
            ClientTLS(self.mktemp())


class SessionTests(SynchronousTestCase):
    """Handshakes are shortened by what an earlier connection left."""

    def resumed(self, scene: Scene) -> list[bool]:
        """Three connections, one after the other, each with a byte of data."""
        found = []
        for _ in range(3):
            client, server = scene.connected()
            server.transport.write(b"x")
            scene.settle()
            self.assertEqual(client.received, b"x")
            found.append(client.transport.session_reused)
            client.transport.loseConnection()
            scene.settle()
        return found

    def test_resumed(self) -> None:
        self.assertEqual(self.resumed(Scene(self)), [False, True, True])

    def test_resumed_tls_12(self) -> None:
        self.assertEqual(self.resumed(Scene(self, newest=TLSVersion.TLSv1_2)), [False, True, True])

    def test_other_origin(self) -> None:
        """A session is good for the name that was verified, and for no other."""
        scene = Scene(self, names=(HOST, "other.test"))
        _, server = scene.connected()
        server.transport.write(b"x")
        scene.settle()
        other, _ = scene.connected("other.test")
        self.assertFalse(other.transport.session_reused)
        again, _ = scene.connected()
        self.assertTrue(again.transport.session_reused)

    def test_server_forgot(self) -> None:
        """A server that does not know the session gets a whole handshake."""
        scene = Scene(self)
        self.resumed(scene)
        scene.serve(scene.authority.server_options(HOST))
        self.assertEqual(self.resumed(scene), [False, True, True])

    def test_forgotten_after_a_failure(self) -> None:
        """What may be the reason why a handshake failed is not tried again."""
        scene = Scene(self)
        self.resumed(scene)
        self.assertIn((HOST, PORT), scene.tls._sessions)
        scene.serve(scene.authority.server_options("other.test"))
        result = scene.connect()
        scene.settle()
        self.failureResultOf(result, ssl.SSLCertVerificationError)
        self.assertNotIn((HOST, PORT), scene.tls._sessions)

    def test_bounded(self) -> None:
        scene = Scene(self)
        _, server = scene.connected()
        server.transport.write(b"x")
        scene.settle()
        session = scene.tls._sessions[HOST, PORT]
        for port in range(1000):
            scene.tls.remember(("many.test", port), session)
        self.assertEqual(len(scene.tls._sessions), 256)
        self.assertIn(("many.test", 999), scene.tls._sessions)


class TransportTests(SynchronousTestCase):
    """What the protocol above sees."""

    def test_data_both_ways(self) -> None:
        scene = Scene(self)
        client, server = scene.connected()
        big = bytes(range(256)) * 4 * KIB
        client.transport.write(b"hello ")
        client.transport.writeSequence([b"wor", b"", b"ld"])
        client.transport.write(big)
        server.transport.write(big)
        scene.settle()
        self.assertEqual(server.received, b"hello world" + big)
        self.assertEqual(client.received, big)

    def test_records_of_one_read_arrive_together(self) -> None:
        scene = Scene(self)
        client, server = scene.connected()
        connection = server.transport.getHandle()
        for _ in range(20):
            connection.send(b"event\n\n")
        server.transport._flushSendBIO()
        scene.settle()
        self.assertEqual(client.pieces, [140])

    def test_byte_by_byte(self) -> None:
        scene = Scene(self)
        scene.listener.options["chunk_size"] = 1
        client, server = scene.connected()
        client.transport.write(b"ping")
        server.transport.write(b"pong" * 100)
        scene.settle()
        self.assertEqual((bytes(server.received), bytes(client.received)), (b"ping", b"pong" * 100))
        client.transport.loseConnection()
        scene.settle()
        self.assertEqual((client.lost, server.lost), ([ConnectionDone], [ConnectionDone]))

    def test_we_close(self) -> None:
        scene = Scene(self)
        client, server = scene.connected()
        client.transport.write(b"last words")
        client.transport.loseConnection()
        client.transport.write(b"too late")
        scene.settle()
        self.assertEqual(server.received, b"last words")
        self.assertEqual((client.lost, server.lost), ([ConnectionDone], [ConnectionDone]))

    def test_we_close_while_producing(self) -> None:
        """As with TCP, what the producer still writes is sent, and then the connection closed."""
        scene = Scene(self)
        client, server = scene.connected()
        producer = Producer(client.transport, 0)
        client.transport.registerProducer(producer, True)
        client.transport.loseConnection()
        client.transport.write(b"the rest")
        scene.settle()
        self.assertEqual(client.lost, [])
        client.transport.unregisterProducer()
        scene.settle()
        self.assertEqual(server.received, b"the rest")
        self.assertEqual((client.lost, server.lost), ([ConnectionDone], [ConnectionDone]))

    def test_peer_closes(self) -> None:
        scene = Scene(self)
        client, server = scene.connected()
        server.transport.write(b"bye")
        server.transport.loseConnection()
        scene.settle()
        self.assertEqual(client.received, b"bye")
        self.assertEqual((client.lost, server.lost), ([ConnectionDone], [ConnectionDone]))

    def test_cut_off(self) -> None:
        """F22: an end that the peer has not signed is no clean one."""
        scene = Scene(self)
        client, server = scene.connected()
        server.transport.write(b"half of the ans")
        scene.settle()
        scene.listener.connections[-1].server.loseConnection()
        scene.settle()
        self.assertEqual(client.received, b"half of the ans")
        self.assertEqual(client.lost, [ConnectionLost])

    def test_corrupted(self) -> None:
        scene = Scene(self)
        client, _ = scene.connected()
        scene.listener.connections[-1].server.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        scene.settle()
        self.assertEqual(client.received, b"")
        self.assertEqual(client.lost, [ConnectionLost])

    def test_abort(self) -> None:
        scene = Scene(self)
        client, server = scene.connected()
        server.transport.write(b"x" * KIB)
        scene.network.clock.advance(0)
        client.transport.abortConnection()
        scene.settle()
        self.assertEqual(client.received, b"", "nothing is delivered after abortConnection")
        self.assertEqual(client.lost, [ConnectionAborted])
        self.assertEqual(scene.listener.open_connections, [])

    def test_closed_while_receiving(self) -> None:
        """What has been decrypted is not delivered to a protocol that has closed."""

        class Closer(Recorder):
            def dataReceived(self, data: bytes) -> None:
                super().dataReceived(data)
                self.transport.abortConnection()

        scene = Scene(self)
        scene.listener.options.update(chunk_size=1024 * KIB, wire_size=1024 * KIB)
        client, server = scene.connected()
        client.__class__ = Closer
        server.transport.write(bytes(300 * KIB))
        scene.settle()
        self.assertEqual(client.pieces, [96 * KIB])

    def test_reading_pauses(self) -> None:
        scene = Scene(self)
        client, server = scene.connected()
        producer = Producer(server.transport, 2048 * KIB)
        server.transport.registerProducer(producer, True)
        client.transport.pauseProducing()
        producer.resumeProducing()
        scene.settle()
        self.assertEqual(client.received, b"")
        self.assertGreater(producer.remaining, 1024 * KIB, "the server is held back")
        client.transport.resumeProducing()
        scene.settle()
        while producer.remaining > 0:
            scene.settle()
        scene.settle()
        self.assertEqual(len(client.received), 2048 * KIB)

    def test_producer_is_paused(self) -> None:
        """A peer that does not read stops the producer; nothing grows without bound."""
        scene = Scene(self)
        client, server = scene.connected()
        below = scene.listener.connections[-1]
        below.server.pauseProducing()
        producer = Producer(client.transport, 4096 * KIB)
        client.transport.registerProducer(producer, True)
        producer.resumeProducing()
        scene.settle()
        self.assertTrue(producer.paused)
        self.assertLess(below.client.peak, 96 * KIB)
        below.server.resumeProducing()
        scene.settle()
        self.assertEqual(producer.remaining, 0)
        client.transport.unregisterProducer()
        client.transport.loseConnection()
        scene.settle()
        self.assertEqual(len(server.received), 4096 * KIB)
        self.assertFalse(producer.stopped)
        self.assertLess(below.client.peak, 96 * KIB)

    def test_not_twisteds_tls_transport(self) -> None:
        client, _ = Scene(self).connected()
        self.assertIsInstance(client.transport, TLSTransport)
        self.assertEqual(client.transport.getPeer().host, "10.0.0.1")
        self.assertEqual(client.transport.getHost().host, "127.0.0.1")


class ResponseTests(SynchronousTestCase):
    """HTTP over TLS: where the difference shows."""

    def response(self, scene: Scene, reply: bytes) -> Receiver:
        """A request that is answered by ``reply``; the connection stays open."""
        endpoint = scene.tls.wrap(scene.network.endpoint("10.0.0.1", PORT), HOST, PORT, scene.network.clock)
        self.pool = ConnectionPool(endpoint, scene.network.clock)
        receiver = Receiver()
        self.pool.send(RequestHead(b"GET", b"/", []), [], receiver)
        receiver.sent = True
        scene.settle()
        scene.servers.built[-1].transport.write(reply)
        scene.settle()
        return receiver

    def test_response_that_ends_with_the_connection(self) -> None:
        """F22: such a response is whole only if the peer has said so; whoever cuts TCP can not."""
        for clean in (True, False):
            scene = Scene(self)
            receiver = self.response(scene, b"HTTP/1.1 200 OK\r\n\r\nall of it")
            if clean:
                scene.servers.built[-1].transport.loseConnection()
            else:
                scene.listener.connections[-1].server.loseConnection()
            scene.settle()
            self.assertEqual(receiver.body, b"all of it")
            if clean:
                self.assertEqual(receiver.outcome, "ended")
            else:
                self.assertIsInstance(receiver.outcome, ResponseLost)

    def test_tickets_are_no_surprise(self) -> None:
        """TLS's own messages on an idle connection are not bytes of the upstream."""
        scene = Scene(self)
        receiver = self.response(scene, b"HTTP/1.1 204 No Content\r\n\r\n")
        self.assertEqual(receiver.outcome, "ended")
        self.assertEqual(self.pool.idle, 1)

    def test_connect_timeout_covers_the_handshake(self) -> None:
        scene = Scene(self)
        listener = scene.network.listen("10.0.0.1", PORT, RecorderFactory())
        scene.tls.handshake_timeout = 1000.0
        endpoint = scene.tls.wrap(scene.network.endpoint("10.0.0.1", PORT), HOST, PORT, scene.network.clock)
        receiver = Receiver()
        ConnectionPool(endpoint, scene.network.clock).send(RequestHead(b"GET", b"/", []), [], receiver)
        receiver.sent = True
        for _ in range(12):
            scene.network.advance(1.0)
        self.assertIsInstance(receiver.outcome, RequestNotSent)
        self.assertEqual(listener.open_connections, [])
        self.assertEqual(scene.network.clock.getDelayedCalls(), [])
