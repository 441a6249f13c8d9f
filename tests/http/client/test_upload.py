"""Requests with large bodies: back-pressure, and answers that come before the end."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, cast

from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IPushProducer
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ccmproxy.http.client.upload import Upload
from ccmproxy.http.failures import RequestNotSent, ResponseLost, UpstreamTimeout
from ccmproxy.testing.pump import KIB
from ccmproxy.transports.contract import IByteStream
from tests.http.upstream import Receiver, Scene

OK = b"HTTP/1.1 200 OK\r\n"
REPLY = OK + b"Content-Length: 5\r\n\r\nhello"
UNTIL_CLOSE = OK + b"\r\nuntil the end"


class UploadTests(SynchronousTestCase):
    """Requests with large bodies."""

    def test_small_body_goes_with_the_head(self) -> None:
        scene = Scene()
        scene.send([b"ab", b"", b"c"], b"POST")
        scene.network.flush()
        self.assertEqual(
            scene.server.received,
            b"POST /v1/x?y=z HTTP/1.1\r\nHost: upstream.test\r\nContent-Length: 3\r\n\r\nabc",
        )

    def test_large_body(self) -> None:
        payload = [bytes([i]) * size for i, size in enumerate((1, 0, 200 * KIB, 64 * KIB, 3, 700 * KIB))]
        scene = Scene()
        receiver, _ = scene.send(payload, b"POST")
        scene.network.flush()
        self.assertTrue(scene.server.received.endswith(b"\r\n\r\n" + b"".join(payload)))
        scene.server.transport.write(REPLY)
        scene.settle()
        self.assertEqual(receiver.outcome, "ended")
        self.assertEqual(scene.pool.idle, 1, "the connection is used again")

    def test_back_pressure(self) -> None:
        """A slow upstream does not make our buffers grow."""
        scene = Scene()
        scene.send([bytes(64 * KIB)] * 64, b"POST")
        scene.network.flush()
        scene.server.transport.pauseProducing()
        self.assertLess(scene.pump.client.peak, 260 * KIB)
        scene.server.transport.resumeProducing()
        scene.network.flush()
        self.assertGreater(len(scene.server.received), 64 * 64 * KIB)
        self.assertLess(scene.pump.client.peak, 260 * KIB)

    def blocked_upload(self) -> tuple[Scene, Receiver]:
        """4 MiB on the way to an upstream that reads nothing of it."""
        scene = Scene()
        receiver, _ = scene.send([bytes(64 * KIB)] * 64, b"POST")
        scene.script = lambda server: server.transport.pauseProducing()  # type: ignore[method-assign]
        scene.network.flush()
        self.assertLess(len(scene.server.received), 200 * KIB)
        return scene, receiver

    def test_lost_while_uploading(self) -> None:
        """The request was not sent completely, so the upstream cannot have acted on it."""
        scene, receiver = self.blocked_upload()
        scene.server.transport.abortConnection()
        scene.settle()
        self.assertIsInstance(receiver.outcome, RequestNotSent)

    def test_early_answer(self) -> None:
        """A complete response during the upload is delivered at once; the rest of the request is not sent."""
        scene, receiver = self.blocked_upload()
        scene.server.transport.write(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nwait")
        scene.settle()
        self.assertEqual((receiver.outcome, receiver.status, receiver.body), ("ended", 429, b"wait"))
        self.assertEqual((scene.pool.idle, scene.pool.busy), (0, 0), "the connection is not used again")
        self.assertTrue(scene.pump.client.disconnected)
        self.assertLess(scene.pump.client.written, 400 * KIB)

    def test_early_answer_between_two_turns(self) -> None:
        """An upload that waits for its next turn is over, too."""
        scene = Scene(high_mark=100_000 * KIB, wire_size=100_000 * KIB)
        receiver, _ = scene.send([bytes(64 * KIB)] * 200, b"POST")
        scene.network.flush()
        calls: Any = scene.clock.getDelayedCalls()
        (turn,) = (call for call in calls if call.getTime() <= scene.clock.seconds())
        scene.server.transport.write(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nwait")
        scene.network.flush()
        self.assertEqual((receiver.outcome, receiver.status), ("ended", 429))
        upload = cast(Upload, cast(MethodType, cast(DelayedCall, turn).func).__self__)
        cast(DelayedCall, turn).func()
        self.assertTrue(upload._stopped)
        self.assertNotEqual(list(upload._pieces), [], "nothing was written any more")

    def test_early_answer_while_the_upstream_reads_on(self) -> None:
        scene, receiver = self.blocked_upload()
        scene.server.transport.write(OK + b"Content-Length: 4\r\n\r\nwa")
        scene.network.flush()
        self.assertEqual(receiver.body, b"wa")
        scene.server.transport.resumeProducing()
        scene.script = lambda server: None  # type: ignore[method-assign]
        scene.network.flush()
        self.assertGreater(len(scene.server.received), 4096 * KIB, "the upload goes on beside the answer")
        scene.server.transport.write(b"it")
        scene.settle()
        self.assertEqual((receiver.outcome, receiver.body), ("ended", b"wait"))
        self.assertEqual(scene.pool.idle, 1)

    def test_early_answer_broken_off(self) -> None:
        scene, receiver = self.blocked_upload()
        scene.server.transport.write(OK + b"Content-Length: 4\r\n\r\nwa")
        scene.network.flush()
        scene.server.transport.abortConnection()
        scene.settle()
        self.assertIsInstance(receiver.outcome, ResponseLost)

    def test_early_answer_until_close(self) -> None:
        scene, receiver = self.blocked_upload()
        scene.server.transport.write(UNTIL_CLOSE)
        scene.network.flush()
        scene.server.transport.resumeProducing()
        scene.script = lambda server: None  # type: ignore[method-assign]
        scene.network.flush()
        scene.server.transport.loseConnection()
        scene.settle()
        self.assertEqual((receiver.outcome, receiver.body), ("ended", b"until the end"))

    def test_upload_stalls(self) -> None:
        scene, receiver = self.blocked_upload()
        scene.pass_time(599)
        self.assertIsNone(receiver.outcome)
        scene.pass_time(3)
        self.assertIsInstance(receiver.outcome, UpstreamTimeout)
        self.assertTrue(scene.pump.client.disconnected)

    def test_slow_upload_is_no_stall(self) -> None:
        """The first-byte time-out begins when the request was sent; until then, progress counts."""
        scene, receiver = self.blocked_upload()
        for _ in range(10):
            scene.pass_time(200)
            scene.server.transport.resumeProducing()  # reads once, and pauses
            scene.network.flush()
            self.assertIsNone(receiver.outcome)

    def test_first_byte_counts_from_the_end_of_the_upload(self) -> None:
        scene, receiver = self.blocked_upload()
        scene.pass_time(500)
        scene.script = lambda server: None  # type: ignore[method-assign]
        scene.server.transport.resumeProducing()
        scene.network.flush()
        scene.pass_time(590)
        self.assertIsNone(receiver.outcome)
        scene.pass_time(15)
        self.assertIsInstance(receiver.outcome, UpstreamTimeout)

    def test_provides(self) -> None:
        """What the transport has for a producer does as the interface says."""
        scene, _ = self.blocked_upload()
        transport = scene.pump.client
        upload: Any = transport.producer
        self.assertIsInstance(upload, Upload)
        verifyObject(IPushProducer, upload)
        before = transport.written
        for _ in range(2):
            scene.server.transport.resumeProducing()  # reads once, and pauses
            scene.network.flush()
        self.assertTrue(transport.producer_paused)
        self.assertTrue(0 < transport.written - before <= 200 * KIB, "it writes until it is paused")
        before = transport.written
        upload.stopProducing()
        upload.resumeProducing()
        self.assertEqual(transport.written, before, "it was stopped")


class NeverFull:
    """A transport that takes everything at once, and the connection of an upload to it."""

    def __init__(self) -> None:
        self.written = 0
        self.finished = False
        self.turns: list[Callable[[], None]] = []

    def write(self, data: bytes) -> None:
        """Take it."""
        self.written += len(data)

    def upload_progressed(self) -> None:
        """Nobody waits."""

    def upload_finished(self) -> None:
        """All of it was written."""
        self.finished = True

    def upload_stopped(self) -> None:
        """Nobody waits."""


class TurnTests(SynchronousTestCase):
    """F63: how much is written in one turn of the reactor, however fast the upstream reads."""

    SIZE = 5_000_000

    def setUp(self) -> None:
        self.upstream = NeverFull()
        self.upload = Upload(
            self.upstream,
            cast(IByteStream, self.upstream),
            self.upstream.turns.append,
            b"head",
            [bytes(self.SIZE)],
        )
        self.upload.resumeProducing()

    def turn(self) -> int:
        """The next turn of the reactor; returns how many bytes it wrote."""
        before = self.upstream.written
        turns, self.upstream.turns[:] = self.upstream.turns[:], []
        for turn in turns:
            turn()
        return self.upstream.written - before

    def test_a_megabyte_at_a_time(self) -> None:
        self.assertLessEqual(self.upstream.written, 1024 * KIB)
        for _ in range(3):
            self.assertFalse(self.upstream.finished)
            self.assertEqual(self.turn(), 1024 * KIB)
        self.assertFalse(self.upstream.finished)
        self.turn()
        self.turn()
        self.assertEqual((self.upstream.written, self.upstream.finished), (self.SIZE + 4, True))
        self.assertEqual(self.upstream.turns, [])

    def test_paused_and_resumed_within_a_turn(self) -> None:
        self.upload.pauseProducing()
        self.upload.resumeProducing()
        self.assertEqual(len(self.upstream.turns), 1)
        self.assertEqual(self.turn(), 1024 * KIB)

    def test_paused_for_longer(self) -> None:
        self.upload.pauseProducing()
        self.assertEqual(self.turn(), 0)
        self.assertEqual(self.upstream.turns, [])
        self.upload.resumeProducing()
        self.assertEqual(self.turn(), 1024 * KIB)

    def test_cancelled_meanwhile(self) -> None:
        self.upload.cancel()
        self.assertEqual(self.turn(), 0)
        self.assertFalse(self.upstream.finished)
