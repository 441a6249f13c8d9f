"""HTTP/1.1 on one connection: requests one after the other, each answered before the next is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.http.failures import BodyMalformed, BodyTimeout, BodyTooLarge
from ccmproxy.http.framing import FramingError
from ccmproxy.http.message import Body
from ccmproxy.http.server.owner import KIB, ConnectionOwner, last_answer
from ccmproxy.http.server.request import ServerRequest
from ccmproxy.http.server.request_body import BodyIntake, no_body
from ccmproxy.http.server.request_head import find_head_end, parse_request_head
from ccmproxy.transports.contract import IByteStream, nowhere
from ccmproxy.transports.read_gate import ReadGate
from ccmproxy.transports.stall import StallWatch
from ccmproxy.transports.tcp import direct_writer, set_socket_options

_log = Logger()

_NEVER: Final = float("inf")

#: Received bytes that are kept while nothing may be done with them, until reading pauses. Not less than a client may
#: send ahead in earnest: while reading is paused, its going away is not noticed.
_HELD_LIMIT: Final = 64 * KIB
#: Seconds in which one who sent something that is not HTTP may read the answer.
_LINGER: Final = 2.0

#: What the bytes that arrive belong to. A head: of the next request. Held: nothing yet, the request at hand comes
#: first. A body: one that its handler waits for. Waste: a body that was answered already, or what follows an error.
#: Nothing: the connection is being closed.
_HEAD: Final = 0
_HELD: Final = 1
_BODY: Final = 2
_WASTE: Final = 3
_NOTHING: Final = 4


@implementer(IPushProducer)
class HTTPServerProtocol(Protocol):
    """One connection. It is a producer for its transport: paused, it pauses who writes the response, and begins no
    other request.

    ``send``: writes to the transport. ``deadline``: when something must have happened, in the clock's seconds;
    the owner looks at it every second.
    """

    transport: IByteStream

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self.send: Callable[[bytes], None] = nowhere
        self.deadline = _NEVER
        self.is_blocked = False
        self._arriving = _HEAD
        self._buffer = b""
        self._searched = 0  # bytes of the buffer that hold no end of a head
        self._served = False  # a request has been received on this connection
        self._dispatching = False
        self._request: ServerRequest | None = None
        self._body: BodyIntake | None = None
        self._successor: IProtocol | None = None

    @property
    def is_last(self) -> bool:
        """Whether the request at hand is the last one: the server is stopping."""
        return self._owner.stopping

    # What the transport calls

    def connectionMade(self) -> None:
        self._owner.connection_made(self)
        set_socket_options(transport := self.transport)
        self.send = direct_writer(transport)
        self._stall = StallWatch(transport)
        self._gate = ReadGate(transport)
        self._peer = transport.getPeer()
        transport.registerProducer(self, True)
        self.deadline = self._after(self._owner.limits.head_timeout)

    def dataReceived(self, data: bytes) -> None:
        arriving = self._arriving
        if arriving == _HEAD:
            if self._buffer:
                self._buffer += data
            else:
                self._buffer = data
                if self._served:
                    self.deadline = self._after(self._owner.limits.head_timeout)
            self._dispatch()
            if self.is_blocked and len(self._buffer) > _HELD_LIMIT:
                self._gate.close()
        elif arriving == _BODY:
            self._take_body(data)
        elif arriving == _HELD:
            self._buffer += data
            if len(self._buffer) > _HELD_LIMIT:
                self._gate.close()
        elif arriving == _WASTE:
            self._waste(data)
        elif self._successor is not None:
            self._successor.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.deadline = _NEVER
        self._arriving = _NOTHING
        self._buffer = b""
        self._body = None
        request, self._request = self._request, None
        if request is not None:
            self.call(request.gone)
        successor, self._successor = self._successor, None
        if successor is not None:
            self.call(successor.connectionLost, reason)
        self._owner.connection_lost(self)

    def pauseProducing(self) -> None:
        self.is_blocked = True
        self._stall.blocked(self._owner.clock.seconds())
        if self._request is not None and self._request.producer is not None:
            self._request.producer.pauseProducing()

    def resumeProducing(self) -> None:
        self.is_blocked = False
        self._stall.released()
        if self._request is None:
            self._dispatch()
            if self._arriving == _HEAD:
                self._gate.open()
        elif self._request.producer is not None:
            self._request.producer.resumeProducing()

    def stopProducing(self) -> None:
        """The transport says so when the connection is lost; connectionLost follows."""

    # What the factory calls

    def check_deadline(self, now: float) -> None:
        """Act on what has lasted too long; ``now`` in the clock's seconds. To be called every second."""
        stalled = self._stall.seconds(now)
        request = self._request
        timeout = self._owner.limits.client_stall_timeout
        if request is not None and request.stall_timeout < timeout:
            timeout = request.stall_timeout
        if stalled >= timeout:
            _log.info(
                "client {peer} dropped: it has taken nothing for {s} s", peer=self._peer, s=int(stalled)
            )
            if request is not None:
                request.give_up()
            else:
                self.abort()
        elif now >= self.deadline:
            self._time_out()

    def close_when_idle(self) -> None:
        """Take no further request."""
        if self._arriving == _HEAD and not self._buffer:
            self._close()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._arriving = _NOTHING
        self._buffer = b""
        self._body = None
        self.deadline = _NEVER
        self.transport.abortConnection()

    # What the request calls

    def receive_body(
        self, limit: int, on_body: Callable[[Body], None], on_error: Callable[[Exception], None]
    ) -> None:
        """See ServerRequest.receive_body. Raises RuntimeError where it was called before."""
        body = self._body
        if self._arriving != _HELD or body is None:
            raise RuntimeError("the body has been asked for already")
        try:
            body.ask(limit, on_body, on_error)
        except BodyTooLarge as error:
            self._body_failed(error)
            return
        data, self._buffer = self._buffer, b""
        if body.continue_expected and not data:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body.continue_expected = False
        self._arriving = _BODY
        self._gate.open()
        if data or body.is_complete:
            self._take_body(data)
        else:
            self.deadline = self._after(self._owner.limits.body_idle_timeout)

    def leave_body(self) -> bool:
        """The response begins. Whether all of the request has been received; what still comes is thrown away."""
        body = self._body
        if body is None:
            return self._arriving == _HELD
        body.forget()
        if self._arriving == _HELD:
            data, self._buffer = self._buffer, b""
            self._buffer = body.waste(data)
            if body.is_complete:
                self._body = None
                return True
        self._arriving = _WASTE
        self.deadline = _NEVER
        self._gate.open()
        return False

    def response_finished(self, close: bool) -> None:
        """The response has been written; ``close``: it was the last one."""
        self._request = None
        if self._arriving == _WASTE:
            if self._gate.is_open and not (self._body is not None and self._body.is_complete):
                self.deadline = self._after(self._owner.limits.drain_timeout)
            else:
                self._close()
        elif close or self._owner.stopping:
            if self._buffer:
                # A request behind the last one: closing now might take the response away from the client.
                self._body = no_body()
                self._arriving = _WASTE
                self.deadline = self._after(_LINGER)
                self._buffer = b""
                self._gate.open()
            else:
                self._close()
        elif self._arriving == _HELD:
            self._arriving = _HEAD
            self._searched = 0
            self._gate.open()
            limits = self._owner.limits
            self.deadline = self._after(limits.head_timeout if self._buffer else limits.keepalive_timeout)
            self._dispatch()

    def close_unfinished(self) -> None:
        """Close behind what was written of a response that is not complete."""
        self._request = self._body = None
        self._close()

    def refuse(self, status: int, message: str) -> None:
        """Answer what never became a request, or cannot be answered otherwise, and close."""
        self._request = None
        self._body = no_body()
        self._buffer = b""
        self._arriving = _WASTE
        self._gate.open()
        self.deadline = self._after(_LINGER)
        try:
            self.transport.write(last_answer(self._owner, status, message))
        except Exception:
            _log.failure("no answer could be made for what was refused")
            self._close()

    def take_over(self, successor: IProtocol) -> None:
        """See ServerRequest.take_over. Raises RuntimeError where the request has a body that was not received."""
        if not self.leave_body():
            raise RuntimeError("the request has a body that was not received")
        transport = self.transport
        transport.unregisterProducer()
        self._gate.open()
        self._stall.released()
        self._arriving, self._request, self.deadline = _NOTHING, None, _NEVER
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

    def _after(self, seconds: float) -> float:
        return self._owner.clock.seconds() + seconds

    def _dispatch(self) -> None:
        """Hand the requests in the buffer to the handler, one after the other, as far as they can be answered."""
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
        """Begin the request whose head stands in the buffer. False if the head is not complete, or refused."""
        buffer = self._buffer
        while buffer[:2] == b"\r\n":  # RFC 9112 section 2.2
            buffer = self._buffer = buffer[2:]
            self._searched = 0
        try:
            end = find_head_end(buffer, self._searched, self._owner.limits.head_size)
            if not end:
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
        self._body = BodyIntake(incoming.body_length, incoming.expects_continue)
        self._request = request = ServerRequest(self, incoming, self._peer)
        self.call(self._owner.handler, request)
        return True

    def _take_body(self, data: bytes) -> None:
        """Bytes of the body that the handler waits for, and maybe of what follows it."""
        body = self._body
        assert body is not None
        try:
            rest = body.receive(data)
        except (BodyMalformed, BodyTooLarge) as error:
            self._body_failed(error)
            return
        if not body.is_complete:
            self.deadline = self._after(self._owner.limits.body_idle_timeout)
            return
        self.deadline = _NEVER
        self._arriving = _HELD
        self._buffer = rest
        self._body = None
        tell = body.received()
        if tell is not None:
            self.call(tell)

    def _body_failed(self, error: Exception) -> None:
        """Throw away what still comes of the body, and let the handler answer."""
        self.deadline = _NEVER
        self._arriving = _WASTE
        body = self._body
        if body is None:
            return
        tell = body.failed(error)
        data, self._buffer = self._buffer, b""
        self._gate.open()
        self._waste(data)
        if tell is not None:
            self.call(tell)

    def _waste(self, data: bytes) -> None:
        """Throw received bytes away, until the body they belong to has ended or too many have come."""
        body = self._body
        if body is None:
            return
        body.waste(data)
        if body.is_complete:
            if self._request is None:
                self._close()
        elif body.wasted > self._owner.limits.drain_size:
            if self._request is None:
                self._close()
            else:
                self._gate.close()

    def _time_out(self) -> None:
        """The deadline has passed."""
        if self._arriving == _HEAD:
            if self.is_blocked:
                self.deadline = self._after(self._owner.limits.head_timeout)
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
        """Close as soon as what was written has been sent; abort if the client stops taking it."""
        self._arriving, self._buffer, self.deadline = _NOTHING, b"", _NEVER
        self._stall.blocked(self._owner.clock.seconds())
        self.transport.unregisterProducer()
        self.transport.loseConnection()
