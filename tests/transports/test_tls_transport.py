"""What a protocol sees of our TLS, with pyOpenSSL's at the other end."""

from __future__ import annotations

import ssl
from functools import partial
from pathlib import Path

from OpenSSL import crypto
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.http.failures import RequestNotSent, ResponseLost
from ccmproxy.http.message import RequestHead
from ccmproxy.testing.pump import KIB
from ccmproxy.transports.tls_transport import TLSTransport
from tests.http.upstream import Receiver
from tests.transports.contract import Building, Recorder, Source
from tests.transports.tls_scene import HOST, PORT, Scene


class TicketPeer(Protocol):
    """A TLS server that sends very many session tickets after its handshake, and nothing else."""

    def __init__(self, options: CertificateOptions, path: Path, tickets: int) -> None:
        assert options.privateKey is not None and options.certificate is not None
        path.write_bytes(
            crypto.dump_privatekey(crypto.FILETYPE_PEM, options.privateKey)
            + crypto.dump_certificate(crypto.FILETYPE_PEM, options.certificate)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        context.num_tickets = tickets
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def dataReceived(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        assert self.transport is not None
        self.transport.write(self._outgoing.read())


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

    def test_records_in_pieces(self) -> None:
        """Reads that bring but a part of a record are no reads without data."""
        scene = Scene(self)
        scene.listener.options["chunk_size"] = 1000
        client, server = scene.connected()
        server.transport.write(bytes(1024 * KIB))
        scene.settle()
        self.assertEqual((len(client.received), client.lost), (1024 * KIB, []))

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
        """As with TCP, what the producer still writes is sent, and then the connection is closed."""
        scene = Scene(self)
        client, server = scene.connected()
        producer = Source(client, 0)
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
        """F22: the end of the TCP connection without close_notify is no orderly close."""
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
        """Decrypted data is not delivered to a protocol that has closed the connection."""

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
        producer = Source(server, 2048 * KIB)
        server.transport.registerProducer(producer, True)
        client.transport.pauseProducing()
        producer.run()
        scene.settle()
        self.assertEqual(client.received, b"")
        self.assertGreater(producer.left, 1024 * KIB, "the server is held back")
        client.transport.resumeProducing()
        scene.settle()
        while producer.left > 0:
            scene.settle()
        scene.settle()
        self.assertEqual(len(client.received), 2048 * KIB)

    def test_producer_is_paused(self) -> None:
        """A peer that does not read stops the producer; nothing grows without bound."""
        scene = Scene(self)
        client, server = scene.connected()
        below = scene.listener.connections[-1]
        below.server.pauseProducing()
        producer = Source(client, 4096 * KIB)
        client.transport.registerProducer(producer, True)
        producer.run()
        scene.settle()
        self.assertTrue(producer.paused)
        self.assertLess(below.client.peak, 96 * KIB)
        below.server.resumeProducing()
        scene.settle()
        self.assertEqual(producer.left, 0)
        client.transport.unregisterProducer()
        client.transport.loseConnection()
        scene.settle()
        self.assertEqual(len(server.received), 4096 * KIB)
        self.assertEqual(producer.stops, 0)
        self.assertLess(below.client.peak, 96 * KIB)

    def test_not_twisteds_tls_transport(self) -> None:
        client, _ = Scene(self).connected()
        self.assertIsInstance(client.transport, TLSTransport)
        self.assertEqual(client.transport.getPeer().host, "10.0.0.1")
        self.assertEqual(client.transport.getHost().host, "127.0.0.1")


class ResponseTests(SynchronousTestCase):
    """HTTP responses over TLS, where a close with and without close_notify differ."""

    def response(self, scene: Scene, reply: bytes) -> Receiver:
        """Send a request that is answered by ``reply``; the connection stays open."""
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
        """F22: such a response is complete only after close_notify, which an attacker who cuts TCP cannot forge."""
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
        """TLS's own messages on an idle connection do not count as unexpected data from the upstream."""
        scene = Scene(self)
        receiver = self.response(scene, b"HTTP/1.1 204 No Content\r\n\r\n")
        self.assertEqual(receiver.outcome, "ended")
        self.assertEqual(self.pool.idle, 1)

    def test_tickets_without_end(self) -> None:
        """F64: what TLS itself says is bounded while no data comes, however long the connection may be silent."""
        for tickets, is_cut in ((200, False), (3000, True)):
            scene = Scene(self)
            options = scene.authority.server_options(HOST)
            build = partial(TicketPeer, options, Path(self.mktemp()), tickets)
            scene.network.listen("10.0.0.1", PORT, Factory.forProtocol(build))
            connecting = scene.connect()
            scene.settle()
            client = self.successResultOf(connecting)
            assert isinstance(client, Recorder)
            self.assertEqual(client.lost, [ConnectionLost] if is_cut else [], tickets)
            client.transport.abortConnection()

    def test_connect_timeout_covers_the_handshake(self) -> None:
        scene = Scene(self)
        listener = scene.network.listen("10.0.0.1", PORT, Building())
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
