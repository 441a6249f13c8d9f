"""A WebSocket's server end: the opening handshake, messages in and out, pings, the closing handshake (RFC 6455).

wsproto knows the frames; what is said is up to the session.
"""

from __future__ import annotations

import base64
import binascii
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import assert_never

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.handshake import server_extensions_handshake
from wsproto.utilities import generate_accept_token
from zope.interface import implementer

from ccmproxy.http.message import Headers
from ccmproxy.simulator.codex import websocket_steps as frames
from ccmproxy.simulator.codex.websocket_session import MessageAnswer as Exchange
from ccmproxy.simulator.codex.websocket_session import WebSocketSession as Session
from ccmproxy.simulator.codex.websocket_steps import FrameStep
from ccmproxy.simulator.player import Ending
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.steps import Abort, Hang, Raw, Wait
from ccmproxy.simulator.steps import Fin as Close
from ccmproxy.transports.contract import IByteStream

#: Largest message of a client, in bytes.
MAX_MESSAGE = 64 * 1024 * 1024

#: Seconds that a client has to answer the closing handshake.
CLOSE_TIMEOUT = 5.0

_VERSION = b"13"


def wants_websocket(request: ReceivedRequest) -> bool:
    """Whether the client asks for the connection to become a WebSocket."""
    return b"websocket" in (item.lower() for item in request.items(b"upgrade"))


def accept_handshake(request: ReceivedRequest) -> tuple[Headers, list[Extension]] | None:
    """The header fields that accept the handshake, and the extensions agreed upon; None: it is not a valid one."""
    key = request.header(b"sec-websocket-key") or b""
    try:
        is_key = len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        is_key = False
    if not is_key or request.header(b"sec-websocket-version") != _VERSION:
        return None
    headers: Headers = [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", generate_accept_token(key)),
    ]
    deflate = PerMessageDeflate()
    offers = [item.decode("latin-1") for item in request.items(b"sec-websocket-extensions")]
    try:
        agreed = server_extensions_handshake(offers, [deflate])
    except ValueError:
        agreed = None  # nonsense in an offer: it is declined
    if agreed is None:
        return headers, []
    return [*headers, (b"Sec-WebSocket-Extensions", agreed)], [deflate]


@implementer(IPushProducer)
class WebSocketServer(Protocol):
    """Delivers the opening, then the answers to the client's messages, one after the other.

    ``on_request`` is told of every message, ``on_end`` once how the connection ended: ``finished`` by a closing
    handshake, ``gone`` without one, ``broken`` by a fault.
    """

    transport: IByteStream

    def __init__(
        self,
        session: Session,
        opening: Sequence[FrameStep],
        extensions: list[Extension],
        clock: IReactorTime,
        on_request: Callable[[ReceivedRequest], None],
        on_end: Callable[[Ending], None],
    ) -> None:
        self._session = session
        self._frames = Connection(ConnectionType.SERVER, extensions)
        self._clock = clock
        self._on_request = on_request
        self._on_end = on_end
        self._ending: Ending = "gone"
        self._steps: Iterator[FrameStep] | None = iter(opening)
        self._exchange: Exchange | None = None
        self._waiting: deque[str | bytes] = deque()
        self._message: list[str | bytes | bytearray] = []
        self._size = 0
        self._paused = False
        self._closing = False
        self._hanging = False
        self._call: IDelayedCall | None = None

    # The connection

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)
        self._go_on()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closing = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._end_exchange("broken" if self._ending == "broken" else "gone")
        self._on_end(self._ending)

    def dataReceived(self, data: bytes) -> None:
        if self._frames.state not in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
            return
        self._frames.receive_data(data)
        for event in self._frames.events():
            self._received(event)
        self._go_on()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        if self._paused:
            self._paused = False
            self._go_on()

    def stopProducing(self) -> None:
        """The connection is going; connectionLost follows."""

    # What the client sends

    def _received(self, event: Event) -> None:
        match event:
            case TextMessage() | BytesMessage():
                self._piece(event)
            case Ping():
                if self._frames.state is ConnectionState.OPEN:
                    self._write(self._frames.send(event.response()))
            case CloseConnection():
                self._client_closes(event)

    def _piece(self, event: TextMessage | BytesMessage) -> None:
        self._message.append(event.data)
        self._size += len(event.data)
        if self._size > MAX_MESSAGE:
            self._close(1009, "message too big")
        if not event.message_finished:
            return
        pieces, self._message, self._size = self._message, [], 0
        if isinstance(event, TextMessage):
            self._waiting.append("".join(map(str, pieces)))
        else:
            self._waiting.append(b"".join(piece for piece in pieces if not isinstance(piece, str)))

    def _client_closes(self, event: CloseConnection) -> None:
        """Its side of the closing handshake, or something that cannot be read, for which wsproto says the same."""
        if self._frames.state is ConnectionState.CLOSED:
            self._lose("finished")
        elif self._frames.state is ConnectionState.REMOTE_CLOSING:
            self._write(self._frames.send(event.response()))
            self._lose("finished")
        else:
            self._close(event.code, event.reason or "")

    # What it gets

    def _go_on(self) -> None:
        while not (self._paused or self._closing or self._hanging or self._call is not None):
            if self._steps is None:
                if not self._waiting:
                    return
                self._begin_exchange(self._waiting.popleft())
            assert self._steps is not None
            step = next(self._steps, None)
            if step is None:
                self._steps = None
                self._end_exchange("finished")
            else:
                self._take(step)

    def _take(self, step: FrameStep) -> None:
        match step:
            case frames.Text(text, size):
                size = size or max(len(text), 1)
                for start in range(0, len(text) or 1, size):
                    piece = text[start : start + size]
                    self._write(
                        self._frames.send(TextMessage(piece, message_finished=start + size >= len(text)))
                    )
            case frames.Binary(data):
                self._write(self._frames.send(BytesMessage(data)))
            case frames.Ping():
                self._write(self._frames.send(Ping()))
            case frames.CloseFrame(code, reason):
                self._ending = "broken"
                self._close(code, reason)
            case Wait(seconds):
                self._call = self._clock.callLater(seconds, self._waited)
            case Raw(data):
                self._write(data)
            case Close():
                self._lose("broken")
            case Abort():
                self._closing = True
                self._ending = "broken"
                self.transport.abortConnection()
            case Hang():
                self._hanging = True
            case _:
                assert_never(step)

    def _waited(self) -> None:
        self._call = None
        self._go_on()

    def _begin_exchange(self, message: str | bytes) -> None:
        exchange = self._session.receive(message)
        self._exchange = exchange
        self._steps = iter(exchange.steps)
        self._on_request(exchange.received)
        if exchange.turn is not None:
            exchange.turn.begin_turn()

    def _end_exchange(self, ending: Ending) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.received.state = ending
            if exchange.turn is not None:
                exchange.turn.end_turn()

    # Its end

    def _close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""
        if self._closing:
            return
        self._closing = True
        self._write(self._frames.send(CloseConnection(code, reason or None)))
        self._call = self._clock.callLater(CLOSE_TIMEOUT, self._close_timed_out)

    def _close_timed_out(self) -> None:
        self._call = None
        self._lose("gone")

    def _lose(self, ending: Ending) -> None:
        self._closing = True
        if self._ending != "broken":
            self._ending = ending
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _write(self, data: bytes) -> None:
        self.transport.write(data)
