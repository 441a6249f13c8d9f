"""One HTTP/1.1 connection to an upstream: it sends a request and passes the response on as it arrives.

Heads are parsed strictly by :mod:`ccmproxy.http.framing`. Bodies of known length, and bodies that end with the
connection, are passed on as received. The chunked coding is decoded by llhttp (in C, through httptools), which sees
only the chunks. :mod:`.connection_pool` chooses the connection for a request.
"""

from __future__ import annotations

import re
import typing
from typing import Final

from httptools import HttpParserError, HttpResponseParser
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.http.client.call import Call, ClientLimits
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
from ccmproxy.http.framing import FramingError, body_length, response_has_body, split_head
from ccmproxy.http.message import Headers, ResponseHead, list_items
from ccmproxy.transports.carried import CarrierConnectionLost
from ccmproxy.transports.contract import IByteStream
from ccmproxy.transports.tcp import direct_writer

#: If the upstream had closed a kept-alive connection, that becomes visible within one round trip of the next request.
#: If the connection is lost later than this (seconds) without a byte of a response, the upstream may already have acted
#: on the request.
_STALE_WITHIN: Final = 10.0

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: (.*))?")
_VERSION: Final = b"HTTP/1."
#: Fed to llhttp first, so that it expects chunks and refuses any bytes after the last one.
_CHUNKED_HEAD: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"

#: Stands for an empty buffer; never modified.
_EMPTY: Final = bytearray()

#: A request body of up to this size (bytes) is joined to its head and sent in one write.
_JOINED: Final = 64 * 1024

# What is expected next from the upstream. Plain numbers, as they are compared once per chunk.
_IDLE: Final = 0
_HEAD: Final = 1
_CHUNKED: Final = 2
_SIZED: Final = 3
_UNTIL_CLOSE: Final = 4
_SWITCHED: Final = 5

_log = Logger()


class ConnectionOwner(typing.Protocol):
    """The owner of a connection, as the connection notifies it."""

    limits: ClientLimits

    def seconds(self) -> float:
        """Return the time in seconds since any epoch."""

    def connection_free(self, connection: HTTPClientProtocol) -> None:
        """The response is complete and the connection can take another request."""

    def connection_closing(self, connection: HTTPClientProtocol) -> None:
        """The connection takes no more requests and will be lost soon."""

    def connection_switched(self, connection: HTTPClientProtocol) -> None:
        """The connection speaks another protocol from now on, and has another owner."""

    def connection_lost(self, connection: HTTPClientProtocol) -> None:
        """The connection is gone."""

    def connection_stale(self, connection: HTTPClientProtocol) -> None:
        """The upstream had closed this connection while it was idle."""


@implementer(IProtocol)
class HTTPClientProtocol:
    """HTTP/1.1 on one connection, one request at a time.

    Whether a lost request is reported as RequestNotSent or as ResponseLost depends on whether it counts as sent. A
    request with a body of more than ``WHOLE_REQUEST`` bytes is written by a producer; it counts as sent when the
    transport has taken the last piece without pausing the producer, or has resumed it afterwards. A smaller request
    counts as sent when it is written: the transport then holds all of it and passes it to the kernel next, and there is
    no way to know how far it got.
    """

    __slots__ = (
        "_buffer",
        "_call",
        "_closing",
        "_done",
        "_head_size",
        "_heard",
        "_keep_alive",
        "_last_heard",
        "_mode",
        "_overhead",
        "_owner",
        "_parser",
        "_pieces",
        "_remaining",
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
        self._mode = _IDLE
        self._parser: HttpResponseParser | None = None
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
        mode = self._mode
        if mode == _CHUNKED:
            self._heard = True
            self._receive_chunks(data)
        elif mode == _SIZED:
            self._heard = True
            self._receive_sized(data)
        elif mode == _HEAD:
            self._receive_head(data)
        elif mode == _UNTIL_CLOSE:
            self._heard = True
            self._deliver(data)
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
        if self._mode == _UNTIL_CLOSE and reason.check(ConnectionDone):
            self._closing = True
            self._end()
            return
        used = self._used
        stale = used and not self._responded and self._owner.seconds() - self._started <= _STALE_WITHIN
        self._closing = True
        self._detach()
        if stale:
            self._owner.connection_stale(self)
        why = reason.getErrorMessage()
        if self._responded:
            call.failed(ResponseLost(f"the upstream's response broke off: {why}"))
        elif stale:
            call.failed(RequestNotSent(f"the upstream had closed a kept-alive connection: {why}"))
        elif not self._sent:
            call.failed(RequestNotSent(f"the connection was lost while the request was being sent: {why}"))
        elif reason.check(CarrierConnectionLost):
            call.failed(CarrierLost(f"the connection beneath was lost: {why}"))
        else:
            call.failed(ResponseLost(f"the upstream closed the connection without a response: {why}"))

    # What the pool calls

    @property
    def is_closing(self) -> bool:
        """Whether the connection is lost, or about to be."""
        return self._closing

    def start(self, call: Call) -> None:
        """Send the request of ``call``. The connection must be idle."""
        call.connection = self
        self._call = call
        self._mode = _HEAD
        self._buffer = _EMPTY
        self._head_size = 0
        self._responded = self._heard = self._done = False
        self._started = self._last_heard = self._owner.seconds()
        if call.size <= WHOLE_REQUEST:
            self._sent = True
            if call.size <= _JOINED:
                self._send(b"".join((call.head, *call.body)))
            else:
                self.transport.writeSequence([call.head, *call.body])
        else:
            self._sent = False
            self._upload = Upload(self, self.transport, call.head, call.body)
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
        if self._mode == _HEAD and self._sent:
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

    def _receive_head(self, data: bytes) -> None:
        self._responded = True
        call = self._call
        assert call is not None
        while True:
            joined: bytes | bytearray = data
            seen = len(self._buffer)
            after_cr = seen and self._buffer[-1] == 13
            if seen:
                joined = self._buffer
                joined += data
            end = joined.find(b"\r\n\r\n", max(0, seen - 3))
            if end < 0:
                if not seen:
                    self._buffer = bytearray(data)
                if not _VERSION.startswith(joined[:7]):
                    self._fail(UpstreamProtocolError("what the upstream sent is not an HTTP/1 response"))
                elif self._head_size + len(joined) > self._owner.limits.head_size:
                    self._fail(UpstreamProtocolError("the head of the upstream's response is too large"))
                elif data.count(b"\n") - data.count(b"\r\n") != (after_cr and data[0] == 10):
                    # Such a head would never be ended by an empty line.
                    self._fail(UpstreamProtocolError("bare LF in the head of the upstream's response"))
                return
            self._buffer = _EMPTY
            self._head_size += end + 4
            if self._head_size > self._owner.limits.head_size:
                self._fail(UpstreamProtocolError("the head of the upstream's response is too large"))
                return
            try:
                start_line, headers = split_head(bytes(joined[: end + 4]))
                match = _STATUS_LINE.fullmatch(start_line)
                if match is None:
                    raise FramingError("invalid status line")
                status = int(match[2])
                if status >= 200:
                    length = body_length(headers)
                    if length == -1 and match[1] == b"0":
                        raise FramingError("Transfer-Encoding in an HTTP/1.0 response")
            except FramingError as error:
                self._fail(UpstreamProtocolError(f"malformed response from the upstream: {error}"))
                return
            data = bytes(joined[end + 4 :])
            if status >= 200:
                break
            if status == 101:
                if call.on_switch is None:
                    self._fail(UpstreamProtocolError("the upstream switched protocols unasked"))
                else:
                    self._switch(ResponseHead(status, match[3] or b"", headers), data)
                return
            if not data:
                return
        self._keep_alive = not call.last and is_persistent(match[1], headers)
        self._last_heard = self._owner.seconds()
        self._start_body(ResponseHead(status, match[3] or b"", headers), length, data)

    def _start_body(self, head: ResponseHead, length: int | None, data: bytes) -> None:
        """Pass on the head and ``data``, which came in the same read, and prepare for the rest of the body.

        ``length``: of the body in bytes; -1: chunked, None: until the connection closes.
        """
        call = self._call
        assert call is not None
        if not response_has_body(call.method, head.status):
            length = 0
        problem: HttpParserError | None = None
        if length == -1:
            self._mode = _CHUNKED
            self._overhead = 0
            self._pieces: list[bytes] = []
            self._parser = HttpResponseParser(self)
            self._parser.feed_data(_CHUNKED_HEAD)
            if data:
                data, problem = self._unchunk(data)
        elif length is None:
            self._mode = _UNTIL_CLOSE
            self._keep_alive = False
        else:
            self._mode = _SIZED
            self._remaining = length
            data = self._take_sized(data)
        if data:
            self._heard = True
        try:
            call.receiver.response_started(head, data)
        except Exception:
            self._receiver_failed()
        if self._call is not call:
            return
        if self._mode == _CHUNKED:
            self._check_chunks(problem)
        elif self._mode == _SIZED and not self._remaining:
            self._end()

    def _switch(self, head: ResponseHead, early: bytes) -> None:
        """End HTTP on this connection, and hand it to the call's ``on_switch``. ``early``: bytes after the 101."""
        call = self._call
        assert call is not None and call.on_switch is not None
        self._detach()
        call.over = True
        self._mode = _SWITCHED
        self._switched = switched = SwitchedConnection(self.transport, early)
        self._owner.connection_switched(self)
        try:
            call.on_switch(head, switched)
        except Exception:
            _log.failure("whoever asked for another protocol raised when given it")
            switched.abort()

    def _receive_sized(self, data: bytes) -> None:
        rest = self._remaining - len(data)
        if rest > 0:
            self._remaining = rest
            self._deliver(data)
            return
        call = self._call
        self._deliver(self._take_sized(data))
        if self._call is call:
            self._end()

    def _take_sized(self, data: bytes) -> bytes:
        """Return the part of ``data`` that belongs to the body of known length."""
        extra = len(data) - self._remaining
        if extra <= 0:
            self._remaining = -extra
            return data
        # The upstream sent more than it announced, so further bytes on this connection cannot be trusted.
        self._keep_alive = False
        data = data[: self._remaining]
        self._remaining = 0
        return data

    def _receive_chunks(self, data: bytes) -> None:
        call = self._call
        data, problem = self._unchunk(data)
        if data:
            self._deliver(data)
            if self._call is not call:
                return
        if problem is not None or self._done or self._overhead > self._owner.limits.head_size:
            self._check_chunks(problem)

    def _unchunk(self, data: bytes) -> tuple[bytes, HttpParserError | None]:
        """Decode the chunked coding. Returns the payload up to an error, and that error or None.

        All chunks of one read are joined, so that a burst of small chunks costs a single write.
        """
        self._overhead += len(data)
        problem: HttpParserError | None = None
        try:
            self._parser.feed_data(data)  # type: ignore[union-attr]  # there is one in this mode
        except HttpParserError as error:
            problem = error
        pieces = self._pieces
        if not pieces:
            return b"", problem
        self._pieces = []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), problem

    def _check_chunks(self, problem: HttpParserError | None) -> None:
        """End the call if the chunked body has ended, is malformed, or has too much overhead."""
        if problem is not None:
            if not self._done:
                self._fail(UpstreamProtocolError(f"malformed body from the upstream: {problem}"))
                return
            self._keep_alive = False  # there were bytes after the last chunk
        if self._done:
            self._end()
        elif self._overhead > self._owner.limits.head_size:
            self._fail(UpstreamProtocolError("too much between the chunks of the upstream's response"))

    # llhttp calls these two methods while it is being fed: they must not feed it again or reuse the connection.

    def on_body(self, data: bytes) -> None:
        """Keep a piece of a chunk (callback of llhttp)."""
        self._overhead = 0
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        """Note that the last chunk and the trailers have been read (callback of llhttp)."""
        self._done = True

    def _deliver(self, data: bytes) -> None:
        call = self._call
        if call is not None:
            try:
                call.receiver.response_data(data)
            except Exception:
                self._receiver_failed()

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
        self._detach()
        self._close(abort=True)
        if call is not None:
            call.failed(error)

    def _detach(self) -> None:
        """Separate the connection from its call."""
        call, self._call = self._call, None
        self._mode = _IDLE
        self._parser = None
        self._buffer = _EMPTY
        if call is not None:
            call.connection = None
        if self._upload is not None:
            self._upload = None
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


def is_persistent(minor: bytes, headers: Headers) -> bool:
    """Return whether the connection may be reused (RFC 9112 section 9.3). ``minor``: digit of the HTTP/1.x version."""
    options = {option.lower() for option in list_items(headers, b"connection")}
    if b"close" in options:
        return False
    return minor == b"1" or b"keep-alive" in options
