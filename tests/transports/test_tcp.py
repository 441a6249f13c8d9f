"""Bytes go to the kernel at once and in order, and none are lost when the kernel's buffer is full."""

from __future__ import annotations

import socket
import struct
from fcntl import ioctl
from termios import FIONREAD
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from ccmproxy.testing.pump import Pump
from ccmproxy.transports.tcp import (
    READ_SIZE,
    direct_gatherer,
    direct_writer,
    limit_unsent,
    set_read_size,
)


class Receiver(Protocol):
    """Keeps what it receives; may stop reading."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.reads: list[int] = []
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.received += data
        self.reads.append(len(data))

    def connectionLost(self, reason: object = None) -> None:
        """Say so."""
        self.lost.callback(None)


@implementer(IPushProducer)
class Producer:
    """Remembers whether it is paused."""

    paused = False

    def pauseProducing(self) -> None:
        """Paused."""
        self.paused = True

    def resumeProducing(self) -> None:
        """Not any more."""
        self.paused = False

    def stopProducing(self) -> None:
        """Nothing."""


def bytes_waiting(transport: Any) -> int:
    """How much the kernel holds that was not read yet."""
    (size,) = struct.unpack("i", ioctl(transport.getHandle(), FIONREAD, bytes(4)))
    assert isinstance(size, int)
    return size


class TCPTests(TestCase):
    """On real sockets of the loopback address."""

    def setUp(self) -> None:
        from twisted.internet import reactor  # noqa: TID251  # trial's own

        self.reactor: Any = reactor

    async def connect(self) -> tuple[Any, Receiver]:
        server: list[Receiver] = []

        def build() -> Receiver:
            server.append(Receiver())
            return server[-1]

        port = await TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1").listen(
            Factory.forProtocol(build)
        )
        self.addCleanup(port.stopListening)
        client: Any = await TCP4ClientEndpoint(self.reactor, "127.0.0.1", port.getHost().port).connect(
            Factory.forProtocol(Receiver)
        )
        assert client.transport is not None
        while not server:
            await deferLater(self.reactor, 0.001)

        async def close() -> None:
            assert client.transport is not None
            client.transport.abortConnection()
            await client.lost
            await server[0].lost

        self.addCleanup(lambda: Deferred.fromCoroutine(close()))
        return client, server[0]

    def test_at_once(self) -> Deferred[None]:
        async def test() -> None:
            client, server = await self.connect()
            write = direct_writer(client.transport)
            write(b"hello")
            # Nothing is queued: the kernel has the data before the reactor's next turn.
            self.assertEqual(client.transport._tempDataBuffer, [])
            while server.received != b"hello":
                await deferLater(self.reactor, 0.001)

        return Deferred.fromCoroutine(test())

    def test_large_reads(self) -> Deferred[None]:
        async def test() -> None:
            client, server = await self.connect()
            reading: Any = server.transport
            for size in (300_000, READ_SIZE):
                set_read_size(reading, size)
                reading.pauseProducing()
                server.reads.clear()
                client.transport.write(bytes(400_000))
                while bytes_waiting(reading) <= READ_SIZE:
                    await deferLater(self.reactor, 0.001)
                reading.resumeProducing()
                while sum(server.reads) < 400_000:
                    await deferLater(self.reactor, 0.001)
                self.assertLessEqual(max(server.reads), size)
                self.assertEqual(max(server.reads) > READ_SIZE, size > READ_SIZE)

        return Deferred.fromCoroutine(test())

    def test_what_the_kernel_does_not_take_follows_in_order(self) -> Deferred[None]:
        async def test() -> None:
            client, server = await self.connect()
            producer = Producer()
            client.transport.registerProducer(producer, True)
            assert server.transport is not None
            server.transport.pauseProducing()  # type: ignore[attr-defined]
            write = direct_writer(client.transport)
            sent = bytearray()
            for number in range(200):
                piece = bytes([number]) * 50_000
                sent += piece
                write(piece)
            self.assertTrue(producer.paused, "the transport's back-pressure holds")
            server.transport.resumeProducing()  # type: ignore[attr-defined]
            while len(server.received) < len(sent):
                await deferLater(self.reactor, 0.001)
            self.assertEqual(server.received, sent)
            self.assertFalse(producer.paused)
            client.transport.unregisterProducer()

        return Deferred.fromCoroutine(test())

    def test_two_pieces_at_once(self) -> Deferred[None]:
        """The kernel takes both, the first, part of one of them, or nothing: they follow in order all the same."""

        async def test() -> None:
            for head_size, payload_size in ((10, 1000), (10, 20_000_000), (20_000_000, 1000)):
                client, server = await self.connect()
                head = b"h" * head_size
                payload = bytearray(b"p" * payload_size)
                write = direct_gatherer(client.transport)
                write(head, payload)
                if head_size + payload_size < 10_000:
                    self.assertEqual(client.transport._tempDataBuffer, [])
                client.transport.write(b", queued, ")
                write(b"head", b"payload")
                sent = head + payload + b", queued, headpayload"
                while len(server.received) < len(sent):
                    await deferLater(self.reactor, 0.001)
                self.assertEqual(server.received, sent)

        return Deferred.fromCoroutine(test())

    def test_a_broken_connection_is_the_transports_business(self) -> Deferred[None]:
        async def test() -> None:
            client, server = await self.connect()
            write = direct_writer(client.transport)
            assert server.transport is not None
            server.transport.abortConnection()  # type: ignore[attr-defined]
            await server.lost
            for _ in range(10):
                write(b"x" * 1000)
            await client.lost
            client.lost = Deferred()
            write(b"after the end")
            client.lost.callback(None)
            server.lost = Deferred()
            server.lost.callback(None)

        return Deferred.fromCoroutine(test())

    def test_two_pieces_on_a_broken_connection(self) -> Deferred[None]:
        async def test() -> None:
            client, server = await self.connect()
            write = direct_gatherer(client.transport)
            assert server.transport is not None
            server.transport.abortConnection()  # type: ignore[attr-defined]
            await server.lost
            for _ in range(10):
                write(b"x" * 10, b"x" * 1000)
            await client.lost
            client.lost = Deferred()
            write(b"after", b"the end")
            client.lost.callback(None)
            server.lost = Deferred()
            server.lost.callback(None)

        return Deferred.fromCoroutine(test())


class OtherTransportTests(SynchronousTestCase):
    """Transports other than Twisted's plain TCP connections."""

    def test_its_own_write(self) -> None:
        client, server = Receiver(), Receiver()
        pump = Pump(client, server)
        self.assertEqual(direct_writer(pump.client), pump.client.write)

    def test_two_pieces_become_one(self) -> None:
        client, server = Receiver(), Receiver()
        pump = Pump(client, server)
        direct_gatherer(pump.client)(b"head, ", bytearray(b"payload"))
        pump.flush()
        self.assertEqual(server.received, b"head, payload")

    def test_its_own_reads(self) -> None:
        pump = Pump(Receiver(), Receiver())
        set_read_size(pump.client, 1)
        self.assertFalse(hasattr(pump.client, "bufferSize"))


class UnsentTests(SynchronousTestCase):
    """The limit of unsent data in the kernel; the tests of sessions check it on a real connection."""

    def test_where_it_cannot_be_said(self) -> None:
        """Transports without a socket, or with a closed one, are left alone."""
        limit_unsent(Pump(Receiver(), Receiver()).client, 1000)
        with socket.socket() as gone:
            pass
        transport = StringTransport()
        transport.getHandle = lambda: gone  # type: ignore[attr-defined]
        limit_unsent(transport, 1000)
