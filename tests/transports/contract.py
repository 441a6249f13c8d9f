"""The conversations that every byte stream must support, and the protocols that take part in them.

A test of a transport derives from :class:`ByteStreamContract` or :class:`HalfCloseContract`, and defines ``connect``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IPullProducer, IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.testing.pump import KIB
from ccmproxy.transports.contract import IByteStream


class Recorder(Protocol):
    """Keeps what it receives, and how the connection ended."""

    transport: IByteStream

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
    """A recorder that supports half-close."""

    def __init__(self) -> None:
        super().__init__()
        self.read_lost = self.write_lost = 0

    def readConnectionLost(self) -> None:
        self.read_lost += 1

    def writeConnectionLost(self) -> None:
        self.write_lost += 1


class Failing(Recorder):
    """A recorder that raises when it receives data."""

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
                self.transport.unregisterProducer()

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
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        """Nothing to stop."""


class ByteStreamContract(ABC):
    """Tests that must pass over any byte stream.

    ``enough_to_pause``: more bytes than the stream buffers. ``lost_by_abort``: how the peer's end is lost on an abort.
    """

    enough_to_pause = 300 * KIB
    lost_by_abort: type[Exception] = ConnectionLost

    @abstractmethod
    async def connect(self, client: Recorder, server: Recorder) -> None:
        """Connect the two recorders with each other."""

    @abstractmethod
    async def until(self, condition: Callable[[], object]) -> None:
        """Let bytes pass until ``condition`` holds; fails the test if it never does."""

    @abstractmethod
    async def settle(self) -> None:
        """Let all bytes pass that the transports take."""

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
        server.transport.pauseProducing()
        client.transport.write(b"hello")
        await self.settle()
        assert server.received == b""
        server.transport.resumeProducing()
        await self.until(lambda: server.received == b"hello")

    async def test_slow_reader_pauses_the_producer(self) -> None:
        client, server = await self.pair()
        server.transport.pauseProducing()
        size = 40_000 * KIB
        source = Source(client, size)
        client.transport.registerProducer(source, True)
        source.run()
        await self.settle()
        assert source.paused
        assert source.left > 0
        server.transport.resumeProducing()
        await self.until(lambda: len(server.received) == size)
        assert source.left == 0

    async def test_pull_producer_is_asked_again_and_again(self) -> None:
        client, server = await self.pair()
        client.transport.registerProducer(PullSource(client, 30), False)
        await self.until(lambda: len(server.received) == 300 * KIB)

    async def test_only_one_producer(self) -> None:
        client, _ = await self.pair()
        client.transport.registerProducer(Source(client, 0), True)
        try:
            client.transport.registerProducer(Source(client, 0), True)
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
        client.transport.registerProducer(source, True)
        source.run()
        assert source.paused
        client.transport.loseConnection()
        await self.until(lambda: client.lost and server.lost)
        assert len(server.received) == self.enough_to_pause

    async def test_abort(self) -> None:
        client, server = await self.pair()
        client.transport.abortConnection()
        assert client.lost == []
        await self.until(lambda: client.lost and server.lost)
        assert client.lost == [ConnectionAborted]
        assert server.lost == [self.lost_by_abort]

    async def test_lost_connection_stops_the_producer(self) -> None:
        client, server = await self.pair()
        source = Source(client, 100)
        client.transport.registerProducer(source, True)
        server.transport.loseConnection()
        await self.until(lambda: client.lost)
        assert source.stops == 1
        client.transport.registerProducer(source, True)
        assert source.stops == 2

    async def test_paused_reader_does_not_learn_of_the_end(self) -> None:
        client, server = await self.pair()
        server.transport.pauseProducing()
        client.transport.loseConnection()
        await self.until(lambda: client.lost)
        await self.settle()
        assert server.lost == []
        server.transport.resumeProducing()
        await self.until(lambda: server.lost)
        assert server.lost == [ConnectionDone]

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


class HalfCloseContract(ByteStreamContract):
    """Tests of a stream that supports half-close too, which TLS does not."""

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


class InMemory(ByteStreamContract):
    """Mixin for an in-memory transport, on which bytes move only when the test says so."""

    @abstractmethod
    def flush(self) -> None:
        """Carry all bytes to their destinations."""

    async def until(self, condition: Callable[[], object]) -> None:
        self.flush()
        assert condition()

    async def settle(self) -> None:
        self.flush()


class Building(Factory):
    """A factory that builds protocols by ``build``. ``built``: all of them. ``started``, ``stopped``: counts."""

    noisy = False

    def __init__(self, build: Callable[[], Any] = Recorder) -> None:
        self.build = build
        self.built: list[Any] = []
        self.started = self.stopped = 0

    def buildProtocol(self, addr: object) -> Any:
        protocol = self.build()
        self.built.append(protocol)
        return protocol

    def startFactory(self) -> None:
        self.started += 1

    def stopFactory(self) -> None:
        self.stopped += 1
