"""Tests for :mod:`ccmproxy.proxy.websocket.leg`: back-pressure, pings and closes of one side."""

from __future__ import annotations

import socket
import zlib

from twisted.internet.error import ConnectionLost
from twisted.internet.tcp import Connection as TCPConnection
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.proxy.body_memory import BodyMemory
from ccmproxy.proxy.context import ProxyOptions
from ccmproxy.proxy.websocket.leg import CLOSE_TIME, LONGEST_READ, Leg
from ccmproxy.transports.tcp import READ_SIZE
from ccmproxy.websocket.connection import Close, Connection, Message, Ping, Pong, ProtocolError
from ccmproxy.websocket.frame_head import frame_head
from tests.proxy.websocket.scene import COMPLETED, CREATE, DELTA, Scene, Socket

KIB = 1024
MIB = 1024 * KIB


class BackPressureTests(SynchronousTestCase):
    """A side that does not read stops the other side, and no buffer grows."""

    def stop(self, socket: Socket) -> None:
        """Stop reading."""
        socket.transport.pauseProducing()

    def test_a_slow_client(self) -> None:
        scene = Scene(self)
        client, upstream = scene.connected()
        pump = scene.proxy_listener.connections[-1]
        self.stop(client)
        piece = bytes(10 * KIB)
        for _ in range(2000):
            upstream.say(piece, False)
        scene.settle()
        self.assertLess(pump.server.peak, 300 * KIB)
        self.assertGreater(upstream.transport.buffered, 18 * MIB)
        client.transport.resumeProducing()
        scene.settle()
        self.assertEqual(len(client.messages), 2000)
        self.assertEqual(upstream.transport.buffered, 0)

    def test_a_slow_upstream(self) -> None:
        scene = Scene(self)
        client, upstream = scene.connected()
        pump = scene.upstream_listener.connections[-1]
        self.stop(upstream)
        for _ in range(2000):
            client.say(bytes(10 * KIB), False)
        scene.settle()
        self.assertLess(pump.client.peak, 300 * KIB)
        upstream.transport.resumeProducing()
        scene.settle()
        self.assertEqual(len(upstream.messages), 2000)

    def test_little_that_becomes_much(self) -> None:
        """The compressed messages of one read are inflated at the pace of the other side, not all at once."""
        scene = Scene(self)
        scene.on_asked = lambda socket: socket.accept(compress=True)
        client, upstream = scene.connected()
        pump = scene.proxy_listener.connections[-1]
        self.stop(client)
        for _ in range(300):
            upstream.say(bytes(200 * KIB), False)
        scene.settle()
        self.assertLess(pump.server.peak, 500 * KIB)
        client.transport.resumeProducing()
        scene.settle()
        self.assertEqual(len(client.messages), 300)

    def test_only_so_much_in_one_turn(self) -> None:
        """F63: a read of 64 KiB may hold ten thousand messages."""
        scene = Scene(self)
        client, upstream = scene.connected()
        for _ in range(4000):
            upstream.say(b"x", False)
        scene.network.flush()
        self.assertGreater(len(client.messages), 0)
        self.assertLess(len(client.messages), 400)
        scene.settle()
        self.assertEqual(len(client.messages), 4000)

    def test_one_message_that_becomes_much(self) -> None:
        scene = Scene(self)
        scene.on_asked = lambda socket: socket.accept(compress=True)
        client, upstream = scene.connected()
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = (packer.compress(bytes(30 * MIB)) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
        upstream.transport.write(frame_head(0xC2, len(packed), False) + packed)
        scene.network.flush()
        self.assertEqual(client.messages, [])
        scene.settle()
        self.assertEqual(len(client.messages), 1)
        upstream.close(4000)
        scene.settle()
        self.assertEqual([len(data) for data in client.messages], [30 * MIB])
        self.assertEqual(client.code, 4000)

    def test_gone_between_two_turns(self) -> None:
        """The end is told behind what had come before it."""
        scene = Scene(self)
        client, upstream = scene.connected()
        for _ in range(4000):
            upstream.say(b"x", False)
        scene.network.flush()
        upstream.transport.abortConnection()
        scene.network.flush()
        # As a failing write would tell: the pump tells nothing to an end that does not read.
        scene.upstream_listener.connections[-1].client._disconnect(ConnectionLost())
        scene.network.flush()
        self.assertIsNone(client.lost)
        scene.settle()
        self.assertIsNotNone(client.lost)

    def test_the_rest_of_who_is_gone(self) -> None:
        """Messages received before the end of the upstream, and its close, are passed on at the client's pace."""
        for polite in (True, False):
            scene = Scene(self)
            scene.on_asked = lambda socket: socket.accept(compress=True)
            client, upstream = scene.connected()
            self.stop(client)
            for _ in range(50):
                upstream.say(bytes(200 * KIB), False)
            if polite:
                upstream.close(4000)
            scene.settle()
            upstream.transport.loseConnection()
            scene.settle()
            client.transport.resumeProducing()
            scene.settle()
            self.assertEqual(len(client.messages), 50)
            self.assertEqual(client.code, 4000 if polite else None)
            client.transport.loseConnection()

    def test_the_rest_of_who_broke_off(self) -> None:
        """If the connection breaks while the client does not read, the client still gets what had been received."""
        scene = Scene(self)
        scene.on_asked = lambda socket: socket.accept(compress=True)
        client, upstream = scene.connected()
        self.stop(client)
        for _ in range(20):
            upstream.say(bytes(200 * KIB), False)
        scene.settle()
        upstream.transport.abortConnection()
        scene.settle()
        # As a failing write would tell: the pump tells nothing to an end that does not read.
        scene.upstream_listener.connections[-1].client._disconnect(ConnectionLost())
        scene.settle()
        self.assertIsNone(client.lost)
        client.transport.resumeProducing()
        scene.settle()
        self.assertEqual(len(client.messages), 20)
        self.assertIsNotNone(client.lost)

    def test_who_never_reads_is_dropped(self) -> None:
        scene = Scene(self, options=ProxyOptions(client_stall_timeout=60))
        client, upstream = scene.connected()
        self.stop(client)
        for _ in range(100):
            upstream.say(bytes(10 * KIB), False)
        scene.pass_time(58)
        self.assertIsNone(upstream.lost)
        scene.pass_time(5)
        self.assertIsNotNone(upstream.lost)
        self.assertEqual(scene.results(), ["stalled"])

    def test_pings_of_who_does_not_read(self) -> None:
        """Only the most recent ping is answered, when the peer reads again."""
        scene = Scene(self)
        client, upstream = scene.connected()
        pump = scene.proxy_listener.connections[-1]
        self.stop(client)
        upstream.say(bytes(300 * KIB), False)
        scene.settle()
        written = pump.server.written
        assert client.connection is not None
        for number in range(10_000):
            client.transport.write(client.connection.send_ping(b"%d" % number))
        scene.settle()
        self.assertEqual(pump.server.written, written)
        client.transport.resumeProducing()
        scene.settle()
        self.assertEqual([each for each in client.events if isinstance(each, Pong)], [Pong(b"9999")])


class Owner:
    """Whoever holds a leg: keeps the messages."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def message(self, leg: Leg, message: Message) -> None:
        """See LegOwner."""
        self.messages.append(message)

    def closed(self, leg: Leg, close: Close) -> None:
        """See LegOwner."""

    def failed(self, leg: Leg, error: ProtocolError) -> None:
        """See LegOwner."""

    def crashed(self, leg: Leg) -> None:
        """See LegOwner."""

    def drained(self, leg: Leg) -> None:
        """See LegOwner."""

    def lost(self, leg: Leg) -> None:
        """See LegOwner."""


class ReadingTests(SynchronousTestCase):
    """How much is read at once."""

    def test_the_rest_of_a_long_frame(self) -> None:
        """It is read at once, while it comes as fast as it is read; never more, and the usual size after it."""
        clock, owner = MemoryReactorClock(), Owner()
        left, right = socket.socketpair()
        self.addCleanup(left.close)
        self.addCleanup(right.close)
        leg = Leg(owner, Connection(lambda: bytes(4)), clock, BodyMemory().reservation("", 64 * MIB))
        leg.other = leg
        transport = TCPConnection(left, leg, clock)
        leg.makeConnection(transport)
        leg.pump()
        sender = Connection(None)
        for size, reads, expected in (
            (300_000, (READ_SIZE,), 300_010 - READ_SIZE),
            (300_000, (READ_SIZE, 100_000), 200_010 - READ_SIZE),
            (300_000, (READ_SIZE, 1000), READ_SIZE),
            (300_000, (1000, READ_SIZE), 299_010 - READ_SIZE),
            (300_000, (READ_SIZE, 100_000, 100_000), READ_SIZE),
            (5 * MIB, (READ_SIZE,), LONGEST_READ),
            (300_000, (READ_SIZE, 300_010 - READ_SIZE), READ_SIZE),
        ):
            wire = b"\x82\x7f" + size.to_bytes(8, "big") + bytes(size)
            for read in reads:
                leg.dataReceived(wire[:read])
                wire = wire[read:]
            self.assertEqual(transport.bufferSize, expected, (size, reads))
            while wire:
                read = transport.bufferSize
                leg.dataReceived(wire[:read])
                wire = wire[read:]
            leg.dataReceived(sender.send_message(b"short", True))
            self.assertEqual(transport.bufferSize, READ_SIZE)
        self.assertEqual([len(each.data) for each in owner.messages[::2]], [300_000] * 5 + [5 * MIB, 300_000])


class PingTests(SynchronousTestCase):
    """Pings are answered by the proxy, and not relayed."""

    def test_answered_on_each_side(self) -> None:
        scene = Scene(self)
        client, upstream = scene.connected()
        for one, other in ((client, upstream), (upstream, client)):
            assert one.connection is not None
            one.transport.write(one.connection.send_ping(b"hi") + one.connection.send_pong(b"unasked"))
            scene.settle()
            self.assertEqual(one.events, [Pong(b"hi")])
            self.assertEqual([each for each in other.events if isinstance(each, Ping)], [])


class CloseTests(SynchronousTestCase):
    """Both sides close, or are closed."""

    def test_an_upstream_that_does_not_answer_a_close(self) -> None:
        scene = Scene(self)
        client, upstream = scene.connected()
        client.close(1000)
        scene.settle()
        self.assertIsNotNone(client.lost)
        self.assertIsNone(upstream.lost)
        scene.pass_time(int(CLOSE_TIME) + 1)
        self.assertIsNotNone(upstream.lost)

    def test_a_client_that_does_not_answer_a_close(self) -> None:
        scene = Scene(self)
        client, upstream = scene.connected()
        upstream.close(1000)
        scene.settle()
        self.assertIsNone(client.lost)
        for _ in range(3):
            client.say(CREATE)
            scene.pass_time(2)
        scene.pass_time(1)
        self.assertIsNotNone(client.lost)
        self.assertEqual(upstream.messages, [])

    def test_a_close_that_says_nonsense(self) -> None:
        """An invalid close is answered with an error, and the connection ends without waiting for another close."""
        for payload, code in ((b"\x03", 1002), (b"\x03\xed", 1002), (b"\x03\xe8\xff", 1007)):
            scene = Scene(self)
            client, upstream = scene.connected()
            client.transport.write(bytes((0x88, 0x80 | len(payload), 0, 0, 0, 0)) + payload)
            scene.settle()
            self.assertEqual((client.code, upstream.code), (code, 1001))
            self.assertIsNotNone(client.lost)

    def test_garbage_in_place_of_an_answer(self) -> None:
        scene = Scene(self)
        client, upstream = scene.connected()
        upstream.close(1000)
        scene.settle()
        client.transport.write(b"\xff\xff\xff")
        scene.settle()
        self.assertIsNotNone(client.lost)

    def test_a_slow_client_gets_the_rest_before_the_close(self) -> None:
        """This may take longer than the time-out for the answer to a close."""
        scene = Scene(self)
        client, upstream = scene.connected()
        client.transport.pauseProducing()
        client.say(CREATE)
        scene.settle()
        upstream.say(DELTA + b" " * 300 * KIB)
        upstream.say(COMPLETED)
        upstream.close(1012)
        scene.settle()
        scene.pass_time(60)
        self.assertIsNone(client.lost)
        client.transport.resumeProducing()
        scene.settle()
        self.assertEqual((len(client.messages), client.code), (2, 1012))
        client.close(1012)
        scene.settle()
        self.assertIsNotNone(client.lost)
