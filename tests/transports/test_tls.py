"""Our TLS against pyOpenSSL's, over in-memory transports: which connections are made."""

from __future__ import annotations

import contextlib
import ssl

from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionLost, ConnectionRefusedError, TimeoutError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import TLSVersion
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from ccmproxy.testing.pump import MemoryNetwork, Pump
from ccmproxy.transports.contract import IByteStream
from ccmproxy.transports.tls import ClientTLS
from tests.transports.contract import Building, Recorder
from tests.transports.tls_scene import HOST, PORT, Scene


class HandshakeTests(SynchronousTestCase):
    """Which connections are made, and which are not."""

    def test_name_is_verified_and_sent(self) -> None:
        scene = Scene(self, alpn=[b"http/1.1"])
        client, server = scene.connected()
        connection: SSL.Connection = server.transport.getHandle()
        self.assertEqual(connection.get_alpn_proto_negotiated(), b"http/1.1")
        self.assertEqual(connection.get_servername(), HOST.encode())
        self.assertEqual(connection.get_protocol_version_name(), "TLSv1.3")
        self.assertTrue(verifyObject(IByteStream, client.transport))

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
        recorders = Building()
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
        listener = scene.network.listen("10.0.0.1", PORT, Building())
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
        """When it is cancelled at any moment, the connection is closed and the protocol is never built."""
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
