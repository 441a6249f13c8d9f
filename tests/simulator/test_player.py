"""Faults as a client meets them on the wire."""

from __future__ import annotations

import zlib

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.faults import FAULTS
from tests.simulator.client import Conversation, RawClient


class DeliveryTests(SynchronousTestCase):
    """One fault each."""

    def setUp(self) -> None:
        self.conversation = Conversation()
        self.client = self.conversation.connect()

    def meet(self, fault: str, stream: bool = True, text: str = "one two three four five six") -> RawClient:
        """Ask under a fault."""
        self.conversation.ask(self.client, f"[[simulate:{fault}]] [[say:{text}]]", stream=stream)
        return self.client

    def state(self) -> str:
        return self.conversation.simulator.requests[-1].state

    def test_slow(self) -> None:
        client = self.meet("slow;seconds=3", stream=False)
        self.conversation.advance(2.9)
        self.assertEqual(client.received, b"")
        self.conversation.advance(0.1)
        self.assertTrue(client.take().complete)

    def test_slow_first_token(self) -> None:
        client = self.meet("slow_first_token;seconds=3")
        self.assertIn(b"\r\n\r\n", client.received)
        self.assertNotIn(b"event:", client.received)
        self.conversation.advance(3.0)
        self.assertTrue(client.take().complete)

    def test_stall_and_go_on(self) -> None:
        client = self.meet("stall;at=before_stop;seconds=30")
        self.assertIn(b"event: message_delta", client.received)
        self.conversation.advance(29.0)
        self.assertNotIn(b"event: message_stop", client.received)
        self.conversation.advance(1.0)
        response = client.take()
        self.assertTrue(response.complete)
        self.assertIn(b"event: message_stop", response.body)
        self.assertEqual(self.state(), "finished")

    def test_hang(self) -> None:
        client = self.meet("hang")
        self.conversation.advance(200.0)
        self.assertEqual(client.received, b"")

    def test_reset(self) -> None:
        client = self.meet("cut;at=mid")
        self.assertIn(b"event: message_start", client.received)
        self.assertIsNone(client.lost)
        self.conversation.advance(0.05)
        assert client.lost is not None
        self.assertTrue(client.lost.check(ConnectionLost))
        self.assertFalse(client.take().complete)
        self.assertEqual(self.state(), "broken")
        self.assertEqual(self.conversation.simulator.concurrent, 0)

    def test_reset_before_head(self) -> None:
        client = self.meet("cut;at=before_head")
        assert client.lost is not None
        self.assertTrue(client.lost.check(ConnectionLost))
        self.assertEqual(client.received, b"")

    def test_fin(self) -> None:
        for stream in (True, False):
            self.client = self.conversation.connect()
            client = self.meet("cut;at=mid;how=fin", stream)
            assert client.lost is not None
            self.assertTrue(client.lost.check(ConnectionDone))
            response = client.take()
            self.assertEqual(response.status, 200)
            self.assertFalse(response.complete)
            self.assertGreater(len(response.body), 10)
            self.assertEqual(self.state(), "broken")

    def test_fin_before_head(self) -> None:
        client = self.meet("cut;at=before_head;how=fin")
        assert client.lost is not None
        self.assertTrue(client.lost.check(ConnectionDone))
        self.assertEqual(client.received, b"")

    def test_truncated(self) -> None:
        response = self.meet("truncated").take()
        self.assertTrue(response.complete)
        self.assertNotIn(b"message_stop", response.body)

    def test_error_events(self) -> None:
        response = self.meet("error_first").take()
        self.assertEqual((response.status, response.complete), (200, True))
        self.assertTrue(response.body.startswith(b"event: error\n"))
        response = self.meet("error_mid;type=api_error").take()
        self.assertTrue(response.body.startswith(b"event: message_start\n"))
        self.assertIn(b'"type":"api_error"', response.body)

    def test_pieces(self) -> None:
        client = self.meet("pieces", text="ré🙂")
        self.assertNotIn(b"message_stop", client.received)
        self.conversation.advance(0.0)
        response = client.take()
        self.assertTrue(response.complete)
        self.assertEqual({len(piece) for piece in response.pieces}, {1})
        self.assertIn("🙂".encode(), response.body)
        self.meet("random_pieces;size=9", text="ré🙂")
        self.conversation.advance(0.0)
        response = client.take()
        self.assertEqual({len(piece) for piece in response.pieces[:-1]}, set(range(1, 10)))

    def test_gzip(self) -> None:
        response = self.meet("gzip").take()
        self.assertEqual(response.header(b"content-encoding"), b"gzip")
        self.assertIn(b"event: message_stop", zlib.decompress(response.body, wbits=31))

    def test_malformed(self) -> None:
        for fault in ("garbage", "half_head", "endless_head", "bad_chunk", "no_last_chunk"):
            self.client = self.conversation.connect()
            client = self.meet(fault)
            self.assertGreater(len(client.received), 50, fault)
            self.assertIsNotNone(client.lost, fault)
            self.assertEqual(self.state(), "broken")
        for fault, difference in (("long_content_length", -100), ("short_content_length", 1)):
            self.client = self.conversation.connect()
            response = self.meet(fault, stream=False).take()
            declared = int(response.header(b"content-length") or 0)
            self.assertFalse(response.complete)
            if difference < 0:
                self.assertEqual(len(response.body) - declared, difference)
            else:
                self.assertGreater(len(response.body), declared)

    def test_every_fault_leaves_the_server_working(self) -> None:
        for fault in FAULTS:
            self.client = self.conversation.connect()
            self.meet(fault)
            for _ in range(600):
                self.conversation.advance(0.02)
            if self.client.transport is not None and self.client.lost is None:
                self.client.transport.loseConnection()
                self.conversation.flush()
            self.assertEqual(self.conversation.simulator.concurrent, 0, fault)
            self.client = self.conversation.connect()
            self.assertEqual(self.meet("none").take().status, 200, fault)
            self.client.transport.loseConnection()  # type: ignore[union-attr]
            self.conversation.flush()


class BackPressureTests(SynchronousTestCase):
    """A client that does not read."""

    def test_stream_waits_for_the_reader(self) -> None:
        conversation = Conversation()
        client = conversation.connect()
        transport = client.transport
        assert transport is not None and IPushProducer.providedBy(transport)
        producer = IPushProducer(transport)
        body = {
            "model": "claude-opus-5",
            "max_tokens": 1_000_000,
            "stream": True,
            "messages": [{"role": "user", "content": "[[tokens:50000]]"}],
        }
        producer.pauseProducing()
        conversation.send(client, "POST", "/v1/messages", body)
        server = conversation.pumps[0].server
        self.assertLess(server.peak, 256 * 1024)
        self.assertEqual(conversation.simulator.requests[-1].state, "answering")
        producer.resumeProducing()
        conversation.flush()
        response = client.take()
        self.assertTrue(response.complete)
        self.assertGreater(len(response.body), 1_000_000)
        self.assertLess(server.peak, 256 * 1024)
