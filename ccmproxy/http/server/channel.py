"""HTTP/1.1 on one connection: requests one after the other, each answered before the next is looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from twisted.internet.interfaces import IConsumer, IProtocol, IPushProducer, ITCPTransport, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.http.failures import BodyMalformed, BodyTimeout, BodyTooLarge
from ccmproxy.http.framing import FramingError, join_head
from ccmproxy.http.message import Body
from ccmproxy.http.server.request import ServerRequest
from ccmproxy.http.server.request_body import BodyReader
from ccmproxy.http.server.request_head import check_partial, parse_request_head
from ccmproxy.transports.tcp import direct_writer, set_socket_options

if TYPE_CHECKING:
    from ccmproxy.http.server.factory import HTTPServerFactory

KIB: Final = 1024
MIB: Final = 1024 * KIB

_log = Logger()

_NEVER: Final = float("inf")

#: Received bytes that are kept while nothing may be done with them, until reading pauses. Not less than a
#: client may send ahead in earnest: while reading is paused, its going away is not noticed.
_HELD_LIMIT: Final = 64 * KIB
#: Seconds in which one who sent something that is not HTTP may read the answer.
_LINGER: Final = 2.0


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a client may take of a server. Sizes in bytes, times in seconds.

    ``head_size``: request line and header fields (431). ``head_timeout``: for a whole head, from its first
    byte or, for the first one, from the beginning of the connection (408 if any of it came).
    ``body_idle_timeout``: without a byte of a body that is being received (BodyTimeout).
    ``keepalive_timeout``: between requests. ``drain_size``, ``drain_timeout``: how much of a body is read and
    thrown away, and for how long, after it was answered early, so that the client comes to read the answer
    instead of being reset (RFC 9112 section 9.6). ``stall_timeout``: a client that reads nothing of what is
    waiting for it is dropped.
    """

    head_size: int = 64 * KIB
    head_timeout: float = 30.0
    body_idle_timeout: float = 60.0
    keepalive_timeout: float = 300.0
    drain_size: int = 128 * MIB
    drain_timeout: float = 30.0
    stall_timeout: float = 600.0


#: What the bytes that arrive belong to. A head: of the next request. Held: nothing yet, the request at hand
#: comes first. A body: one that its handler waits for. Waste: a body that was answered already, or what
#: follows an error. Nothing: the connection is being closed.
_HEAD: Final = 0
_HELD: Final = 1
_BODY: Final = 2
_WASTE: Final = 3
_NOTHING: Final = 4


class IConnection(ITransport, IConsumer, IPushProducer):
    """What a transport must be, to carry HTTP: TCP, TLS and any multiplexed stream."""

    def abortConnection() -> None:
        """Drop the connection at once, in a way that the other side can tell from a regular end."""


def _nowhere(data: bytes) -> None:
    """Before there is a transport."""


@implementer(IPushProducer)
class HTTPServerProtocol(Protocol):
    """One connection. It is a producer for its transport: paused, it pauses who writes the response, and
    begins no other request.

    ``send``: writes to the transport. ``deadline``: when something must have happened, in the clock's seconds;
    the factory looks at it every second.
    """

    transport: IConnection

    def __init__(self, factory: HTTPServerFactory) -> None:
        self.factory: HTTPServerFactory = factory
        self.send: Callable[[bytes], None] = _nowhere
        self.deadline = _NEVER
        self.is_blocked = False
        self._blocked_since = _NEVER
        self._arriving = _HEAD
        self._buffer = b""
        self._searched = 0  # bytes of the buffer that hold no end of a head
        self._served = False  # a request has been received on this connection
        self._wasted = 0  # bytes thrown away
        self._reading = True
        self._dispatching = False
        self._request: ServerRequest | None = None
        self._body: BodyReader | None = None
        self._continue_expected = False
        self._on_body: Callable[[Body], None] | None = None
        self._on_body_error: Callable[[Exception], None] | None = None
        self._body_limit = 0
        self._successor: IProtocol | None = None

    @property
    def is_last(self) -> bool:
        """Whether the request at hand is the last one: the server is stopping."""
        return self.factory.stopping

    @property
    def is_idle(self) -> bool:
        """Whether there is no request, nor a part of one."""
        return self._arriving == _HEAD and not self._buffer

    # What the transport calls
    # ---------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self.factory.connection_made(self)
        transport = self.transport
        if ITCPTransport.providedBy(transport):
            set_socket_options(transport)
        self.send = direct_writer(transport)
        self._peer = transport.getPeer()
        transport.registerProducer(self, True)
        self.deadline = self._after(self.factory.limits.head_timeout)

    def dataReceived(self, data: bytes) -> None:
        arriving = self._arriving
        if arriving == _HEAD:
            if self._buffer:
                self._buffer += data
            else:
                self._buffer = data
                if self._served:
                    self.deadline = self._after(self.factory.limits.head_timeout)
            self._dispatch()
            if self.is_blocked and len(self._buffer) > _HELD_LIMIT:
                self._pause_reading()
        elif arriving == _BODY:
            self._take_body(data)
        elif arriving == _HELD:
            self._buffer += data
            if len(self._buffer) > _HELD_LIMIT:
                self._pause_reading()
        elif arriving == _WASTE:
            self._waste(data)
        elif self._successor is not None:
            self._successor.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.deadline = _NEVER
        self._arriving = _NOTHING
        self._buffer = b""
        self._forget_body()
        request, self._request = self._request, None
        if request is not None:
            self.call(request.gone)
        successor, self._successor = self._successor, None
        if successor is not None:
            self.call(successor.connectionLost, reason)
        self.factory.connection_lost(self)

    def pauseProducing(self) -> None:
        self.is_blocked = True
        self._blocked_since = self.factory.clock.seconds()
        if self._request is not None and self._request.producer is not None:
            self._request.producer.pauseProducing()

    def resumeProducing(self) -> None:
        self.is_blocked = False
        self._blocked_since = _NEVER
        if self._request is None:
            self._dispatch()
            if self._arriving == _HEAD:
                self._resume_reading()
        elif self._request.producer is not None:
            self._request.producer.resumeProducing()

    def stopProducing(self) -> None:
        """The transport says so when the connection is lost; connectionLost follows."""

    # What the factory calls
    # -----------------------------------------------------------------------------------

    def check_deadline(self, now: float) -> None:
        """Act on a deadline that has passed; ``now`` in the clock's seconds."""
        if now - self._blocked_since >= self.factory.limits.stall_timeout:
            if self._request is not None:
                self._request.give_up()
            else:
                self.abort()
        elif now >= self.deadline:
            self._time_out()

    def close_when_idle(self) -> None:
        """Take no further request."""
        if self.is_idle:
            self._close()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._arriving = _NOTHING
        self._buffer = b""
        self._forget_body()
        self.deadline = _NEVER
        self.transport.abortConnection()

    # What the request calls
    # -----------------------------------------------------------------------------------

    def receive_body(
        self, limit: int, on_body: Callable[[Body], None], on_error: Callable[[Exception], None]
    ) -> None:
        """See ServerRequest.receive_body. Raises RuntimeError where it was called before."""
        body = self._body
        if self._arriving != _HELD or body is None:
            raise RuntimeError("the body has been asked for already")
        self._on_body, self._on_body_error = on_body, on_error
        try:
            body.keep(limit)
        except BodyTooLarge as error:
            self._body_failed(error)
            return
        data, self._buffer = self._buffer, b""
        if data:
            self._continue_expected = False
        if self._continue_expected:
            self._continue_expected = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._arriving = _BODY
        self._resume_reading()
        if data or body.complete:
            self._take_body(data)
        else:
            self.deadline = self._after(self.factory.limits.body_idle_timeout)

    def leave_body(self) -> bool:
        """The response begins. Whether all of the request has been received; what still comes is thrown
        away."""
        body = self._body
        self._forget_body()
        if body is None:
            return self._arriving == _HELD
        body.discard()
        if self._arriving == _HELD:
            data, self._buffer = self._buffer, b""
            try:
                rest = body.feed(data)
            except FramingError:
                self._body = None
                self._arriving = _WASTE
                return False
            if body.complete:
                self._body = None
                self._buffer = rest
                return True
        self._arriving = _WASTE
        self.deadline = _NEVER
        self._resume_reading()
        return False

    def response_finished(self, close: bool) -> None:
        """The response has been written; ``close``: it was the last one."""
        self._request = None
        if self._arriving == _WASTE:
            complete = self._body is not None and self._body.complete
            if self._reading and not complete:
                self.deadline = self._after(self.factory.limits.drain_timeout)
            else:
                self._close()
        elif close or self.factory.stopping:
            if self._buffer:
                # A request behind the last one: closing now might take the response away from the client.
                self._arriving = _WASTE
                self.deadline = self._after(_LINGER)
                self._buffer = b""
                self._resume_reading()
            else:
                self._close()
        elif self._arriving == _HELD:
            self._arriving = _HEAD
            self._searched = 0
            self._resume_reading()
            limits = self.factory.limits
            self.deadline = self._after(limits.head_timeout if self._buffer else limits.keepalive_timeout)
            self._dispatch()

    def close_unfinished(self) -> None:
        """Close behind what was written of a response that is not complete."""
        self._request = None
        self._forget_body()
        self._close()

    def refuse(self, status: int, message: str) -> None:
        """Answer what never became a request, or cannot be answered otherwise, and close."""
        self._request = None
        self._forget_body()
        self._body = None
        self._buffer = b""
        self._arriving = _WASTE
        self._resume_reading()
        self.deadline = self._after(_LINGER)
        try:
            head, body = self.factory.malformed(status, message)
            skipped = (b"content-length", b"transfer-encoding", b"connection")
            headers = [field for field in head.headers if field[0].lower() not in skipped]
            headers += [(b"Content-Length", b"%d" % len(body)), (b"Connection", b"close")]
            raw = join_head(b"HTTP/1.1 %d %b" % (head.status, head.reason), headers)
        except Exception:
            _log.failure("no answer could be made for what was refused")
            self._close()
        else:
            self.transport.write(raw + body)

    def take_over(self, successor: IProtocol) -> None:
        """See ServerRequest.take_over. Raises RuntimeError where the request has a body that was not received."""
        if not self.leave_body():
            raise RuntimeError("the request has a body that was not received")
        transport = self.transport
        transport.unregisterProducer()
        self._resume_reading()
        self._arriving = _NOTHING
        self.deadline = self._blocked_since = _NEVER
        self._request = None
        self._successor = successor
        early, self._buffer = self._buffer, b""
        successor.makeConnection(transport)
        if early and self._successor is not None:
            successor.dataReceived(early)

    def call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call into a handler, whose errors cost its own request only."""
        request = self._request
        try:
            callback(*arguments)
        except Exception:
            _log.failure("request handler failed")
            if request is not None:
                request.fail(500, "internal error")

    # Inside
    # ---------------------------------------------------------------------------------------------------

    def _after(self, seconds: float) -> float:
        return self.factory.clock.seconds() + seconds

    def _dispatch(self) -> None:
        """Hand the requests in the buffer to the handler, one after the other, as far as they can be
        answered."""
        if self._dispatching:
            return
        self._dispatching = True
        try:
            while self._arriving == _HEAD and self._buffer and not self.is_blocked:
                if not self._take_head():
                    return
        finally:
            self._dispatching = False

    def _take_head(self) -> bool:
        """Begin the request whose head stands in the buffer. False if the head is not complete, or
        refused."""
        buffer = self._buffer
        while buffer[:2] == b"\r\n":  # RFC 9112 section 2.2
            buffer = self._buffer = buffer[2:]
            self._searched = 0
        size_limit = self.factory.limits.head_size
        end = buffer.find(b"\r\n\r\n", max(0, self._searched - 3), size_limit) + 4
        try:
            if end < 4:
                if len(buffer) >= size_limit:
                    raise FramingError("request head too large", 431)
                if buffer != b"\r":
                    check_partial(buffer, self._searched)
                self._searched = len(buffer)
                return False
            incoming = parse_request_head(buffer[:end])
        except FramingError as error:
            self.refuse(error.status, str(error))
            return False
        self._buffer = buffer[end:]
        self._searched = 0
        self._served = True
        self.deadline = _NEVER
        self._arriving = _HELD
        self._body = BodyReader(incoming.body_length)
        self._continue_expected = incoming.expects_continue and incoming.body_length != 0
        self._request = request = ServerRequest(self, incoming, self._peer)
        self.call(self.factory.handler, request)
        return True

    def _take_body(self, data: bytes) -> None:
        """Bytes of the body that the handler waits for, and maybe of what follows it."""
        body = self._body
        assert body is not None
        try:
            rest = body.feed(data)
        except FramingError as error:
            self._body = None
            self._body_failed(BodyMalformed(str(error)))
            return
        except BodyTooLarge as error:
            self._body_failed(error)
            return
        if not body.complete:
            self.deadline = self._after(self.factory.limits.body_idle_timeout)
            return
        self.deadline = _NEVER
        self._arriving = _HELD
        self._buffer = rest
        self._body = None
        on_body = self._on_body
        self._forget_body()
        if on_body is not None:
            self.call(on_body, Body(body.chunks))

    def _body_failed(self, error: Exception) -> None:
        """Throw away what still comes of the body, and let the handler answer."""
        self.deadline = _NEVER
        self._arriving = _WASTE
        on_error = self._on_body_error
        self._forget_body()
        if self._body is not None:
            self._body.discard()
            data, self._buffer = self._buffer, b""
            self._resume_reading()
            if data:
                self._waste(data)
        if on_error is not None:
            self.call(on_error, error)

    def _forget_body(self) -> None:
        self._on_body = self._on_body_error = None

    def _waste(self, data: bytes) -> None:
        """Throw received bytes away, until the body they belong to has ended or too many have come."""
        body = self._body
        if body is None:
            self._wasted += len(data)
        else:
            try:
                body.feed(data)
            except FramingError:
                body = self._body = None
            else:
                self._wasted = body.discarded
                if body.complete:
                    if self._request is None:
                        self._close()
                    return
        if self._wasted > self.factory.limits.drain_size:
            if self._request is None:
                self._close()
            else:
                self._pause_reading()

    def _time_out(self) -> None:
        """The deadline has passed."""
        limits = self.factory.limits
        if self._arriving == _HEAD:
            if self.is_blocked:
                self.deadline = self._after(limits.head_timeout)
            elif self._buffer:
                self.refuse(408, "the request did not arrive in time")
            else:
                self._close()
        elif self._arriving == _BODY:
            self._body_failed(BodyTimeout())
        elif self._arriving == _WASTE:
            self._close()
        else:
            self.abort()

    def _close(self) -> None:
        """Close as soon as what was written has been sent; abort if that does not happen for too long."""
        self._arriving = _NOTHING
        self._buffer = b""
        self._blocked_since = _NEVER  # not to be seen any more without being registered
        self.deadline = self._after(self.factory.limits.stall_timeout)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self.transport.pauseProducing()

    def _resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self.transport.resumeProducing()
