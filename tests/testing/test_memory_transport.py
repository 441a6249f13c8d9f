"""Tests that the in-memory transports behave like TCP: the same conversations on both, and what only they can do."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import (
    ConnectionDone,
    ConnectionLost,
)
from twisted.internet.interfaces import (
    IPushProducer,
    ITransport,
)
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from ccmproxy.testing.pump import KIB, Pump
from ccmproxy.transports.contract import IByteStream
from tests.transports.contract import HalfCloseContract, InMemory, Recorder, Source


class PumpContractTests(InMemory, HalfCloseContract, TestCase):
    """The pump."""

    chunk_size = 64 * KIB

    async def connect(self, client: Recorder, server: Recorder) -> None:
        self.pump = Pump(client, server, chunk_size=self.chunk_size)

    def flush(self) -> None:
        self.pump.flush()


class SmallPiecesContractTests(PumpContractTests):
    """The pump, splitting the bytes into pieces of odd sizes."""

    chunk_size = 4093


class TCPContractTests(HalfCloseContract, TestCase):
    """TCP over the loopback interface, as the reference for the pump."""

    timeout = 20

    async def connect(self, client: Recorder, server: Recorder) -> None:
        from twisted.internet import reactor  # noqa: TID251 - the real thing

        def build_server() -> Recorder:
            return server

        self.reactor = reactor
        port = reactor.listenTCP(0, Factory.forProtocol(build_server), interface="127.0.0.1")  # type: ignore[arg-type]
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)  # type: ignore[attr-defined]
        await connectProtocol(endpoint, client)
        await self.until(lambda: server.transport is not None)
        await maybeDeferred(port.stopListening)

        async def disconnect() -> None:
            for protocol in (client, server):
                protocol.transport.abortConnection()
            await self.until(lambda: client.lost and server.lost)

        self.addCleanup(lambda: Deferred.fromCoroutine(disconnect()))

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(2000):
            if condition():
                return
            await deferLater(self.reactor, 0.002)
        raise AssertionError("it did not happen within 4 s")

    async def settle(self) -> None:
        await deferLater(self.reactor, 0.05)


class MemoryTransportTests(SynchronousTestCase):
    """Situations that a test cannot cause on a real network."""

    def setUp(self) -> None:
        self.client, self.server = Recorder(), Recorder()

    def test_interfaces(self) -> None:
        pump = Pump(self.client, self.server)
        for interface in (ITransport, IPushProducer, IByteStream):
            self.assertTrue(verifyObject(interface, pump.client, tentative=interface is IByteStream))

    def test_held_direction(self) -> None:
        pump = Pump(self.client, self.server)
        pump.client.held = True
        self.client.transport.write(b"abc")
        self.client.transport.loseConnection()
        self.server.transport.write(b"ignored by one who has closed")
        pump.flush()
        self.assertEqual((self.server.received, self.server.lost), (b"", []))
        self.assertEqual(self.client.lost, [ConnectionDone])
        pump.client.held = False
        pump.flush()
        self.assertEqual(len(self.server.lost), 1)

    def test_what_is_in_flight_is_bounded(self) -> None:
        pump = Pump(self.client, self.server, wire_size=1000)
        pump.client.held = True
        self.client.transport.write(b"x" * 5000)
        pump.flush()
        self.assertEqual((pump.client.written, pump.client.buffered, pump.client.peak), (5000, 4000, 5000))

    def test_marks(self) -> None:
        pump = Pump(
            self.client, self.server, high_mark=30 * KIB, low_mark=20 * KIB, wire_size=KIB, chunk_size=KIB
        )
        source = Source(self.client, 200 * KIB)
        pump.client.registerProducer(source, True)
        source.run()
        self.assertEqual(pump.client.buffered, 40 * KIB)
        while source.left:
            self.assertTrue(pump.advance())
            self.assertGreaterEqual(pump.client.buffered, 20 * KIB)
        pump.flush()
        self.assertEqual(len(self.server.received), 200 * KIB)
        self.assertEqual(pump.client.peak, 40 * KIB)

    def test_closing_on_unread_bytes_resets(self) -> None:
        """An answer is lost when its sender closes while the other end is still sending."""
        pump = Pump(self.client, self.server)
        self.client.transport.write(b"x" * 100 * KIB)
        pump.advance()
        self.server.transport.write(b"answer")
        self.server.transport.loseConnection()
        pump.flush()
        self.assertEqual((self.client.received, self.client.lost), (b"", [ConnectionLost]))

    def test_only_bytes(self) -> None:
        Pump(self.client, self.server)
        with self.assertRaises(TypeError):
            self.client.transport.write("text")  # type: ignore[arg-type]
