"""The simulator's WebSockets, byte by byte over connections in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from txaio.tx import config, make_logger

from ccmproxy.http.framing import split_head
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

#: A frame that is wrong in one respect, so that it is answered with a close and nothing more.
RESERVED_BITS = b"\xb1\x80\x00\x00\x00\x00"

#: Frames with a mask of zeros: any first byte, a length that is true, a payload.
FRAMES = st.builds(
    lambda first, payload: bytes([first, 0x80 | len(payload), 0, 0, 0, 0]) + payload,
    st.integers(0, 255),
    st.binary(max_size=60),
)


@dataclass(frozen=True)
class AcceptConnection:
    """The handshake went well."""

    extensions: list[object]
    extra_headers: Headers


@dataclass(frozen=True)
class RejectConnection:
    """The handshake was refused."""

    status_code: int


@dataclass(frozen=True)
class CloseConnection:
    """A close frame came. ``code``: None where it says none."""

    code: int | None
    reason: str | None


@dataclass(frozen=True)
class Ping:
    """A ping came."""

    payload: bytes


@dataclass(frozen=True)
class Pong:
    """The answer to a ping came."""

    payload: bytes


@dataclass(frozen=True)
class BytesMessage:
    """A binary message came."""

    data: bytes


Event = AcceptConnection | RejectConnection | CloseConnection | Ping | Pong | BytesMessage


class WebSocketClient(WebSocketClientProtocol):
    """autobahn's client; keeps what came."""

    log = make_logger("none")
    transport: IByteStream

    def __init__(self, target: str, headers: Headers, *, deflate: bool) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.texts: list[str] = []
        self.raw = bytearray()
        self.lost: Failure | None = None
        fields = {name.decode(): value.decode() for name, value in headers}
        self.factory = WebSocketClientFactory(f"ws://simulator{target}", headers=fields, reactor=Clock())
        self.factory.setProtocolOptions(
            failByDrop=False,
            echoCloseCodeReason=True,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            serverConnectionDropTimeout=0,
            perMessageCompressionOffers=[PerMessageDeflateOffer()] if deflate else [],
            perMessageCompressionAccept=self._accept_deflate,
        )

    def _accept_deflate(self, response: PerMessageDeflateResponse) -> PerMessageDeflateResponseAccept:
        return PerMessageDeflateResponseAccept(response)

    def dataReceived(self, data: bytes) -> None:
        self.raw += data
        super().dataReceived(data)

    def onOpen(self) -> None:
        _, headers = split_head(self.http_response_data)
        self.events.append(AcceptConnection(self.websocket_extensions_in_use, headers))

    def failHandshake(self, reason: str) -> None:
        self.events.append(RejectConnection(int(self.http_status_line.split()[1])))
        super().failHandshake(reason)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if isBinary:
            self.events.append(BytesMessage(payload))
        else:
            self.texts.append(payload.decode())

    def onPing(self, payload: bytes) -> None:
        self.events.append(Ping(payload))
        super().onPing(payload)

    def onPong(self, payload: bytes) -> None:
        self.events.append(Pong(payload))

    def onCloseFrame(self, code: int, reasonRaw: bytes) -> bool | None:
        handled = super().onCloseFrame(code, reasonRaw)
        self.events.append(CloseConnection(self.remoteCloseCode, self.remoteCloseReason))
        return handled

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.lost = reason

    def body(self) -> bytes:
        """What stands behind the head of the answer to the handshake."""
        return bytes(self.raw).partition(b"\r\n\r\n")[2]

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
        client.sendMessage(json.dumps(message).encode())
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
            client.sendClose(1000)
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
            self.assertEqual(json.loads(client.body())["error"]["type"], kind)
        self.account.revoke()
        (rejected,) = self.connect().found(RejectConnection)
        self.assertEqual(rejected.status_code, 401)

    def test_pings_are_answered(self) -> None:
        client = self.connect()
        client.sendPing(b"x")
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
        self.assertTrue(client.lost.check(ConnectionDone), "a close is not ended by a reset")
        self.assertNotEqual(client.told()[-1]["type"], "response.completed")
        self.assertEqual([request.state for request in self.simulator.requests], ["broken", "broken"])
        self.assertEqual(self.account.counters.concurrent, 0)

    def test_close_of_the_client(self) -> None:
        """It is answered with its own words."""
        client = self.connect()
        client.sendClose(4001, "enough")
        self.conversation.flush()
        self.assertEqual(client.found(CloseConnection), [CloseConnection(4001, "enough")])

    def test_a_close_ends_what_was_waited_for(self) -> None:
        client = self.connect(deflate=False)
        self.say(client, "[[simulate:slow;seconds=60]]")
        client.transport.write(RESERVED_BITS)
        self.conversation.flush()
        self.assertEqual(client.found(CloseConnection)[0].code, 1002)
        self.conversation.advance(CLOSE_TIMEOUT)
        self.assertIsNotNone(client.lost)
        self.assertEqual(self.conversation.clock.getDelayedCalls(), [])
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

    def test_pieces(self) -> None:
        """They end anywhere, also within a character."""
        client = self.connect(deflate=False)
        self.say(client, "[[simulate:pieces;size=7]] [[say:zwölf]]")
        self.assertGreater(client.trafficStats.incomingWebSocketFrames, sum(map(len, client.texts)) / 7)
        self.assertEqual(client.told()[-1]["response"]["output"][0]["content"][0]["text"], "zwölf")

    def test_a_message_longer_than_a_clients_may_be(self) -> None:
        client = self.connect(deflate=False)
        self.say(client, f"[[simulate:huge_message;size={MAX_MESSAGE + 1}]]")
        self.assertEqual(len(client.texts[0]), MAX_MESSAGE + 1)
        self.assertEqual(json.loads(client.texts[-1])["type"], "response.completed")

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

    def test_the_client_leaves_a_slow_turn(self) -> None:
        client = self.connect()
        self.say(client, "[[simulate:slow;seconds=60]]")
        client.transport.abortConnection()
        self.conversation.flush()
        self.assertEqual([request.state for request in self.simulator.requests], ["gone", "gone"])
        self.assertEqual(self.conversation.clock.getDelayedCalls(), [])

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
        piece = b"x" * (16 * 1024 * 1024)
        client.beginMessage()
        for _ in range(MAX_MESSAGE // len(piece)):
            client.sendMessageFrame(piece)
        client.sendMessageFrame(b"x")
        client.endMessage()
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

    def test_autobahn_asks_for_no_reactor(self) -> None:
        """Which its timers do: neither for a handshake nor for the answer to a close that it begins itself."""
        self.patch(config, "loop", None)
        client = self.connect(deflate=False)
        client.dataReceived = client.raw.extend  # type: ignore[method-assign,assignment]
        with capturedLogs() as logged:
            client.transport.write(RESERVED_BITS)
            self.conversation.flush()
        self.assertEqual(logged, [], "and says nothing of it")
        self.assertIsNone(client.lost)
        self.conversation.advance(CLOSE_TIMEOUT)
        self.assertIsNotNone(client.lost)
        self.assertIsNone(config.loop)

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

    UPGRADE = [(b"Host", b"simulator"), (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    KEY = (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==")
    VERSION = (b"Sec-WebSocket-Version", b"13")

    def request(self, *headers: tuple[bytes, bytes]) -> ReceivedRequest:
        """A request with some header fields."""
        return ReceivedRequest(1, 0.0, b"GET", b"/v1/responses", list(headers), b"", "test")

    def test_upgrade(self) -> None:
        self.assertTrue(wants_websocket(self.request((b"Upgrade", b"WebSocket"))))
        self.assertFalse(wants_websocket(self.request((b"Upgrade", b"h2c"))))

    def test_accepted(self) -> None:
        accepted = accept_handshake(self.request(*self.UPGRADE, self.KEY, self.VERSION))
        assert accepted is not None
        headers, extensions, _ = accepted
        # the example of RFC 6455 section 1.3
        self.assertIn((b"Sec-WebSocket-Accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), headers)
        self.assertEqual(extensions, [])
        self.assertIsInstance(accepted.frames.factory.reactor, Clock)

    def test_deflate(self) -> None:
        for offer, agreed in (
            (b"permessage-deflate; client_max_window_bits", True),
            (b"x-unknown, permessage-deflate", True),
            (b"permessage-deflate; server_max_window_bits=nonsense", False),
            (b"x-unknown", False),
        ):
            accepted = accept_handshake(
                self.request(*self.UPGRADE, self.KEY, self.VERSION, (b"Sec-WebSocket-Extensions", offer))
            )
            assert accepted is not None
            self.assertEqual(bool(accepted[1]), agreed, offer)

    def test_offers_in_several_fields(self) -> None:
        offers = [(b"Sec-WebSocket-Extensions", offer) for offer in (b"x-unknown", b"permessage-deflate")]
        accepted = accept_handshake(self.request(*self.UPGRADE, self.KEY, self.VERSION, *offers))
        assert accepted is not None
        self.assertIn((b"Sec-WebSocket-Extensions", b"permessage-deflate"), accepted.headers)

    def test_invalid(self) -> None:
        for headers in (
            (self.KEY,),
            (self.VERSION,),
            (self.VERSION, (b"Sec-WebSocket-Key", b"c2hvcnQ=")),
            (self.VERSION, (b"Sec-WebSocket-Key", b"\xff")),
            (self.KEY, (b"Sec-WebSocket-Version", b"8")),
        ):
            self.assertIsNone(accept_handshake(self.request(*self.UPGRADE, *headers)))


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
