"""A WebSocket's server end: the opening handshake, messages in and out, pings, the closing handshake (RFC 6455).

autobahn checks the handshake and knows the frames: an implementation that shares nothing with the one it is to test.
What is said is up to the session.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, assert_never

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.util import encode_truncate
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime, ITransport
from twisted.internet.protocol import Protocol as ByteProtocol
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from txaio.tx import make_logger
from zope.interface import implementer

from ccmproxy.http.framing import join_head
from ccmproxy.http.message import Headers
from ccmproxy.simulator.codex import websocket_steps
from ccmproxy.simulator.codex.websocket_session import MessageAnswer, WebSocketSession
from ccmproxy.simulator.codex.websocket_steps import FrameStep
from ccmproxy.simulator.player import Ending
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.steps import Abort, Fin, Hang, Raw, Wait
from ccmproxy.transports.contract import IByteStream

#: Largest message of a client, in bytes.
MAX_MESSAGE = 64 * 1024 * 1024

#: Seconds that a client has to answer the closing handshake.
CLOSE_TIMEOUT = 5.0

_VERSION = 13
#: Longest reason of a close, in bytes (RFC 6455 section 5.5).
_LONGEST_REASON = 123


def wants_websocket(request: ReceivedRequest) -> bool:
    """Whether the client asks for the connection to become a WebSocket."""
    return b"websocket" in (item.lower() for item in request.items(b"upgrade"))


# What autobahn does -------------------------------------------------------------------------------------------


class FramesOwner(Protocol):
    """What is told of a connection's frames."""

    def message(self, message: str | bytes) -> None:
        """A whole message came."""

    def closing(self) -> None:
        """A close frame was sent; whoever asked for that, nothing may be sent behind it."""

    def closed(self, clean: bool) -> None:
        """The connection may go. ``clean``: after a closing handshake."""


class ServerFrames(WebSocketServerProtocol):
    """autobahn's server: reads the client's frames, and writes ours. ``owner`` says what, and when.

    None of autobahn's timers runs: they would look up the process's reactor. The owner has the deadlines.
    """

    # Whatever happens here is the client's doing, and recorded: nothing below an error is worth a line.
    log = make_logger("error")
    owner: FramesOwner | None = None

    def attach(self, transport: IByteStream, owner: FramesOwner) -> None:
        """From the handshake's stand-in to the real transport."""
        self.transport = transport
        self.owner = owner

    def send_text(self, text: bytes, frame_size: int | None) -> None:
        """A text message, in frames of so many bytes each, also within a character; None: in one."""
        if len(text) <= MAX_MESSAGE:
            self.sendMessage(text, fragmentSize=frame_size)
            return
        # sendMessage would hold us to the client's limit.
        self.beginMessage()
        self.sendMessageFrame(text)
        self.endMessage()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.owner is not None:
            self.owner.message(payload if isBinary else payload.decode())

    def sendCloseFrame(
        self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False
    ) -> None:
        """Also called by autobahn, to answer the client's close or to end what it cannot read."""
        was_open = self.state == self.STATE_OPEN
        super().sendCloseFrame(code, reasonUtf8, isReply)
        if was_open and self.owner is not None:
            self.owner.closing()

    def dropConnection(self, abort: bool = False) -> None:
        """Never by a reset, which autobahn would end a closing handshake with: what was sent is to arrive."""
        super().dropConnection(abort=False)
        if self.owner is not None:
            self.owner.closed(bool(self.wasClean))


@implementer(ITransport)
class _Answer:
    """Stands in for the transport while autobahn answers the handshake: keeps what it writes."""

    def __init__(self) -> None:
        self.written = bytearray()

    def write(self, data: bytes) -> None:
        self.written += data

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.written += b"".join(data)

    def unregisterProducer(self) -> None:
        """There is none."""

    def loseConnection(self) -> None:
        """There is none."""

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 0)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 0)


class Accepted(NamedTuple):
    """An opening handshake that was accepted: the header fields of its answer, and the extensions agreed upon.

    ``frames`` speaks to the client from now on.
    """

    headers: Headers
    extensions: list[Any]
    frames: ServerFrames


def accept_handshake(request: ReceivedRequest) -> Accepted | None:
    """Let autobahn judge an opening handshake; None: it is not a valid one."""
    offers = request.items(b"sec-websocket-extensions")
    others = [pair for pair in request.headers if pair[0].lower() != b"sec-websocket-extensions"]
    # autobahn takes one field only, and refuses a handshake whose offer it cannot read: such an offer is declined.
    if offers and (
        accepted := _accept(request, [*others, (b"Sec-WebSocket-Extensions", b", ".join(offers))])
    ):
        return accepted
    return _accept(request, others)


def _accept(request: ReceivedRequest, headers: Headers) -> Accepted | None:
    server = ServerFrames()
    server.factory = _factory()
    answer = _Answer()
    server.makeConnection(answer)
    server.dataReceived(join_head(b"%b %b HTTP/1.1" % (request.method, request.target), headers))
    if server.state != server.STATE_OPEN:
        return None
    fields: Headers = []
    for line in bytes(answer.written).split(b"\r\n")[1:-2]:
        name, _, value = line.partition(b": ")
        fields.append((name, value))
    return Accepted(fields, server.websocket_extensions_in_use, server)


@functools.cache
def _factory() -> WebSocketServerFactory:
    """One for all connections: every factory of autobahn's seeds Python's random numbers anew.

    Its clock stands still, as nothing is ever to be called by it.
    """
    factory = WebSocketServerFactory(server=None, reactor=Clock())
    factory.setProtocolOptions(
        versions=[_VERSION],
        webStatus=False,
        maxMessagePayloadSize=MAX_MESSAGE,
        failByDrop=False,
        echoCloseCodeReason=True,
        openHandshakeTimeout=0,
        closeHandshakeTimeout=0,
        perMessageCompressionAccept=_accept_deflate,
    )
    return factory


def _accept_deflate(offers: list[Any]) -> PerMessageDeflateOfferAccept | None:
    """The first offer of permessage-deflate; autobahn knows other extensions too."""
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(offer)
    return None


# What the simulator does --------------------------------------------------------------------------------------


@implementer(IPushProducer)
class WebSocketServer(ByteProtocol):
    """Delivers the opening, then the answers to the client's messages, one after the other.

    ``on_request`` is told of every message, ``on_end`` once how the connection ended: ``finished`` by a closing
    handshake, ``gone`` without one, ``broken`` by a fault.
    """

    transport: IByteStream

    def __init__(
        self,
        session: WebSocketSession,
        opening: Sequence[FrameStep],
        accepted: Accepted,
        clock: IReactorTime,
        on_request: Callable[[ReceivedRequest], None],
        on_end: Callable[[Ending], None],
    ) -> None:
        self._session = session
        self._frames = accepted.frames
        self._clock = clock
        self._on_request = on_request
        self._on_end = on_end
        self._ending: Ending = "gone"
        self._steps: Iterator[FrameStep] | None = iter(opening)
        self._exchange: MessageAnswer | None = None
        self._waiting: deque[str | bytes] = deque()
        self._paused = False
        self._closing = False
        self._hanging = False
        self._call: IDelayedCall | None = None

    # The connection

    def connectionMade(self) -> None:
        self._frames.attach(self.transport, self)
        self.transport.registerProducer(self, True)
        self._go_on()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closing = True
        self._cancel_call()
        self._end_exchange("broken" if self._ending == "broken" else "gone")
        self._on_end(self._ending)

    def dataReceived(self, data: bytes) -> None:
        self._frames.dataReceived(data)
        self._go_on()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        if self._paused:
            self._paused = False
            self._go_on()

    def stopProducing(self) -> None:
        """The connection is going; connectionLost follows."""

    # What the client sends (FramesOwner)

    def message(self, message: str | bytes) -> None:
        """See FramesOwner."""
        self._waiting.append(message)

    def closing(self) -> None:
        """See FramesOwner."""
        self._closing = True
        self._cancel_call()
        self._call = self._clock.callLater(CLOSE_TIMEOUT, self._close_timed_out)

    def closed(self, clean: bool) -> None:
        """See FramesOwner."""
        self._lose("finished" if clean else "gone")

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
            case websocket_steps.Text(text, size):
                self._frames.send_text(text.encode(), size)
            case websocket_steps.Binary(data):
                self._frames.sendMessage(data, isBinary=True)
            case websocket_steps.Ping():
                self._frames.sendPing()
            case websocket_steps.CloseFrame(code, reason):
                self._ending = "broken"
                self._frames.sendCloseFrame(code, encode_truncate(reason, _LONGEST_REASON))
            case Wait(seconds):
                self._call = self._clock.callLater(seconds, self._waited)
            case Raw(data):
                self.transport.write(data)
            case Fin():
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

    def _close_timed_out(self) -> None:
        self._call = None
        self._lose("gone")

    def _lose(self, ending: Ending) -> None:
        self._closing = True
        if self._ending != "broken":
            self._ending = ending
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _cancel_call(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
