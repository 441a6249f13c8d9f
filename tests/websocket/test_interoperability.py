"""Our codec and autobahn's, in memory: each as the client of the other one."""

from __future__ import annotations

import os
from typing import Any

from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateOfferAccept,
    PerMessageDeflateResponseAccept,
)
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from txaio.tx import make_logger

from ccmproxy.http.framing import join_head, split_head
from ccmproxy.http.message import RequestHead, ResponseHead
from ccmproxy.websocket.connection import Close, Connection, Message, Pong
from ccmproxy.websocket.handshake import accept, check_answer, request_fields
from ccmproxy.websocket.masking import NATIVE_FROM

#: Without autobahn's timers, which ask for the process's reactor.
WITHOUT_TIMERS = {"openHandshakeTimeout": 0, "closeHandshakeTimeout": 0}

SIZES = st.one_of(
    st.integers(0, 200),
    st.integers(NATIVE_FROM - 5, NATIVE_FROM + 5),
    st.sampled_from([65_535, 65_536, 200_000]),
)
#: Who sends, whether text, how long, and in fragments of how many bytes, None for one (autobahn only).
MESSAGES = st.lists(
    st.tuples(st.booleans(), st.booleans(), SIZES, st.one_of(st.none(), st.integers(1, 300))), max_size=5
)


class Kept:
    """What autobahn's protocols received."""

    log = make_logger("none")

    def __init__(self) -> None:
        super().__init__()
        self.received: list[Message] = []
        self.pongs: list[bytes] = []
        self.close: tuple[bool, int | None, str | None] | None = None

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Keep it."""
        self.received.append(Message(payload, not isBinary))

    def onPong(self, payload: bytes) -> None:
        """Keep it."""
        self.pongs.append(payload)


class Server(Kept, WebSocketServerProtocol):  # type: ignore[misc]  # autobahn contradicts itself
    """autobahn's server."""


class Client(Kept, WebSocketClientProtocol):  # type: ignore[misc]
    """autobahn's client."""


class Transport(StringTransport):
    """Keeps what is written."""

    def unregisterProducer(self) -> None:
        """Allowed without a producer, as by TCP's transports."""


def our_client(deflate: bool) -> tuple[Connection, Any, StringTransport]:
    """A connection of ours to autobahn's server, opened."""
    factory = WebSocketServerFactory(reactor=Clock())
    factory.setProtocolOptions(
        perMessageCompressionAccept=lambda offers: PerMessageDeflateOfferAccept(offers[0]),
        echoCloseCodeReason=True,
        **WITHOUT_TIMERS,
    )
    peer, transport = Server(), Transport()
    peer.factory = factory
    peer.makeConnection(transport)
    nonce = os.urandom(16)
    peer.dataReceived(join_head(b"GET / HTTP/1.1", [(b"Host", b"peer"), *request_fields(nonce, deflate)]))
    line, headers = split_head(transport.value())
    transport.clear()
    head = ResponseHead(int(line.split()[1]), b"", headers)
    return Connection(lambda: os.urandom(4), check_answer(nonce, head, deflate)), peer, transport


def our_server(deflate: bool) -> tuple[Connection, Any, StringTransport]:
    """A connection of ours from autobahn's client, opened."""
    factory = WebSocketClientFactory("ws://peer/", reactor=Clock())
    factory.setProtocolOptions(
        perMessageCompressionOffers=[PerMessageDeflateOffer()] if deflate else [],
        perMessageCompressionAccept=lambda response: PerMessageDeflateResponseAccept(response),
        serverConnectionDropTimeout=0,
        echoCloseCodeReason=True,
        **WITHOUT_TIMERS,
    )
    peer, transport = Client(), Transport()
    peer.factory = factory
    peer.makeConnection(transport)
    line, headers = split_head(transport.value())
    transport.clear()
    method, target, _ = line.split()
    acceptance = accept(RequestHead(method, target, headers))
    peer.dataReceived(join_head(b"HTTP/1.1 101 Switching Protocols", acceptance.headers))
    return Connection(None, acceptance.agreement), peer, transport


def payload(size: int, is_text: bool) -> bytes:
    """Something that compresses a little; of text, UTF-8 that ends with a whole character."""
    if not is_text:
        return os.urandom(size // 2) + bytes(size - size // 2)
    text = ("zwölf Gänse → 🙂 " * (size // 20 + 1)).encode()[:size]
    return text.decode("utf-8", "ignore").encode()


class InteroperabilityTests(SynchronousTestCase):
    """What one says, the other one hears."""

    def events(self, ours: Connection, transport: StringTransport, step: int = 1000) -> list[Any]:
        """What autobahn wrote, as we see it, read in pieces of ``step`` bytes."""
        found = []
        written = transport.value()
        transport.clear()
        for at in range(0, len(written), step):
            ours.receive(written[at : at + step])
            while (event := ours.next_event()) is not None:
                found.append(event)
        return found

    def test_compression_is_agreed(self) -> None:
        for make in (our_client, our_server):
            for deflate in (True, False):
                _, peer, _ = make(deflate)
                self.assertEqual(peer.state, peer.STATE_OPEN)
                self.assertEqual(bool(peer.websocket_extensions_in_use), deflate)

    @given(
        MESSAGES,
        st.booleans(),
        st.sampled_from([our_client, our_server]),
        st.sampled_from([50, 1001, 4099, 1_000_000]),
    )
    def test_messages(
        self, messages: list[tuple[bool, bool, int, int | None]], deflate: bool, make: Any, step: int
    ) -> None:
        ours, peer, transport = make(deflate)
        for from_us, is_text, size, fragment in messages:
            message = Message(payload(size, is_text), is_text)
            if from_us:
                peer.dataReceived(ours.send_message(message.data, is_text))
                self.assertEqual(peer.received.pop(), message)
            else:
                # Two hundred fragments are enough.
                pieces = None if fragment is None else max(fragment, size // 200)
                peer.sendMessage(message.data, not is_text, fragmentSize=pieces)
                self.assertEqual(self.events(ours, transport, step), [message])

    def test_pings(self) -> None:
        for make in (our_client, our_server):
            ours, peer, transport = make(False)
            peer.dataReceived(ours.send_ping(b"of ours"))
            self.assertEqual(self.events(ours, transport), [Pong(b"of ours")])
            peer.sendPing(b"of theirs")
            (ping,) = self.events(ours, transport)
            peer.dataReceived(ours.send_pong(ping.payload))
            self.assertEqual(peer.pongs, [b"of theirs"])

    def test_closes(self) -> None:
        for make in (our_client, our_server):
            ours, peer, transport = make(False)
            peer.dataReceived(ours.send_close(4001, b"enough"))
            self.assertEqual(self.events(ours, transport), [Close(4001, b"enough")])
            ours, peer, transport = make(False)
            peer.sendClose(4002, "too much")
            self.assertEqual(self.events(ours, transport), [Close(4002, b"too much")])
            peer.dataReceived(ours.send_close(4002, b"too much"))
            self.assertTrue(peer.wasClean)
