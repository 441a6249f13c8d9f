"""Tests for :mod:`ccmproxy.reverse.stream_transport`: the same conversations as over TCP, and the differences."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IConsumer, IPushProducer, ITCPTransport, ITransport
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from ccmproxy.reverse import SessionLost, StreamAborted
from ccmproxy.reverse.stream_transport import HIGH_MARK, LOW_MARK
from ccmproxy.testing.pump import KIB
from ccmproxy.transports.contract import IByteStream
from ccmproxy.yamux import SessionConfig
from tests.reverse.sessions import SessionPair, StreamRecorder
from tests.transports.contract import (
    Building,
    Failing,
    HalfCloseContract,
    HalfCloser,
    InMemory,
    PullSource,
    Recorder,
    Source,
)


class StreamContractTests(InMemory, HalfCloseContract, TestCase):
    """A stream behaves as a TCP connection, except that its errors are more specific."""

    chunk_size = 64 * KIB
    enough_to_pause = 1000 * KIB
    #: An abort can be told from the loss of the session.
    lost_by_abort = StreamAborted

    async def connect(self, client: Recorder, server: Recorder) -> None:
        self.pair_of_sessions = SessionPair(Building(lambda: server), chunk_size=self.chunk_size)
        self.pair_of_sessions.stream(client)

    def flush(self) -> None:
        self.pair_of_sessions.flush()

    async def test_writing_to_one_who_is_gone(self) -> None:
        """Data to a peer that has closed is discarded at first: a reset might destroy an answer not read yet."""
        client, server = HalfCloser(), Recorder()
        await self.connect(client, server)
        server.transport.write(b"answer")
        server.transport.loseConnection()
        await self.until(lambda: client.read_lost and server.lost)
        client.transport.write(b"hello?")
        self.pair_of_sessions.wait(29)
        assert client.lost == []
        self.pair_of_sessions.wait(2)
        assert client.lost == [StreamAborted]
        assert client.received == b"answer"


class SmallPiecesStreamContractTests(StreamContractTests):
    """The same on a carrier that splits the bytes into odd pieces."""

    chunk_size = 4093


class StreamTests(SynchronousTestCase):
    """Behaviour of streams that the contract does not cover."""

    def test_interfaces(self) -> None:
        near, _ = SessionPair().stream()
        for interface in (ITransport, IConsumer, IPushProducer, IByteStream):
            self.assertTrue(verifyObject(interface, near.transport))
        self.assertFalse(ITCPTransport.providedBy(near.transport))
        self.assertEqual(repr(near.transport)[:19], "<StreamTransport 1 ")

    def test_only_bytes(self) -> None:
        near, far = (pair := SessionPair()).stream()
        self.assertRaises(TypeError, near.transport.write, "text")
        self.assertRaises(TypeError, near.transport.write, 5)
        far.transport.pauseProducing()
        near.transport.write(bytes(512 * KIB))
        changed = bytearray(b"before")
        near.transport.write(changed)
        changed[:] = b"after!"
        near.transport.write(memoryview(b" view"))
        far.transport.resumeProducing()
        pair.flush()
        self.assertEqual(far.received[512 * KIB :], b"before view")

    def test_close_is_told_later(self) -> None:
        """The protocol learns of its own close in a later turn, and of nothing else before."""
        near, far = (pair := SessionPair()).stream()
        far.transport.write(b"late")
        near.transport.loseConnection()
        self.assertEqual(near.lost, [])
        self.assertTrue(near.transport.disconnecting)
        pair.flush()
        self.assertEqual((near.lost, near.received), ([ConnectionDone], b""))
        self.assertFalse(near.transport.connected)
        self.assertEqual((pair.client.streams, pair.server.streams), (0, 0))

    def test_close_waits_until_all_is_sent(self) -> None:
        near, far = (pair := SessionPair()).stream()
        far.transport.pauseProducing()
        near.transport.write(bytes(1000 * KIB))
        near.transport.loseConnection()
        near.transport.write(b"not sent")
        pair.flush()
        self.assertEqual((near.lost, near.transport.stream.queue.size > 0), ([], True))
        far.transport.resumeProducing()
        pair.flush()
        self.assertEqual(
            (near.lost, far.lost, len(far.received)), ([ConnectionDone], [ConnectionDone], 1000 * KIB)
        )

    def test_close_does_not_wait_for_the_peers_end(self) -> None:
        """A close waits only until all is sent: the peer may continue to send for as long as it likes."""
        near, far = (pair := SessionPair(Building(HalfCloser))).stream()
        far.transport.pauseProducing()
        near.transport.write(bytes(1000 * KIB))
        near.transport.loseConnection()
        pair.flush()
        self.assertEqual(near.lost, [])
        far.transport.resumeProducing()
        pair.flush()
        self.assertEqual((near.lost, far.lost, far.read_lost), ([ConnectionDone], [], 1))

    def test_close_behind_an_end_that_was_sent(self) -> None:
        near, far = (pair := SessionPair(Building(HalfCloser))).stream(HalfCloser())
        near.transport.loseWriteConnection()
        pair.flush()
        near.transport.loseConnection()
        pair.flush()
        self.assertEqual((near.lost, far.lost), ([ConnectionDone], []))

    def test_what_was_kept_is_not_given_after_a_close(self) -> None:
        near, far = (pair := SessionPair()).stream()
        near.transport.pauseProducing()
        far.transport.pauseProducing()
        far.transport.write(b"kept")
        near.transport.write(bytes(1000 * KIB))
        pair.flush()
        near.transport.loseConnection()
        near.transport.resumeProducing()
        pair.flush()
        self.assertEqual((near.lost, near.received), ([], b""))

    def test_abort_behind_a_close(self) -> None:
        """An abort after all data and FIN are sent does not reset: that would destroy data the peer has not read."""
        near, far = (pair := SessionPair()).stream()
        far.transport.pauseProducing()
        near.transport.write(b"last words")
        near.transport.loseConnection()
        near.transport.abortConnection()
        pair.flush()
        far.transport.resumeProducing()
        pair.flush()
        self.assertEqual(
            (near.lost, far.received, far.lost), ([ConnectionDone], b"last words", [ConnectionDone])
        )

    def test_nothing_is_given_after_an_abort(self) -> None:
        """Not even data that arrived together with the data on which the protocol aborted is delivered."""

        class Aborting(StreamRecorder):
            def dataReceived(self, data: bytes) -> None:
                super().dataReceived(data)
                self.transport.abortConnection()

        near, far = (pair := SessionPair(Building(Aborting))).stream()
        near.transport.write(bytes(40 * KIB))
        near.transport.loseConnection()
        pair.flush()
        self.assertEqual((len(far.pieces), far.lost), (1, [ConnectionAborted]))

    def test_nothing_is_given_after_an_abort_while_paused(self) -> None:
        """Neither kept data, nor data that arrived with it, nor the FIN after it is delivered."""

        class PausingAndAborting(HalfCloser):
            def dataReceived(self, data: bytes) -> None:
                super().dataReceived(data)
                self.transport.pauseProducing()
                self.transport.abortConnection()
                self.transport.resumeProducing()
                self.transport.pauseProducing()

        near, far = (pair := SessionPair(Building(PausingAndAborting))).stream()
        near.transport.write(bytes(100 * KIB))
        near.transport.loseConnection()
        pair.flush()
        self.assertEqual((len(far.pieces), far.read_lost, far.lost), (1, 0, [ConnectionAborted]))
        far.transport.resumeProducing()
        pair.flush()
        self.assertEqual((len(far.pieces), far.read_lost, far.lost), (1, 0, [ConnectionAborted]))

    def test_stopped_as_a_producer(self) -> None:
        """``stopProducing`` is called by a consumer of the stream that is lost."""
        near, far = (pair := SessionPair()).stream()
        near.transport.stopProducing()
        pair.flush()
        self.assertEqual((near.lost, far.lost), ([ConnectionDone], [ConnectionDone]))

    def test_peer_is_gone_with_output_waiting(self) -> None:
        """The stream is reset: FIN would make the incomplete data look complete."""
        near, far = (pair := SessionPair()).stream()
        near.transport.pauseProducing()
        far.transport.write(bytes(1000 * KIB))
        pair.flush()
        near.transport.loseConnection()
        pair.flush()
        self.assertEqual((near.lost, far.lost), ([ConnectionDone], [ConnectionDone]))
        self.assertEqual((pair.client.streams, pair.server.streams), (0, 0))

    def test_end_behind_what_was_kept(self) -> None:
        near, far = (pair := SessionPair()).stream()
        far.transport.pauseProducing()
        near.transport.write(b"last words")
        near.transport.loseConnection()
        pair.flush()
        self.assertEqual((far.received, far.lost), (b"", []))
        far.transport.resumeProducing()
        self.assertEqual(far.received, b"")  # not while it resumes
        pair.flush()
        self.assertEqual((far.received, far.lost), (b"last words", [ConnectionDone]))

    def test_new_data_behind_what_was_kept(self) -> None:
        """Order is kept for data and FIN that arrive after resumeProducing and before the kept data is delivered."""
        near, far = (pair := SessionPair()).stream()
        far.transport.pauseProducing()
        near.transport.write(b"kept, ")
        pair.flush()
        far.transport.resumeProducing()
        near.transport.write(b"new")
        near.transport.loseConnection()
        pair.pump.flush()
        self.assertEqual((far.received, far.lost), (b"", []))
        pair.flush()
        self.assertEqual((far.received, far.lost), (b"kept, new", [ConnectionDone]))

    def test_paused_while_it_is_given_what_was_kept(self) -> None:
        class Pausing(StreamRecorder):
            def dataReceived(self, data: bytes) -> None:
                super().dataReceived(data)
                self.transport.pauseProducing()

        pair = SessionPair(Building(Pausing), chunk_size=5000)
        near, far = pair.stream()
        far.transport.pauseProducing()
        near.transport.write(b"x" * 50_000)
        near.transport.loseConnection()
        pair.flush()
        while not far.lost:
            before = len(far.pieces)
            far.transport.resumeProducing()
            far.transport.resumeProducing()
            pair.flush()
            self.assertLessEqual(len(far.pieces), before + 1)
            self.assertTrue(len(far.pieces) == before or not far.lost, "the end, though it is paused")
        self.assertEqual(len(far.received), 50_000)
        self.assertGreater(len(far.pieces), 5)

    def test_marks_of_the_producer(self) -> None:
        near, far = (pair := SessionPair(wire_size=KIB, chunk_size=KIB)).stream()
        far.transport.pauseProducing()
        source = Source(near, 4000 * KIB)
        near.transport.registerProducer(source, True)
        source.run()
        queue = near.transport.stream.queue
        self.assertLessEqual(queue.size, HIGH_MARK + 10 * KIB)
        pair.flush()
        self.assertTrue(source.paused)
        self.assertGreaterEqual(queue.size, LOW_MARK)
        far.transport.resumeProducing()
        while source.left:
            self.clock_step(pair)
            self.assertLessEqual(queue.size, HIGH_MARK + 10 * KIB)
        pair.flush()
        self.assertEqual(len(far.received), 4000 * KIB)
        self.assertGreater(source.pauses, 3)

    def test_paused_once(self) -> None:
        """A producer is paused once, however much it still writes; the next producer is paused again."""
        near, far = SessionPair().stream()
        far.transport.pauseProducing()
        for _ in range(2):
            source = Source(near, 10)
            near.transport.registerProducer(source, True)
            for _ in range(3):
                near.transport.write(bytes(600 * KIB))
            self.assertEqual(source.pauses, 1)
            near.transport.unregisterProducer()

    def clock_step(self, pair: SessionPair) -> None:
        """Run one turn of the reactor, and carry the bytes."""
        pair.clock.advance(0)
        pair.pump.advance()

    def test_pull_producer_waits_for_the_reader(self) -> None:
        near, far = (pair := SessionPair()).stream()
        far.transport.pauseProducing()
        source = PullSource(near, 200)
        near.transport.registerProducer(source, False)
        pair.flush()
        self.assertGreater(source.left, 100)
        far.transport.resumeProducing()
        pair.flush()
        self.assertEqual((source.left, len(far.received)), (0, 2000 * KIB))

    def test_pull_producer_is_not_paused(self) -> None:
        """A pull producer cannot be paused, and need not be."""

        class Large(PullSource):
            def resumeProducing(self) -> None:
                self.transport.write(bytes(1000 * KIB))
                super().resumeProducing()

        near, far = (pair := SessionPair()).stream()
        near.transport.registerProducer(Large(near, 3), False)
        pair.flush()
        self.assertEqual((near.lost, len(far.received)), ([], 3 * 1010 * KIB))

    def test_producer_that_is_there_when_it_is_closed(self) -> None:
        near, far = (pair := SessionPair()).stream()
        source = Source(near, 10)
        near.transport.registerProducer(source, True)
        near.transport.loseConnection()
        pair.flush()
        near.transport.loseWriteConnection()
        pair.flush()
        self.assertEqual((near.lost, far.lost), ([], []))
        source.run()
        pair.flush()
        self.assertEqual((near.lost, bytes(far.received)), ([ConnectionDone], b"x" * 10))

    def test_producer_that_fails(self) -> None:
        """Only its stream is lost, even if more data of that stream has just been sent."""

        class Bad(Source):
            def resumeProducing(self) -> None:
                raise ZeroDivisionError

        near, far = (pair := SessionPair()).stream()
        far.transport.pauseProducing()
        source = Bad(near, 2000 * KIB)
        near.transport.registerProducer(source, True)
        source.run()
        far.transport.resumeProducing()
        pair.flush()
        self.assertEqual((near.lost, far.lost), ([ZeroDivisionError], [StreamAborted]))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertTrue(pair.client.is_usable)

    def test_abort_stops_the_producer(self) -> None:
        near, far = (pair := SessionPair()).stream()
        source = Source(near, 10)
        near.transport.registerProducer(source, True)
        near.transport.abortConnection()
        near.transport.abortConnection()
        near.transport.loseConnection()
        near.transport.write(b"too late")
        pair.flush()
        self.assertEqual((source.stops, near.lost, far.lost), (1, [ConnectionAborted], [StreamAborted]))
        near.transport.registerProducer(source, True)
        self.assertEqual(source.stops, 2)

    def test_reset_is_told_to_one_who_is_paused(self) -> None:
        near, far = (pair := SessionPair()).stream()
        far.transport.pauseProducing()
        near.transport.write(b"never read")
        pair.flush()
        near.transport.abortConnection()
        pair.flush()
        self.assertEqual((far.received, far.lost), (b"", [StreamAborted]))

    def test_half_close_with_output_waiting(self) -> None:
        pair = SessionPair(Building(HalfCloser))
        near, far = pair.stream(HalfCloser())
        far.transport.pauseProducing()
        near.transport.write(bytes(1000 * KIB))
        near.transport.loseWriteConnection()
        near.transport.write(b"not sent")
        pair.flush()
        self.assertEqual(near.write_lost, 0)
        far.transport.write(b"other way")
        far.transport.resumeProducing()
        pair.flush()
        self.assertEqual((near.write_lost, far.read_lost, len(far.received)), (1, 1, 1000 * KIB))
        self.assertEqual(near.received, b"other way")
        far.transport.loseWriteConnection()
        pair.flush()
        self.assertEqual((near.lost, far.lost), ([ConnectionDone], [ConnectionDone]))

    def test_both_ended_before_it_was_read(self) -> None:
        for data in (b"kept", b""):
            pair = SessionPair(Building(HalfCloser))
            near, far = pair.stream(HalfCloser())
            far.transport.pauseProducing()
            near.transport.write(data)
            near.transport.loseWriteConnection()
            pair.flush()
            far.transport.loseWriteConnection()
            pair.flush()
            self.assertEqual((far.received, far.lost, near.lost), (b"", [], [ConnectionDone]))
            far.transport.resumeProducing()
            pair.flush()
            self.assertEqual((far.received, far.read_lost, far.lost), (data, 1, [ConnectionDone]))

    def test_exception_costs_the_stream_only(self) -> None:
        built: list[Any] = [Failing(), StreamRecorder()]
        pair = SessionPair(Building(lambda: built.pop(0)))
        first, second = pair.stream()[0], pair.stream()[0]
        first.transport.write(b"x")
        second.transport.write(b"x")
        pair.flush()
        self.assertEqual((first.lost, second.lost, pair.accepted[1].received), ([StreamAborted], [], b"x"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_exception_when_it_is_lost(self) -> None:
        class Bad(StreamRecorder):
            def connectionLost(self, reason: Any = None) -> None:
                raise ZeroDivisionError

        near, _ = (pair := SessionPair(Building(Bad))).stream()
        near.transport.loseConnection()
        pair.flush()
        self.assertEqual((near.lost, pair.server.streams), ([ConnectionDone], 0))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_small_pieces_are_kept_together(self) -> None:
        """A paused stream holds no more memory than its window, however small the received pieces are."""
        pair = SessionPair(chunk_size=50)
        near, far = pair.stream()
        far.transport.pauseProducing()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        said = b""
        for number in range(5000):
            near.transport.write(b"%04d" % number)
            said += b"%04d" % number
            pair.pump.advance(2)
        near.transport.write(bytes(10 * KIB))
        pair.flush()
        kept = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*reverse/stream.py")])
        self.assertLess(sum(trace.size for trace in kept.traces), 2 * (20 + 10) * KIB)
        far.transport.resumeProducing()
        pair.flush()
        self.assertEqual(far.received, said + bytes(10 * KIB))

    def test_leaves_no_garbage(self) -> None:
        """A closed stream is freed at once, without the garbage collector."""
        pair = SessionPair()
        near, far = pair.stream()
        gone = [weakref.ref(end) for end in (near, far, near.transport, far.transport)]
        near.transport.write(b"x")
        near.transport.loseConnection()
        pair.flush()
        gc.disable()
        self.addCleanup(gc.enable)
        pair.accepted.clear()
        del near, far
        self.assertEqual([end() for end in gone], [None] * 4)

    def test_waits_for_window_too_long(self) -> None:
        pair = SessionPair(config=SessionConfig(window_timeout=50.0))
        near, far = pair.stream()
        far.transport.pauseProducing()
        near.transport.write(bytes(1000 * KIB))
        pair.wait(45)
        self.assertEqual(near.lost, [])
        pair.wait(6)
        self.assertEqual((near.lost, far.lost), ([StreamAborted], [StreamAborted]))


class LossTests(SynchronousTestCase):
    """Loss of the carrier, in every state of a stream."""

    def lost(self, prepare: Callable[[Any, Any], None], half: bool = False) -> tuple[list[Any], list[Any]]:
        """Call ``prepare``, lose the carrier, and return the reasons told to both ends of a stream."""
        pair = SessionPair(Building(HalfCloser if half else StreamRecorder))
        near, far = pair.stream(HalfCloser() if half else None)
        prepare(near.transport, far.transport)
        pair.pump.client.abortConnection()
        pair.flush()
        pair.wait(100)
        for session in (pair.client, pair.server):
            self.assertEqual((session.streams, session.is_usable), (0, False))
        self.assertEqual(pair.clock.getDelayedCalls(), [])
        return near.lost, far.lost

    def test_open(self) -> None:
        self.assertEqual(self.lost(lambda near, far: None), ([SessionLost], [SessionLost]))

    def test_paused_with_input(self) -> None:
        def prepare(near: Any, far: Any) -> None:
            far.pauseProducing()
            near.write(b"x")

        self.assertEqual(self.lost(prepare), ([SessionLost], [SessionLost]))

    def test_resuming(self) -> None:
        def prepare(near: Any, far: Any) -> None:
            far.pauseProducing()
            near.write(b"x")
            far.resumeProducing()

        self.assertEqual(self.lost(prepare), ([SessionLost], [SessionLost]))

    def test_closing_with_output(self) -> None:
        def prepare(near: Any, far: Any) -> None:
            far.pauseProducing()
            near.write(bytes(1000 * KIB))
            near.loseConnection()

        self.assertEqual(self.lost(prepare), ([SessionLost], [SessionLost]))

    def test_closed_here(self) -> None:
        self.assertEqual(
            self.lost(lambda near, far: near.loseConnection()), ([ConnectionDone], [SessionLost])
        )

    def test_aborted_here(self) -> None:
        self.assertEqual(
            self.lost(lambda near, far: near.abortConnection()), ([ConnectionAborted], [SessionLost])
        )

    def test_half_closed(self) -> None:
        lost = self.lost(lambda near, far: near.loseWriteConnection(), half=True)
        self.assertEqual(lost, ([SessionLost], [SessionLost]))

    def test_with_a_producer(self) -> None:
        sources: list[Source] = []

        def prepare(near: Any, far: Any) -> None:
            far.pauseProducing()
            sources.append(Source(near.protocol, 10_000 * KIB))
            near.registerProducer(sources[0], True)
            sources[0].run()

        self.assertEqual(self.lost(prepare), ([SessionLost], [SessionLost]))
        self.assertEqual(sources[0].stops, 1)
