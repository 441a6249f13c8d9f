"""Tests for :mod:`ccmproxy.reverse.carrier`: sessions as a whole."""

from __future__ import annotations

import socket
import sys
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from zope.interface.verify import verifyObject

from ccmproxy.reverse import SessionLost, StreamAborted, StreamNotOpened, YamuxProtocol
from ccmproxy.reverse.stream_transport import HIGH_MARK
from ccmproxy.testing.pump import KIB, Pump
from ccmproxy.yamux.frames import ACK, DATA, GO_AWAY, PING, RST, SYN, WINDOW_UPDATE
from tests.reverse.sessions import SessionPair, StreamRecorder
from tests.transports.contract import Building, Source
from tests.yamux.sides import described, frame

MIB = 1024 * KIB


class Echo(StreamRecorder):
    """Says everything back."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.write(data)


class Peer(Protocol):
    """The peer of a session, played by the test: it sends and records bytes."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True

    def says(self) -> list[str]:
        """Return the frames received since the last call, in words."""
        data = bytes(self.received)
        self.received.clear()
        return described(data)


class Scene:
    """A session whose peer the test plays."""

    def __init__(self, acceptor: Building | None = None, *, is_client: bool = False, **options: Any) -> None:
        self.clock = Clock()
        self.acceptor = acceptor or Building()
        self.session = YamuxProtocol(self.clock, is_client, self.acceptor)
        self.peer = Peer()
        self.pump = Pump(self.peer, self.session, **options)

    def answers(self, data: bytes) -> list[str]:
        """Send ``data`` to the session; return the frames that it answers."""
        self.peer.transport.write(data)
        self.pump.flush()
        return self.peer.says()

    def wait(self, seconds: float) -> list[str]:
        """Let ``seconds`` pass; return the frames that the session sends meanwhile."""
        while seconds > 0:
            self.clock.advance(min(1.0, seconds))
            self.pump.flush()
            seconds -= 1.0
        return self.peer.says()


class StreamsTests(SynchronousTestCase):
    """Many streams at a time on one carrier."""

    def test_interfaces(self) -> None:
        self.assertTrue(verifyObject(IPushProducer, SessionPair().client))

    def test_the_kernel_holds_little(self) -> None:
        """The limit is set on every transport with a socket, TLS included: answers to pings wait behind that data."""
        if sys.platform != "linux":
            raise SkipTest("the option has another number, or none")
        with socket.socket() as carrier:
            transport = StringTransport()
            transport.getHandle = lambda: carrier  # type: ignore[attr-defined]
            YamuxProtocol(Clock(), True).makeConnection(transport)
            self.assertEqual(carrier.getsockopt(socket.IPPROTO_TCP, 25), 128 * KIB)

    def test_bulk_both_ways(self) -> None:
        pair = SessionPair()
        ends = [pair.stream() for _ in range(3)]
        for number, (near, far) in enumerate(ends):
            near.transport.write(bytes([number]) * (2 * MIB + number))
            far.transport.write(bytes([100 + number]) * (3 * MIB + number))
        pair.flush()
        for number, (near, far) in enumerate(ends):
            self.assertTrue(far.received == bytes([number]) * (2 * MIB + number))
            self.assertTrue(near.received == bytes([100 + number]) * (3 * MIB + number))
        self.assertEqual(pair.client._transports[ends[0][0].transport.stream], ends[0][0].transport)

    def test_byte_by_byte(self) -> None:
        pair = SessionPair(Building(Echo), chunk_size=1)
        near, _ = pair.stream()
        near.transport.write(b"hello")
        pair.flush()
        near.transport.loseConnection()
        pair.flush()
        self.assertEqual((near.received, pair.accepted[0].received), (b"hello", b"hello"))
        self.assertEqual((near.lost, pair.accepted[0].lost), ([ConnectionDone], [ConnectionDone]))

    def test_slow_reader_does_not_slow_others(self) -> None:
        pair = SessionPair()
        slow, slow_far = pair.stream()
        slow_far.transport.pauseProducing()
        slow.transport.write(bytes(4 * MIB))
        quick, quick_far = pair.stream()
        quick.transport.write(bytes(4 * MIB))
        pair.flush()
        self.assertEqual((len(slow_far.received), len(quick_far.received)), (0, 4 * MIB))
        self.assertTrue(pair.pump.server.reading)
        slow_far.transport.resumeProducing()
        pair.flush()
        self.assertEqual(len(slow_far.received), 4 * MIB)

    def test_carrier_is_always_read(self) -> None:
        """The carrier is not paused while a stream is, nor while its own output is blocked."""
        pair = SessionPair()
        for near, far in [pair.stream() for _ in range(5)]:
            near.transport.pauseProducing()
            far.transport.pauseProducing()
            near.transport.write(bytes(MIB))
            far.transport.write(bytes(MIB))
        pair.flush()
        self.assertTrue(pair.pump.client.reading and pair.pump.server.reading)

    def test_short_one_between_long_ones(self) -> None:
        """The short stream is sent after at most one frame of each other stream, and what the carrier holds already."""
        pair = SessionPair(wire_size=KIB, chunk_size=KIB)
        for _ in range(4):
            pair.stream()[0].transport.write(bytes(256 * KIB))
        near, far = pair.open(), None
        near.transport.write(b"short")
        before = sum(len(protocol.received) for protocol in pair.accepted)
        while far is None or not far.received:
            pair.pump.advance()
            far = next((found for found in pair.accepted if found.transport.stream.id == 9), None)
        after = sum(len(protocol.received) for protocol in pair.accepted)
        self.assertLess(after - before, (5 * 32 + 64 + 32) * KIB)

    def test_memory_is_bounded(self) -> None:
        """While the carrier takes nothing, data stays in the queue of its stream, and the producer is paused."""
        pair = SessionPair(wire_size=KIB)
        pair.pump.client.held = True
        sources = []
        for _ in range(10):
            near = pair.open()
            sources.append(source := Source(near, 100 * MIB))
            near.transport.registerProducer(source, True)
            source.run()
        pair.flush()
        self.assertTrue(all(source.paused for source in sources))
        self.assertLess(pair.pump.client.peak, (64 + 64 + 32) * KIB)
        for near in list(pair.client._transports.values()):
            self.assertLessEqual(near.stream.queue.size, HIGH_MARK + 10 * KIB)

    def test_more_than_a_backlog(self) -> None:
        """A stream that was given to a protocol does not count against the accept backlog."""
        scene = Scene()
        for first in (1, 401, 801):
            numbers = range(first, first + 400, 2)
            said = scene.answers(b"".join(frame(WINDOW_UPDATE, SYN, number) for number in numbers))
            self.assertEqual(said, [f"WUPD|ACK id={number} len=262144" for number in numbers])

    def test_a_protocol_that_fails_at_once(self) -> None:
        """The protocol is told nothing more, and only its own stream is reset."""

        class Bad(StreamRecorder):
            def connectionMade(self) -> None:
                raise ZeroDivisionError

        scene = Scene(Building(Bad))
        self.assertEqual(
            scene.answers(frame(WINDOW_UPDATE, SYN, 1)), ["WUPD|ACK id=1 len=262144", "WUPD|RST id=1 len=0"]
        )
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertTrue(scene.session.is_usable)
        scene.peer.transport.abortConnection()
        scene.pump.flush()
        self.assertEqual(scene.acceptor.built[0].lost, [])

    def test_opened_and_reset_at_once(self) -> None:
        """A stream that is reset before it is accepted is not given to a protocol."""
        scene = Scene()
        said = scene.answers(frame(WINDOW_UPDATE, SYN, 1) + frame(WINDOW_UPDATE, RST, 1))
        self.assertEqual(said, ["WUPD|ACK id=1 len=262144"])
        self.assertEqual((scene.acceptor.built, scene.session.streams), ([], 0))
        self.assertTrue(scene.session.is_usable)

    def test_reset_while_others_go_on(self) -> None:
        pair = SessionPair()
        first, second = pair.stream()[0], pair.stream()[0]
        first.transport.write(bytes(MIB))
        second.transport.write(bytes(MIB))
        first.transport.abortConnection()
        pair.flush()
        self.assertEqual(pair.accepted[0].lost, [StreamAborted])
        self.assertEqual(len(pair.accepted[1].received), MIB)

    def test_both_sides_open(self) -> None:
        pair = SessionPair()
        pair.client.acceptor = Building(Echo)
        near: Any = self.successResultOf(pair.server.open(Building()))
        near.transport.write(b"from the server")
        pair.flush()
        self.assertEqual((near.transport.stream.id, near.received), (2, b"from the server"))

    def test_addresses(self) -> None:
        near, far = SessionPair().stream()
        self.assertEqual(near.transport.getPeer().carrier.port, 8080)
        self.assertEqual(far.transport.getPeer().host, "127.0.0.1")

    def test_repr(self) -> None:
        pair = SessionPair()
        self.assertIn("0 streams", repr(pair.client))
        self.assertIn("None", repr(YamuxProtocol(Clock(), True)))


class LivenessTests(SynchronousTestCase):
    """Pings, and carriers that stop taking data."""

    def test_keepalive(self) -> None:
        scene = Scene()
        self.assertEqual(scene.wait(14), [])
        self.assertEqual(scene.wait(1), ["PING|SYN id=0 len=0"])
        scene.clock.advance(9)
        self.assertEqual(scene.answers(frame(PING, ACK, 0, 0)), [])
        self.assertEqual(scene.wait(14.5), [])
        self.assertEqual(scene.wait(1), ["PING|SYN id=0 len=1"])
        self.assertTrue(scene.session.is_usable)

    def test_timer_is_left_alone(self) -> None:
        """The timer is not set anew with every frame."""
        scene = Scene()
        (timer,) = scene.clock.getDelayedCalls()
        for _ in range(10):
            scene.clock.advance(0.7)
            scene.answers(frame(PING, SYN, 0, 1))
            self.assertEqual(scene.clock.getDelayedCalls(), [timer])

    def test_timer_that_would_be_too_late(self) -> None:
        scene = Scene()
        scene.session.pauseProducing()
        self.assertEqual([call.getTime() for call in scene.clock.getDelayedCalls()], [10.0])

    def test_two_of_ours_live_on(self) -> None:
        pair = SessionPair()
        near, far = pair.stream()
        pair.wait(200)
        self.assertEqual((near.lost, far.lost), ([], []))

    def test_dead_peer(self) -> None:
        scene = Scene()
        lost = scene.session.when_lost()
        scene.peer.transport.write(frame(WINDOW_UPDATE, SYN, 1))
        scene.pump.flush()
        scene.pump.client.held = True
        scene.wait(24)
        self.assertTrue(scene.session.is_usable)
        scene.wait(2)
        self.assertEqual(scene.acceptor.built[0].lost, [SessionLost])
        self.assertEqual(str(self.successResultOf(lost)), "no answer to a ping within 10 seconds")
        self.assertEqual((scene.peer.lost, scene.clock.getDelayedCalls()), (True, []))

    def test_carrier_that_takes_nothing(self) -> None:
        scene = Scene(wire_size=KIB)
        lost = scene.session.when_lost()
        scene.peer.transport.write(frame(WINDOW_UPDATE, SYN, 1))
        scene.pump.flush()
        scene.pump.server.held = True
        (stream,) = scene.acceptor.built
        stream.transport.write(bytes(256 * KIB))
        scene.wait(9)
        self.assertEqual(stream.lost, [])
        scene.wait(2)
        self.assertEqual(stream.lost, [SessionLost])
        self.assertEqual(str(self.successResultOf(lost)), "the peer took nothing for 10 seconds")

    def test_slow_carrier_is_not_a_dead_one(self) -> None:
        scene = Scene(wire_size=KIB, chunk_size=16 * KIB)
        scene.peer.transport.write(frame(WINDOW_UPDATE, SYN, 1))
        scene.pump.flush()
        (stream,) = scene.acceptor.built
        stream.transport.write(bytes(256 * KIB))
        while stream.transport.stream.queue.size:
            scene.clock.advance(0.1)
            scene.pump.advance()
        self.assertTrue(scene.session.is_usable)

    def test_pings_pass_a_full_carrier(self) -> None:
        scene = Scene(wire_size=KIB)
        scene.peer.transport.write(frame(WINDOW_UPDATE, SYN, 1))
        scene.pump.flush()
        scene.pump.server.held = True
        scene.acceptor.built[0].transport.write(bytes(256 * KIB))
        scene.pump.flush()
        queued = scene.pump.server.buffered
        scene.peer.transport.write(frame(PING, SYN, 0, 7))
        scene.pump.flush()
        self.assertEqual(scene.pump.server.buffered, queued + 12)
        self.assertGreater(scene.acceptor.built[0].transport.stream.queue.size, 0)
        scene.pump.server.held = False
        scene.pump.flush()
        said = scene.peer.says()
        at = said.index("PING|ACK id=0 len=7")
        self.assertTrue(any(words.startswith("DATA") for words in said[at:]))

    def test_ping(self) -> None:
        pair = SessionPair()
        answer = pair.client.ping()
        pair.clock.advance(2)
        pair.flush()
        self.assertEqual(self.successResultOf(answer), 2)
        answer = pair.client.ping()
        pair.pump.client.abortConnection()
        pair.flush()
        self.failureResultOf(answer, SessionLost)
        self.failureResultOf(pair.client.ping(), SessionLost)


class EndTests(SynchronousTestCase):
    """The end of sessions."""

    def test_protocol_error(self) -> None:
        """After a protocol error the peer gets GO_AWAY and all streams are lost; nothing raises."""
        for chunk_size in (1, 64 * KIB):
            scene = Scene(chunk_size=chunk_size)
            lost = scene.session.when_lost()
            self.assertEqual(scene.answers(frame(WINDOW_UPDATE, SYN, 1)), ["WUPD|ACK id=1 len=262144"])
            self.assertEqual(scene.answers(b"GET / HTTP/1"), ["GOAWAY id=0 len=1"])
            self.assertEqual(scene.acceptor.built[0].lost, [SessionLost])
            self.assertEqual(str(self.successResultOf(lost)), "version 71 of the protocol is not known")
            self.assertEqual((scene.peer.lost, scene.clock.getDelayedCalls()), (True, []))

    def test_told_before_the_connection_is_closed(self) -> None:
        """GO_AWAY is written before loseConnection: some transports send nothing that is written after it."""
        sent = []

        class Carrier(StringTransport):
            def loseConnection(self) -> None:
                sent.append(self.value())

        session = YamuxProtocol(Clock(), False)
        session.makeConnection(Carrier())
        session.dataReceived(b"GET / HTTP/1")
        self.assertEqual(described(sent[0]), ["GOAWAY id=0 len=1"])

    def test_protocol_error_while_the_carrier_is_full(self) -> None:
        """The session does not wait forever for the peer to read the GO_AWAY."""
        scene = Scene(wire_size=KIB)
        scene.peer.transport.write(frame(WINDOW_UPDATE, SYN, 1))
        scene.pump.flush()
        scene.pump.server.held = True
        scene.acceptor.built[0].transport.write(bytes(256 * KIB))
        scene.peer.transport.write(b"GET / HTTP/1.1\r\n\r\n")
        scene.pump.flush()
        lost = scene.session.when_lost()
        self.assertNoResult(lost)
        scene.wait(10)
        self.successResultOf(lost)

    def test_protocol_error_while_it_is_being_closed(self) -> None:
        scene = Scene()
        scene.answers(frame(WINDOW_UPDATE, SYN, 1))
        closed = scene.session.close(100)
        self.assertEqual(scene.answers(b"GET / HTTP/1")[-1], "GOAWAY id=0 len=1")
        self.successResultOf(closed)
        self.assertEqual(scene.clock.getDelayedCalls(), [])

    def test_told_that_the_peer_leaves(self) -> None:
        """An exception of ``on_peer_leaving`` is logged, and the session continues."""

        def fail() -> None:
            raise ZeroDivisionError

        scene = Scene()
        scene.answers(frame(WINDOW_UPDATE, SYN, 1))
        scene.session.on_peer_leaving = fail
        scene.answers(frame(GO_AWAY, 0, 0, 0) + frame(DATA, 0, 1, payload=b"goes on"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(scene.acceptor.built[0].received, b"goes on")

    def test_peer_fails(self) -> None:
        scene = Scene()
        lost = scene.session.when_lost()
        self.assertEqual(scene.answers(frame(GO_AWAY, 0, 0, 2)), [])
        self.assertIn("internal error", str(self.successResultOf(lost)))

    def test_carrier_is_closed(self) -> None:
        """Even an orderly end of the carrier is a loss for the streams on it."""
        scene = Scene()
        scene.answers(frame(WINDOW_UPDATE, SYN, 1) + frame(DATA, 0, 1, payload=b"half of it"))
        scene.peer.transport.loseConnection()
        scene.pump.flush()
        self.assertEqual(scene.acceptor.built[0].lost, [SessionLost])
        reason = self.successResultOf(scene.session.when_lost())
        self.assertEqual(str(reason), "the connection was lost: Connection was closed cleanly.")

    def test_close_without_streams(self) -> None:
        pair = SessionPair()
        near, _ = pair.stream()
        near.transport.loseConnection()
        pair.flush()
        closed = pair.client.close()
        self.assertFalse(pair.client.is_usable)
        pair.flush()
        self.successResultOf(closed)
        self.assertTrue(pair.pump.closed)
        self.assertEqual(pair.clock.getDelayedCalls(), [])
        self.successResultOf(pair.client.close())

    def test_close_waits_for_streams(self) -> None:
        pair = SessionPair(Building(Echo))
        near, far = pair.stream()
        closed = pair.server.close(20)
        pair.flush()
        self.failureResultOf(pair.client.open(Building()), StreamNotOpened)
        self.failureResultOf(pair.server.open(Building()), StreamNotOpened)
        near.transport.write(b"still here")
        pair.wait(15)
        self.assertEqual(near.received, b"still here")
        self.assertNoResult(closed)
        near.transport.loseConnection()
        pair.flush()
        self.successResultOf(closed)
        self.assertEqual((near.lost, far.lost), ([ConnectionDone], [ConnectionDone]))

    def test_close_does_not_wait_for_ever(self) -> None:
        pair = SessionPair()
        near, far = pair.stream()
        closed = pair.server.close(20)
        pair.wait(21)
        self.successResultOf(closed)
        self.assertEqual((near.lost, far.lost), ([SessionLost], [SessionLost]))
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_streams_of_a_peer_that_is_told_to_go(self) -> None:
        scene = Scene()
        scene.answers(frame(WINDOW_UPDATE, SYN, 1))
        scene.session.close()
        self.assertEqual(
            scene.answers(frame(WINDOW_UPDATE, SYN, 3)), ["GOAWAY id=0 len=0", "WUPD|RST id=3 len=0"]
        )

    def test_abort(self) -> None:
        pair = SessionPair()
        near, far = pair.stream()
        pair.client.abort()
        pair.flush()
        pair.client.abort()
        self.assertEqual((near.lost, far.lost), ([SessionLost], [SessionLost]))
        self.successResultOf(pair.client.close())
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_early_bytes(self) -> None:
        """Bytes that arrived with the head of an upgrade are processed as soon as the session exists."""
        scene = Scene()
        scene.session.dataReceived(frame(WINDOW_UPDATE, SYN, 1) + frame(DATA, 0, 1, payload=b"early"))
        self.assertEqual(scene.acceptor.built[0].received, b"early")

    def test_random_bytes(self) -> None:
        """No exception reaches the reactor, which would log it as an error."""
        for seed in range(50):
            scene = Scene()
            scene.answers(bytes((seed * 7 + at * at) % (5 if at % 12 < 2 else 256) for at in range(200)))
            scene.wait(30)
            self.assertTrue(scene.peer.lost)
        self.assertEqual(self.flushLoggedErrors(), [])
