"""The in-memory transports behave as TCP does: the same conversations on both, and what only the pump can do."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import (
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.interfaces import (
    IPushProducer,
    ITransport,
)
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from ccmproxy.testing.pump import KIB, MemoryNetwork, Pump
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
    """The pump, cutting the bytes into odd pieces."""

    chunk_size = 4093


class TCPContractTests(HalfCloseContract, TestCase):
    """TCP over the loopback interface: what the pump is held to."""

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


class PumpTests(SynchronousTestCase):
    """What the network never lets a test decide."""

    def setUp(self) -> None:
        self.client, self.server = Recorder(), Recorder()

    def test_interfaces(self) -> None:
        pump = Pump(self.client, self.server)
        for interface in (ITransport, IPushProducer, IByteStream):
            self.assertTrue(verifyObject(interface, pump.client, tentative=interface is IByteStream))

    def test_nothing_moves_by_itself(self) -> None:
        pump = Pump(self.client, self.server)
        self.client.transport.write(b"abc")
        self.assertEqual(self.server.received, b"")
        self.assertTrue(pump.advance())
        self.assertEqual(self.server.received, b"abc")
        self.assertFalse(pump.advance())

    def test_byte_by_byte(self) -> None:
        pump = Pump(self.client, self.server, chunk_size=1)
        self.client.transport.write(b"abc")
        pump.advance()
        self.assertEqual(self.server.received, b"a")
        pump.flush()
        self.assertEqual(self.server.received, b"abc")
        self.assertEqual(self.server.pieces, [1, 1, 1])

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
            pump.advance()
            self.assertGreaterEqual(pump.client.buffered, 20 * KIB)
        pump.flush()
        self.assertEqual(len(self.server.received), 200 * KIB)
        self.assertEqual(pump.client.peak, 40 * KIB)

    def test_closing_on_unread_bytes_resets(self) -> None:
        """An answer is lost when its sender closes while the other is still sending."""
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


class MemoryNetworkTests(SynchronousTestCase):
    """Listening and connecting."""

    def setUp(self) -> None:
        self.network = MemoryNetwork()
        self.servers: list[Recorder] = []

        def build() -> Recorder:
            self.servers.append(Recorder())
            return self.servers[-1]

        self.factory = Factory.forProtocol(build)
        self.listener = self.network.listen("upstream", 443, self.factory)

    def connect(self, port: int = 443, timeout: float | None = 30.0) -> Deferred[Recorder]:
        factory = Factory.forProtocol(Recorder)
        return self.network.endpoint("upstream", port, timeout).connect(factory)  # type: ignore[return-value]

    def test_connects_with_the_next_flush(self) -> None:
        connecting = self.connect()
        self.assertNoResult(connecting)
        self.network.flush()
        client = self.successResultOf(connecting)
        client.transport.write(b"hello")
        self.network.flush()
        self.assertEqual(self.servers[0].received, b"hello")
        self.assertEqual(len(self.listener.open_connections), 1)
        client.transport.loseConnection()
        self.network.flush()
        self.assertEqual(len(self.listener.open_connections), 0)
        self.assertEqual(len(self.network.connections), 1)
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_nobody_listens(self) -> None:
        connecting = self.connect(port=80)
        self.network.flush()
        self.failureResultOf(connecting, ConnectionRefusedError)

    def test_refusals_and_errors(self) -> None:
        self.listener.refusing = True
        connecting = self.connect()
        self.network.flush()
        self.failureResultOf(connecting, ConnectionRefusedError)
        self.listener.refusing, self.listener.error = False, OSError("no route")
        connecting = self.connect()
        self.network.flush()
        self.failureResultOf(connecting, OSError)
        self.assertEqual(self.listener.attempts, 2)
        self.assertEqual(self.listener.connections, [])

    def test_hanging_until_the_timeout(self) -> None:
        self.listener.hanging = True
        connecting = self.connect(timeout=10)
        self.network.advance(9.9)
        self.assertNoResult(connecting)
        self.network.advance(0.2)
        self.failureResultOf(connecting, TimeoutError)

    def test_cancelling(self) -> None:
        connecting = self.connect()
        connecting.addErrback(lambda failure: None)
        connecting.cancel()
        self.network.flush()
        self.assertEqual((self.listener.connections, self.network.clock.getDelayedCalls()), ([], []))

    def test_options_of_a_listener(self) -> None:
        self.listener.options = {"chunk_size": 1}
        connecting = self.connect()
        self.network.flush()
        self.successResultOf(connecting).transport.write(b"abc")
        self.network.flush()
        self.assertEqual(self.servers[0].pieces, [1, 1, 1])
