"""The simulator's WebSockets, byte by byte over connections in memory."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate

from ccmproxy.http.message import Headers
from ccmproxy.simulator.codex.simulated_account import CodexAccount
from ccmproxy.simulator.codex.websocket_server import (
    CLOSE_TIMEOUT,
    MAX_MESSAGE,
    accept_handshake,
    wants_websocket,
)
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.testing.pump import Pump
from ccmproxy.transports.contract import IByteStream
from tests.profiles import examples
from tests.simulator.client import Conversation
from tests.simulator.codex.service import turn

#: Frames with a mask of zeros: any first byte, a length that is true, a payload.
FRAMES = st.builds(
    lambda first, payload: bytes([first, 0x80 | len(payload), 0, 0, 0, 0]) + payload,
    st.integers(0, 255),
    st.binary(max_size=60),
)


class WebSocketClient(Protocol):
    """A client that wsproto leads; keeps what came."""

    transport: IByteStream

    def __init__(self, target: str, headers: Headers, *, deflate: bool) -> None:
        self.connection = WSConnection(ConnectionType.CLIENT)
        self.events: list[Event] = []
        self.texts: list[str] = []
        self.raw = bytearray()
        self.lost: Failure | None = None
        self._text: list[str] = []
        extensions = [PerMessageDeflate()] if deflate else []
        self._request = Request("simulator", target, extra_headers=headers, extensions=list(extensions))

    def connectionMade(self) -> None:
        self.send(self._request)

    def send(self, event: Event) -> None:
        """Say something."""
        self.transport.write(self.connection.send(event))

    def dataReceived(self, data: bytes) -> None:
        self.raw += data
        self.connection.receive_data(data)
        for event in self.connection.events():
            self.events.append(event)
            if isinstance(event, TextMessage):
                self._text.append(event.data)
                if event.message_finished:
                    self.texts.append("".join(self._text))
                    self._text.clear()
            elif isinstance(event, Ping | CloseConnection) and self.connection.state.name != "CLOSED":
                self.send(event.response())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def found(self, kind: type[Event]) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def told(self) -> list[dict[str, Any]]:
        """The messages since the last call, decoded."""
        decoded = [json.loads(text) for text in self.texts]
        self.texts.clear()
        return decoded


class WebSocketTests(SynchronousTestCase):
    """A simulator with a ChatGPT account."""

    def setUp(self) -> None:
        self.conversation = Conversation()
        self.simulator = self.conversation.simulator
        self.account = self.simulator.add_codex_account("c")

    def connect(
        self, account: CodexAccount | None = None, *, deflate: bool = True, **options: Any
    ) -> WebSocketClient:
        """A connection that has been opened, if it was to be."""
        token = (account or self.account).access_token
        headers = [(b"Authorization", b"Bearer " + token.encode())]
        client = WebSocketClient("/backend-api/codex/responses", headers, deflate=deflate)
        server = self.simulator.factory.buildProtocol(None)
        assert server is not None
        self.conversation.pumps.append(Pump(client, server, **options))
        self.conversation.flush()
        return client

    def say(self, client: WebSocketClient, prompt: str, **fields: Any) -> None:
        """One turn."""
        message = {"type": "response.create", **turn(prompt), **fields}
        client.send(TextMessage(json.dumps(message)))
        self.conversation.flush()

    def test_conversation(self) -> None:
        for deflate in (True, False):
            client = self.connect(deflate=deflate)
            (accepted,) = client.found(AcceptConnection)
            self.assertEqual(bool(accepted.extensions), deflate)
            self.assertIn(b"x-codex-primary-used-percent", dict(accepted.extra_headers))
            self.say(client, "first", generate=False)
            warm_up = client.told()[-1]["response"]
            self.say(client, "[[say:zwölf 🙂]]", previous_response_id=warm_up["id"])
            found = client.told()
            self.assertEqual(found[0]["type"], "codex.rate_limits")
            self.assertEqual(found[-1]["response"]["output"][0]["content"][0]["text"], "zwölf 🙂")
            client.send(CloseConnection(1000))
            self.conversation.flush()
            assert client.lost is not None
            self.assertTrue(client.lost.check(ConnectionDone))
        self.assertEqual(
            [(request.endpoint, request.state, request.status) for request in self.simulator.requests],
            [("websocket", "finished", 101), ("warm_up", "finished", 200), ("turn", "finished", 200)] * 2,
        )
        self.assertEqual([request.number for request in self.simulator.requests], [1, 2, 3, 4, 5, 6])
        self.assertEqual((self.account.counters.turns, self.account.counters.concurrent), (2, 0))
        self.assertEqual(self.simulator.concurrent, 0)

    def test_refused_handshake(self) -> None:
        self.simulator.faults.next("status;code=426", endpoint="websocket")
        self.simulator.faults.next("exhausted", endpoint="websocket", account="c")
        for status, kind in ((426, "invalid_request_error"), (429, "usage_limit_reached")):
            client = self.connect()
            (rejected,) = client.found(RejectConnection)
            self.assertEqual(rejected.status_code, status)
            body = b"".join(data.data for data in client.found(RejectData))
            self.assertEqual(json.loads(body)["error"]["type"], kind)
        self.account.revoke()
        (rejected,) = self.connect().found(RejectConnection)
        self.assertEqual(rejected.status_code, 401)

    def test_pings_are_answered(self) -> None:
        client = self.connect()
        client.send(Ping(b"x"))
        self.conversation.flush()
        self.assertEqual([pong.payload for pong in client.found(Pong)], [b"x"])
        self.say(client, "[[simulate:pings]] [[say:x]]")
        self.assertEqual(client.told()[-1]["type"], "response.completed")
        self.assertGreater(len(client.found(Ping)), 10)

    def test_close_in_a_turn(self) -> None:
        client = self.connect()
        self.say(client, "[[simulate:close;code=1012]]")
        (closed,) = client.found(CloseConnection)
        self.assertEqual((closed.code, closed.reason), (1012, "simulated"))
        assert client.lost is not None
        self.assertNotEqual(client.told()[-1]["type"], "response.completed")
        self.assertEqual([request.state for request in self.simulator.requests], ["broken", "broken"])
        self.assertEqual(self.account.counters.concurrent, 0)

    def test_cuts(self) -> None:
        for how, reason in (("rst", ConnectionLost), ("fin", ConnectionDone)):
            client = self.connect()
            self.say(client, f"[[simulate:cut;how={how}]]")
            self.conversation.advance(1.0)
            assert client.lost is not None
            self.assertTrue(client.lost.check(reason), how)
            self.assertEqual(client.found(CloseConnection), [])

    def test_strange_messages(self) -> None:
        client = self.connect()
        self.say(client, "[[simulate:binary_frame]]")
        (binary,) = client.found(BytesMessage)
        self.assertIn("type", json.loads(binary.data))
        client.told()
        self.say(client, "[[simulate:invalid_event]]")
        self.assertEqual(
            sum(not text.endswith("}}") and text.count("{") > text.count("}") for text in client.texts), 1
        )
        client.texts.clear()
        self.say(client, "[[simulate:huge_message;size=300000]]")
        self.assertEqual(len(client.texts[0]), 300_000)
        client.texts.clear()
        self.say(client, "[[simulate:pieces;size=7]] [[say:zwölf]]")
        self.assertEqual(client.told()[-1]["type"], "response.completed")

    def test_early_text(self) -> None:
        self.simulator.faults.next("early_text", endpoint="websocket")
        client = self.connect()
        self.assertEqual([event["type"] for event in client.told()], ["codex.rate_limits"])
        self.say(client, "[[say:x]]")
        self.assertEqual(client.told()[-1]["type"], "response.completed")

    def test_stall_and_the_client_leaves(self) -> None:
        client = self.connect()
        self.say(client, "[[simulate:stall]]")
        self.say(client, "[[say:waits]]")
        self.conversation.advance(600.0)
        self.assertNotIn("response.completed", [event["type"] for event in client.told()])
        self.assertEqual(self.account.counters.concurrent, 1)
        client.transport.abortConnection()
        self.conversation.flush()
        self.assertEqual([request.state for request in self.simulator.requests], ["gone", "gone"])
        self.assertEqual((self.account.counters.concurrent, self.simulator.concurrent), (0, 0))

    def test_slow_turn_and_the_next_message(self) -> None:
        client = self.connect()
        self.say(client, "[[simulate:slow;seconds=5]] [[say:first]]")
        self.say(client, "[[say:second]]")
        self.assertEqual(client.told(), [])
        self.conversation.advance(5.0)
        done = [event["response"] for event in client.told() if event["type"] == "response.completed"]
        texts = [response["output"][0]["content"][0]["text"] for response in done]
        self.assertEqual(texts, ["first", "second"])

    def test_slow_reader(self) -> None:
        client = self.connect(deflate=False, high_mark=4096)
        client.transport.pauseProducing()
        self.say(client, "[[tokens:20000]]")
        (pump,) = self.conversation.pumps
        self.assertLess(pump.server.buffered, 100_000)
        client.transport.resumeProducing()
        self.conversation.flush()
        self.assertEqual(client.told()[-1]["type"], "response.completed")

    def test_too_large_message(self) -> None:
        client = self.connect(deflate=False)
        piece = "x" * (16 * 1024 * 1024)
        for _ in range(MAX_MESSAGE // len(piece)):
            client.send(TextMessage(piece, message_finished=False))
        client.send(TextMessage("x"))
        self.conversation.flush()
        (closed,) = client.found(CloseConnection)
        self.assertEqual(closed.code, 1009)

    def test_what_is_no_frame(self) -> None:
        client = self.connect(deflate=False)
        client.transport.write(b"\xff\xff\xff\xff")
        self.conversation.flush()
        self.assertEqual(client.found(CloseConnection)[0].code, 1002)
        self.conversation.advance(CLOSE_TIMEOUT)
        self.assertIsNotNone(client.lost)

    def test_closing_handshake_that_nobody_answers(self) -> None:
        client = self.connect(deflate=False)
        (pump,) = self.conversation.pumps
        client.dataReceived = client.raw.extend  # type: ignore[method-assign,assignment]
        self.say(client, "[[simulate:close;at=before_head]]")
        self.assertIsNone(client.lost)
        self.conversation.advance(CLOSE_TIMEOUT)
        self.assertIsNotNone(client.lost)
        self.assertIsNotNone(pump)


class HandshakeTests(SynchronousTestCase):
    """Which requests open a WebSocket."""

    KEY = (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==")
    VERSION = (b"Sec-WebSocket-Version", b"13")

    def request(self, *headers: tuple[bytes, bytes]) -> ReceivedRequest:
        """A request with some header fields."""
        return ReceivedRequest(1, 0.0, b"GET", b"/v1/responses", list(headers), b"", "test")

    def test_upgrade(self) -> None:
        self.assertTrue(wants_websocket(self.request((b"Upgrade", b"WebSocket"))))
        self.assertFalse(wants_websocket(self.request((b"Upgrade", b"h2c"))))

    def test_accepted(self) -> None:
        accepted = accept_handshake(self.request(self.KEY, self.VERSION))
        assert accepted is not None
        headers, extensions = accepted
        # the example of RFC 6455 section 1.3
        self.assertIn((b"Sec-WebSocket-Accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), headers)
        self.assertEqual(extensions, [])

    def test_deflate(self) -> None:
        for offer, agreed in (
            (b"permessage-deflate; client_max_window_bits", True),
            (b"x-unknown, permessage-deflate", True),
            (b"permessage-deflate; server_max_window_bits=nonsense", False),
            (b"x-unknown", False),
        ):
            accepted = accept_handshake(
                self.request(self.KEY, self.VERSION, (b"Sec-WebSocket-Extensions", offer))
            )
            assert accepted is not None
            self.assertEqual(bool(accepted[1]), agreed, offer)

    def test_invalid(self) -> None:
        for headers in (
            (self.KEY,),
            (self.VERSION,),
            (self.VERSION, (b"Sec-WebSocket-Key", b"c2hvcnQ=")),
            (self.VERSION, (b"Sec-WebSocket-Key", b"\xff")),
            (self.KEY, (b"Sec-WebSocket-Version", b"8")),
        ):
            self.assertIsNone(accept_handshake(self.request(*headers)))


class GarbageTests(SynchronousTestCase):
    """Bytes of any kind."""

    @examples(60)
    @given(st.lists(st.one_of(st.binary(max_size=40), FRAMES), max_size=6), st.booleans())
    def test_nothing_is_raised(self, pieces: list[bytes], deflate: bool) -> None:
        conversation = Conversation()
        account = conversation.simulator.add_codex_account("c")
        headers = [(b"Authorization", b"Bearer " + account.access_token.encode())]
        client = WebSocketClient("/backend-api/codex/responses", headers, deflate=deflate)
        server = conversation.simulator.factory.buildProtocol(None)
        assert server is not None
        conversation.pumps.append(Pump(client, server))
        conversation.flush()
        client.dataReceived = client.raw.extend  # type: ignore[method-assign,assignment]
        for piece in pieces:
            if client.lost is None:
                client.transport.write(piece)
                conversation.flush()
        conversation.advance(CLOSE_TIMEOUT)
        self.assertEqual(self.flushLoggedErrors(), [])
        client.transport.abortConnection()
        conversation.flush()
        self.assertEqual(conversation.simulator.concurrent, 0)
