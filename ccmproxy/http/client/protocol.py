"""One HTTP/1.1 connection to an upstream: it sends a request and passes the response on as it arrives.

:mod:`.response_head` reads heads, strictly. :mod:`.response_body` passes bodies of known length and bodies that end
with the connection through as they come; the chunked coding is taken off by llhttp (in C, through httptools), which
sees nothing but the chunks. :mod:`.connection_pool` decides which connection a request goes to.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Final

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.http.client.call import Call, ClientLimits
from ccmproxy.http.client.response_body import BodyUntilClose, ChunkedBody, FirstRead, ResponseBody, SizedBody
from ccmproxy.http.client.response_head import ResponseHeadReader
from ccmproxy.http.client.upgrade import SwitchedConnection
from ccmproxy.http.client.upload import WHOLE_REQUEST, Upload
from ccmproxy.http.failures import (
    CarrierLost,
    RequestNotSent,
    ResponseLost,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from ccmproxy.http.framing import response_has_body
from ccmproxy.http.message import ResponseHead
from ccmproxy.transports.carried import CarrierConnectionLost
from ccmproxy.transports.contract import IByteStream
from ccmproxy.transports.tcp import direct_writer

#: Up to this size (bytes) a request's body is joined to its head, to be sent at once.
_JOINED: Final = 64 * 1024

_log = Logger()


class ConnectionOwner(typing.Protocol):
    """The owner of a connection, as the connection notifies it."""

    limits: ClientLimits

    def seconds(self) -> float:
        """Return the time in seconds since any epoch."""

    def next_turn(self, call: Callable[[], None]) -> object:
        """Call a function in the next turn of the reactor."""

    def connection_free(self, connection: HTTPClientProtocol) -> None:
        """The response is complete and the connection can take another request."""

    def connection_closing(self, connection: HTTPClientProtocol) -> None:
        """The connection takes no more requests and will be lost soon."""

    def connection_switched(self, connection: HTTPClientProtocol) -> None:
        """The connection speaks another protocol from now on, and has another owner."""

    def connection_lost(self, connection: HTTPClientProtocol) -> None:
        """The connection is gone."""

    def connection_stale(self, connection: HTTPClientProtocol) -> None:
        """This reused connection was lost without a byte of a response: the upstream may have closed it while it was
        idle."""


@implementer(IProtocol)
class HTTPClientProtocol:
    """HTTP/1.1 on one connection, one request at a time.

    A lost request is reported as ResponseLost if it counts as sent, else as RequestNotSent. A request with a body of
    more than ``WHOLE_REQUEST`` bytes is written by a producer; it counts as sent when the transport has taken the last
    piece without pausing the producer, or has resumed it afterwards. A smaller one counts as sent when it is written:
    the transport then holds all of it, and there is no way to know how far it got.
    """

    __slots__ = (
        "_body",
        "_call",
        "_closing",
        "_head",
        "_heard",
        "_keep_alive",
        "_last_heard",
        "_owner",
        "_responded",
        "_send",
        "_sent",
        "_started",
        "_switched",
        "_upload",
        "_used",
        "transport",
    )
    transport: IByteStream

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self._call: Call | None = None
        #: What the upstream's bytes belong to, while there is a call: a head, or a body once there is one.
        self._head: ResponseHeadReader | None = None
        self._body: ResponseBody | None = None
        self._upload: Upload | None = None
        self._switched: SwitchedConnection | None = None
        self._used = False
        self._closing = False

    # IProtocol

    def makeConnection(self, transport: typing.Any) -> None:
        self.transport = transport
        self._send = direct_writer(transport)

    def connectionMade(self) -> None:
        """Do nothing; part of IProtocol."""

    def dataReceived(self, data: bytes) -> None:
        body = self._body
        if body is not None:
            self._heard = True
            body.receive(data, self)
        elif self._head is not None:
            self._receive_head(self._head, data)
        elif self._switched is not None:
            self._switched.data_received(data)
        elif not self._closing:
            # Unsolicited bytes: a response without a request, or bytes beyond the length of the last response. What
            # follows on this connection could be mistaken for the response to another request.
            self._close(abort=True)

    def connectionLost(self, reason: Failure) -> None:
        self._owner.connection_lost(self)
        call = self._call
        if call is None:
            self._closing = True
            if self._switched is not None:
                self._switched.connection_lost(reason)
            return
        if self._body is not None and self._body.ends_with_connection and reason.check(ConnectionDone):
            self._closing = True
            self._end()
            return
        was_reused, seconds = self._used, self._owner.seconds() - self._started
        self._closing = True
        self._detach()
        if was_reused and not self._responded:
            self._owner.connection_stale(self)
        why = reason.getErrorMessage()
        if self._responded:
            message = f"the upstream's response broke off: {why}"
            call.failed(ResponseLost(message, was_reused=was_reused, seconds=seconds, has_begun=True))
        elif not self._sent:
            call.failed(RequestNotSent(f"the connection was lost while the request was being sent: {why}"))
        elif reason.check(CarrierConnectionLost):
            message = f"the connection beneath was lost: {why}"
            call.failed(CarrierLost(message, was_reused=was_reused, seconds=seconds))
        else:
            message = f"the upstream closed the connection without a response: {why}"
            call.failed(ResponseLost(message, was_reused=was_reused, seconds=seconds))

    # What the pool calls

    @property
    def is_closing(self) -> bool:
        """Whether the connection is lost, or about to be."""
        return self._closing

    def start(self, call: Call) -> None:
        """Send the request of ``call``. The connection must be idle."""
        call.connection = self
        call.was_started = True
        self._call = call
        limits = self._owner.limits
        self._head = ResponseHeadReader(limits.head_size, limits.interim_responses)
        self._responded = self._heard = False
        self._started = self._last_heard = self._owner.seconds()
        self._sent = call.size <= WHOLE_REQUEST
        if self._sent:
            if call.size <= _JOINED:
                self._send(b"".join((call.head, *call.body)))
            else:
                self.transport.writeSequence([call.head, *call.body])
        else:
            self._upload = Upload(self, self.transport, self._owner.next_turn, call.head, call.body)
            self.transport.registerProducer(self._upload, True)
            if self._upload is not None:
                self._upload.resumeProducing()
        call.head, call.body = b"", ()  # frees memory; a caller that may retry keeps its own copy
        if call.paused:
            self.transport.pauseProducing()

    def check(self, now: float) -> None:
        """End the call if the upstream has been silent for too long. Called about once a second."""
        call = self._call
        if call is None:
            return
        if self._heard or call.paused:
            self._heard = False
            self._last_heard = now
            return
        silence = now - self._last_heard
        limits = self._owner.limits
        if self._head is not None and self._sent:
            if silence >= limits.first_byte_timeout:
                self._fail(UpstreamTimeout(f"no response within {limits.first_byte_timeout:g} seconds"))
        elif silence >= limits.idle_timeout:
            what = "the upstream sent nothing for" if self._sent else "the upstream took nothing for"
            self._fail(UpstreamTimeout(f"{what} {limits.idle_timeout:g} seconds"))

    def close(self) -> None:
        """Close an idle connection gracefully."""
        self._close(abort=False)

    def abort(self) -> None:
        """Drop the connection at once, without notifying its call."""
        self._detach()
        self._close(abort=True)

    # What the call does

    def pause(self) -> None:
        """Stop reading."""
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Resume reading."""
        self._last_heard = self._owner.seconds()
        self.transport.resumeProducing()

    # Sending

    def upload_finished(self) -> None:
        """The transport has taken the whole request."""
        self._upload = None
        self._sent = True
        self.transport.unregisterProducer()

    def upload_progressed(self) -> None:
        """The transport has taken a piece of the request."""
        self._heard = True

    def upload_stopped(self) -> None:
        """The transport will take nothing more: the connection is about to be lost."""
        self._upload = None

    # Receiving

    def _receive_head(self, reader: ResponseHeadReader, data: bytes) -> None:
        self._responded = True
        call = self._call
        assert call is not None
        while True:
            try:
                found = reader.feed(data)
            except UpstreamProtocolError as error:
                self._fail(error)
                return
            if found is None:
                return
            head, data = found.head, found.rest
            if head.status >= 200:
                break
            if head.status == 101:
                if call.on_switch is None:
                    self._fail(UpstreamProtocolError("the upstream switched protocols unasked"))
                else:
                    self._switch(head, data)
                return
            if not data:
                return
        self._keep_alive = not call.last and found.is_persistent
        self._last_heard = self._owner.seconds()
        length = found.body_length if response_has_body(call.method, head.status) else 0
        self._start_body(call, head, length, data)

    def _start_body(self, call: Call, head: ResponseHead, length: int | None, data: bytes) -> None:
        """Pass the head on, and ``data``, which came in the same read; then get ready for the rest of a body of
        ``length`` bytes (-1: chunked, None: until the end)."""
        self._head = None
        body: ResponseBody | None = None
        if length == -1:
            body = ChunkedBody(self._owner.limits.head_size)
        elif length is None:
            body = BodyUntilClose()
            self._keep_alive = False
        elif length:
            body = SizedBody(length)
        self._body = body
        first = FirstRead()
        if data and body is not None:
            self._heard = True
            body.receive(data, first)
        try:
            call.receiver.response_started(head, first.data)
        except Exception:
            self._receiver_failed()
        if self._call is not call:
            return
        if body is not None:
            first.pass_end(body, self)
        else:
            self._keep_alive = self._keep_alive and not data
            self._end()

    def _switch(self, head: ResponseHead, early: bytes) -> None:
        """End HTTP on this connection, and hand it to the call's ``on_switch``. ``early``: bytes after the 101."""
        call = self._call
        assert call is not None and call.on_switch is not None
        self._detach()
        call.over = True
        self._switched = switched = SwitchedConnection(self.transport, early)
        self._owner.connection_switched(self)
        try:
            call.on_switch(head, switched)
        except Exception:
            _log.failure("whoever asked for another protocol raised when given it")
            switched.abort()

    # What the body tells

    def body_data(self, data: bytes) -> None:
        """See BodyReader."""
        try:
            self._call.receiver.response_data(data)  # type: ignore[union-attr]  # there is one while a body comes
        except Exception:
            self._receiver_failed()

    def body_ended(self, body: ResponseBody, is_clean: bool) -> None:
        """See BodyReader."""
        if self._body is body:
            self._keep_alive = self._keep_alive and is_clean
            self._end()

    def body_malformed(self, body: ResponseBody, problem: str) -> None:
        """See BodyReader."""
        if self._body is body:
            self._fail(UpstreamProtocolError(problem))

    def _receiver_failed(self) -> None:
        """Log the exception that is being handled, and cancel the call."""
        _log.failure("receiver of a response raised; its call is cancelled")
        if self._call is not None:
            self._call.cancel()

    # Ends

    def _end(self) -> None:
        """Free or close the connection after a complete response, then notify the receiver."""
        call = self._call
        assert call is not None
        free = self._keep_alive and self._sent and not self._closing
        uploading = self._upload is not None
        self._detach()
        call.over = True
        if free:
            self._used = True
            if call.paused:
                self.transport.resumeProducing()
            self._owner.connection_free(self)
        else:
            # A graceful close would wait for an upload that is still in progress.
            self._close(abort=uploading)
        try:
            call.receiver.response_ended()
        except Exception:
            _log.failure("receiver of a response raised when told of its end")

    def _fail(self, error: UpstreamError) -> None:
        call = self._call
        assert call is not None
        self._detach()
        self._close(abort=True)
        call.failed(error)

    def _detach(self) -> None:
        """Separate the connection from its call."""
        call, self._call = self._call, None
        self._head = self._body = None
        if call is not None:
            call.connection = None
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.cancel()
            self.transport.unregisterProducer()

    def _close(self, abort: bool) -> None:
        if self._closing:
            return
        self._closing = True
        self._owner.connection_closing(self)
        if abort:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()
