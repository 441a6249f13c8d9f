"""The in-memory transports behave as TCP does: the same conversations on both, and what only the pump can do."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IPullProducer,
    IPushProducer,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from ccmproxy.testing.pump import KIB, MemoryNetwork, Pump


class Recorder(Protocol):
    """Keeps what it receives, and how the connection ended."""

    transport: ITransport

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


@implementer(IHalfCloseableProtocol)
class HalfCloser(Recorder):
    """A recorder that lives on with half a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.read_lost = self.write_lost = 0

    def readConnectionLost(self) -> None:
        self.read_lost += 1

    def writeConnectionLost(self) -> None:
        self.write_lost += 1


class Failing(Recorder):
    def dataReceived(self, data: bytes) -> None:
        raise ZeroDivisionError


@implementer(IPushProducer)
class Source:
    """Writes pieces until it is paused or has written ``size`` bytes; then unregisters."""

    def __init__(self, consumer: Recorder, size: int) -> None:
        self.transport = consumer.transport
        self.left = size
        self.paused = False
        self.pauses = self.stops = 0

    def run(self) -> None:
        while not self.paused and self.left:
            piece = min(self.left, 10 * KIB)
            self.left -= piece
            self.transport.write(b"x" * piece)
            if not self.left:
                self.transport.unregisterProducer()  # type: ignore[attr-defined]

    def pauseProducing(self) -> None:
        self.paused = True
        self.pauses += 1

    def resumeProducing(self) -> None:
        self.paused = False
        self.run()

    def stopProducing(self) -> None:
        self.stops += 1


@implementer(IPullProducer)
class PullSource:
    """Writes one piece each time it is asked."""

    def __init__(self, consumer: Recorder, pieces: int) -> None:
        self.transport = consumer.transport
        self.left = pieces

    def resumeProducing(self) -> None:
        self.transport.write(b"x" * 10 * KIB)
        self.left -= 1
        if not self.left:
            self.transport.unregisterProducer()  # type: ignore[attr-defined]

    def stopProducing(self) -> None:
        """Nothing to stop."""


class TransportContract:
    """Conversations that go the same way over any transport. ``enough_to_pause``: more bytes than it takes at once."""

    enough_to_pause = 300 * KIB

    async def connect(self, client: Recorder, server: Recorder) -> None:
        """Connect both."""
        raise NotImplementedError

    async def until(self, condition: Callable[[], object]) -> None:
        """Let bytes pass until ``condition`` holds; fails the test if it never does."""
        raise NotImplementedError

    async def settle(self) -> None:
        """Let pass what passes."""
        raise NotImplementedError

    async def pair(self) -> tuple[Recorder, Recorder]:
        client, server = Recorder(), Recorder()
        await self.connect(client, server)
        return client, server

    async def test_bytes_arrive_in_order(self) -> None:
        client, server = await self.pair()
        message = bytes(range(256)) * 2000
        client.transport.write(message)
        server.transport.writeSequence([b"one ", b"two"])
        await self.until(lambda: len(server.received) == len(message) and client.received == b"one two")
        assert server.received == message

    async def test_paused_reader_receives_nothing(self) -> None:
        client, server = await self.pair()
        server.transport.pauseProducing()  # type: ignore[attr-defined]
        client.transport.write(b"hello")
        await self.settle()
        assert server.received == b""
        server.transport.resumeProducing()  # type: ignore[attr-defined]
        await self.until(lambda: server.received == b"hello")

    async def test_slow_reader_pauses_the_producer(self) -> None:
        client, server = await self.pair()
        server.transport.pauseProducing()  # type: ignore[attr-defined]
        size = 40_000 * KIB
        source = Source(client, size)
        client.transport.registerProducer(source, True)  # type: ignore[attr-defined]
        source.run()
        await self.settle()
        assert source.paused
        assert source.left > 0
        server.transport.resumeProducing()  # type: ignore[attr-defined]
        await self.until(lambda: len(server.received) == size)
        assert source.left == 0

    async def test_pull_producer_is_asked_again_and_again(self) -> None:
        client, server = await self.pair()
        client.transport.registerProducer(PullSource(client, 30), False)  # type: ignore[attr-defined]
        await self.until(lambda: len(server.received) == 300 * KIB)

    async def test_only_one_producer(self) -> None:
        client, _ = await self.pair()
        client.transport.registerProducer(Source(client, 0), True)  # type: ignore[attr-defined]
        try:
            client.transport.registerProducer(Source(client, 0), True)  # type: ignore[attr-defined]
        except RuntimeError:
            return
        raise AssertionError("a second producer was accepted")

    async def test_close_flushes_first(self) -> None:
        client, server = await self.pair()
        client.transport.write(b"x" * 1000 * KIB)
        client.transport.loseConnection()
        client.transport.loseConnection()
        await self.until(lambda: client.lost and server.lost)
        assert len(server.received) == 1000 * KIB
        assert client.lost == server.lost == [ConnectionDone]
        client.transport.write(b"too late")
        client.transport.loseConnection()
        await self.settle()
        assert client.lost == [ConnectionDone]

    async def test_close_waits_for_a_paused_producer(self) -> None:
        client, server = await self.pair()
        source = Source(client, self.enough_to_pause)
        client.transport.registerProducer(source, True)  # type: ignore[attr-defined]
        source.run()
        assert source.paused
        client.transport.loseConnection()
        await self.until(lambda: client.lost and server.lost)
        assert len(server.received) == self.enough_to_pause

    async def test_abort(self) -> None:
        client, server = await self.pair()
        client.transport.abortConnection()  # type: ignore[attr-defined]
        assert client.lost == []
        await self.until(lambda: client.lost and server.lost)
        assert client.lost == [ConnectionAborted]
        assert server.lost == [ConnectionLost]

    async def test_lost_connection_stops_the_producer(self) -> None:
        client, server = await self.pair()
        source = Source(client, 100)
        client.transport.registerProducer(source, True)  # type: ignore[attr-defined]
        server.transport.loseConnection()
        await self.until(lambda: client.lost)
        assert source.stops == 1
        client.transport.registerProducer(source, True)  # type: ignore[attr-defined]
        assert source.stops == 2

    async def test_half_close(self) -> None:
        client, server = HalfCloser(), HalfCloser()
        await self.connect(client, server)
        client.transport.write(b"question")
        client.transport.loseWriteConnection()  # type: ignore[attr-defined]
        await self.until(lambda: server.read_lost)
        assert server.received == b"question"
        assert (client.write_lost, client.read_lost, server.write_lost) == (1, 0, 0)
        client.transport.write(b"not sent")
        server.transport.write(b"answer")
        await self.until(lambda: client.received == b"answer")
        server.transport.loseConnection()
        await self.until(lambda: client.read_lost and server.lost)
        client.transport.loseConnection()
        await self.until(lambda: client.lost)
        assert client.lost == server.lost == [ConnectionDone]
        assert server.received == b"question"

    async def test_half_close_is_the_end_for_others(self) -> None:
        client, server = await self.pair()
        client.transport.loseWriteConnection()  # type: ignore[attr-defined]
        await self.until(lambda: client.lost and server.lost)
        assert client.lost == server.lost == [ConnectionDone]

    async def test_paused_reader_does_not_learn_of_the_end(self) -> None:
        client, server = await self.pair()
        server.transport.pauseProducing()  # type: ignore[attr-defined]
        client.transport.loseConnection()
        await self.until(lambda: client.lost)
        await self.settle()
        assert server.lost == []
        server.transport.resumeProducing()  # type: ignore[attr-defined]
        await self.until(lambda: server.lost)
        assert server.lost == [ConnectionDone]

    async def test_writing_to_one_who_is_gone(self) -> None:
        client, server = HalfCloser(), Recorder()
        await self.connect(client, server)
        server.transport.loseConnection()
        await self.until(lambda: client.read_lost)
        client.transport.write(b"hello?")
        await self.settle()
        client.transport.write(b"hello?")
        await self.until(lambda: client.lost)
        assert client.lost == [ConnectionLost]

    async def test_exception_costs_the_connection(self) -> None:
        client, server = Recorder(), Failing()
        await self.connect(client, server)
        client.transport.write(b"x")
        await self.until(lambda: client.lost and server.lost)
        assert server.lost == [ZeroDivisionError]
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1  # type: ignore[attr-defined]

    async def test_addresses(self) -> None:
        client, server = await self.pair()
        assert client.transport.getPeer() == server.transport.getHost()
        assert client.transport.getHost() == server.transport.getPeer()


class PumpContractTests(TransportContract, TestCase):
    """The pump."""

    chunk_size = 64 * KIB

    async def connect(self, client: Recorder, server: Recorder) -> None:
        self.pump = Pump(client, server, chunk_size=self.chunk_size)

    async def until(self, condition: Callable[[], object]) -> None:
        self.pump.flush()
        assert condition()

    async def settle(self) -> None:
        self.pump.flush()


class SmallPiecesContractTests(PumpContractTests):
    """The pump, cutting the bytes into odd pieces."""

    chunk_size = 4093


class TCPContractTests(TransportContract, TestCase):
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
                protocol.transport.abortConnection()  # type: ignore[attr-defined]
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
        for interface in (ITransport, IPushProducer):
            self.assertTrue(verifyObject(interface, pump.client))

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
