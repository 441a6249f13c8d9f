"""HTTP/1.1 on one server connection: requests are handled one after the other, each after the previous response."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.http.failures import BodyMalformed, BodyNotTaken, BodyTimeout
from ccmproxy.http.framing import FramingError
from ccmproxy.http.server.owner import KIB, ConnectionOwner, last_answer
from ccmproxy.http.server.request import ServerRequest
from ccmproxy.http.server.request_body import BodyIntake, OnBody, OnError, Reserve, no_body
from ccmproxy.http.server.request_head import take_head
from ccmproxy.transports.contract import IByteStream, nowhere
from ccmproxy.transports.read_gate import ReadGate
from ccmproxy.transports.stall import StallWatch
from ccmproxy.transports.tcp import direct_writer, set_socket_options

_log = Logger()

_NEVER: Final = float("inf")

#: Received bytes that are buffered before reading pauses, while they cannot be processed yet. This is at least as much
#: as a well-behaved client sends ahead: while reading is paused, a disconnect goes unnoticed.
_HELD_LIMIT: Final = 64 * KIB
#: Seconds for which a connection lingers after an error, so that the client can read the answer.
_LINGER: Final = 2.0
#: Requests that are begun in one turn of the reactor, of those that a client has sent ahead (pipelining).
MOST_AT_ONCE: Final = 32

#: What arriving bytes belong to. Head: the next request. Held: buffered until the current request is done. Body: a body
#: that the handler waits for. Waste: discarded, as a body that was answered already or as data after an error. Nothing:
#: HTTP is over on this connection.
_HEAD, _HELD, _BODY, _WASTE, _NOTHING = range(5)


@implementer(IPushProducer)
class HTTPServerProtocol(Protocol):
    """One server connection. It is the push producer of its transport: when it is paused, it pauses the producer of the
    response, and begins no other request.

    ``send``: writes to the transport. ``deadline``: when the current wait times out, in the clock's seconds; the owner
    checks it every second.
    """

    transport: IByteStream

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self.send: Callable[[bytes], None] = nowhere
        self.deadline = _NEVER
        self.is_blocked = False
        self._arriving = _HEAD
        self._buffer = b""
        self._searched = 0  # bytes of the buffer that have been searched for the end of a head
        self._served = False  # whether a request has been received on this connection
        self._dispatching = False
        #: Goes on with requests sent ahead. The transport is not read meanwhile.
        self._next_turn: IDelayedCall | None = None
        self._request: ServerRequest | None = None
        self._body: BodyIntake | None = None
        self._successor: IProtocol | None = None

    @property
    def is_last(self) -> bool:
        """Whether the current request is the last one because the server is stopping."""
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
        elif (successor := self._successor) is not None:
            successor.dataReceived(data)

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
            if self._arriving == _HEAD and self._next_turn is None:
                self._gate.open()
        elif self._request.producer is not None:
            self._request.producer.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing: the transport calls this when the connection is lost, and connectionLost follows."""

    # What the factory calls

    def check_deadline(self, now: float) -> None:
        """Enforce the time-outs of the connection. To be called every second, with ``now`` in the clock's seconds."""
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
        """Close now if no request is being received or answered, else after the current response."""
        if self._arriving == _HEAD and not self._buffer:
            self._close()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._arriving = _NOTHING
        self._buffer, self._body = b"", None
        self.deadline = _NEVER
        self.transport.abortConnection()

    # What the request calls

    def receive_body(
        self, limit: int, on_body: OnBody, on_error: OnError, reserve: Reserve | None = None
    ) -> None:
        """See ServerRequest.receive_body. Raises RuntimeError where it was called before."""
        body = self._body
        if self._arriving != _HELD or body is None:
            raise RuntimeError("the body has been asked for already")
        try:
            body.ask(limit, on_body, on_error, reserve)
        except BodyNotTaken as error:
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
        """Discard the rest of the request's body as the response begins. Returns whether it was received completely."""
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
        """Go on to the next request after a complete response, or close. ``close``: this response is the last one."""
        self._request = None
        if self._arriving == _WASTE:
            if self._gate.is_open and not (self._body is not None and self._body.is_complete):
                self.deadline = self._after(self._owner.limits.drain_timeout)
            else:
                self._close()
        elif close or self._owner.stopping:
            if self._buffer:
                # There is another request: closing now could reset the connection before the response is read.
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
        """Close after the written part of an incomplete response has been sent."""
        self._request = self._body = None
        self._close()

    def refuse(self, status: int, message: str) -> None:
        """Answer a malformed request, or one whose handler failed, with an error, and close the connection."""
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
        """Call a handler's code. An exception is logged and fails only the handler's own request."""
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
        """Hand buffered requests to the handler, one after the other, until one cannot be answered at once."""
        if self._dispatching or self._next_turn is not None:
            return
        self._dispatching = True
        try:
            for _ in range(MOST_AT_ONCE):
                if self._arriving != _HEAD or not self._buffer or self.is_blocked or not self._take_head():
                    return
            self._gate.close()
            self._next_turn = self._owner.clock.callLater(0, self._go_on)
        finally:
            self._dispatching = False

    def _go_on(self) -> None:
        self._next_turn = None
        if self._arriving == _HEAD and not self.is_blocked:
            self.resumeProducing()

    def _take_head(self) -> bool:
        """Begin the request whose head is in the buffer. Returns False if the head is incomplete or was refused."""
        try:
            incoming, self._buffer = take_head(self._buffer, self._searched, self._owner.limits.head_size)
        except FramingError as error:
            self.refuse(error.status, str(error))
            return False
        if incoming is None:
            self._searched = len(self._buffer)
            return False
        self._searched = 0
        self._served = True
        self.deadline = _NEVER
        self._arriving = _HELD
        self._body = BodyIntake(incoming.body_length, incoming.expects_continue)
        self._request = request = ServerRequest(self, incoming, self._peer)
        self.call(self._owner.handler, request)
        return True

    def _take_body(self, data: bytes) -> None:
        """Process bytes of the body that the handler waits for; they may extend into the next request."""
        body = self._body
        assert body is not None
        try:
            rest = body.receive(data)
        except (BodyMalformed, BodyNotTaken) as error:
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
        """Discard the rest of the body, and tell the handler so that it can answer."""
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
        """Discard received bytes until their body has ended or its ``drain_size`` is exceeded."""
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
        """Act on an expired deadline."""
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
        """Close once all written bytes have been sent. The stall watch aborts if the client stops reading them."""
        self._arriving, self._buffer, self.deadline = _NOTHING, b"", _NEVER
        self._stall.blocked(self._owner.clock.seconds())
        self.transport.unregisterProducer()
        self.transport.loseConnection()
