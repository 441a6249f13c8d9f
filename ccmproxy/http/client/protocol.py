"""One HTTP/1.1 connection to an upstream: a request goes out, its response is passed on as it arrives.

Heads are read by :mod:`ccmproxy.http.framing`, strictly; bodies of known length and bodies that end with the
connection are passed through as they come; the chunked coding is taken off by llhttp (in C, through httptools),
which sees nothing but the chunks. :mod:`.connection_pool` decides which connection a request goes to.
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

#: A kept-alive connection that the upstream had closed shows it within a round trip of the request. If it is lost
#: without a byte of response later than this many seconds, the upstream may well have been at work.
_STALE_WITHIN: Final = 10.0

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: (.*))?")
_VERSION: Final = b"HTTP/1."
#: Makes llhttp expect chunks, and refuse anything behind the last one.
_CHUNKED_HEAD: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"

#: Stands for "nothing buffered"; never written to.
_EMPTY: Final = bytearray()

#: Up to this size (bytes) a request's body is joined to its head, to be sent at once.
_JOINED: Final = 64 * 1024

# What is expected next from the upstream. Plain numbers: compared once per chunk.
_IDLE: Final = 0
_HEAD: Final = 1
_CHUNKED: Final = 2
_SIZED: Final = 3
_UNTIL_CLOSE: Final = 4
_SWITCHED: Final = 5

_log = Logger()


class ConnectionOwner(typing.Protocol):
    """What a connection tells whoever owns it."""

    limits: ClientLimits

    def seconds(self) -> float:
        """The time, of any epoch."""

    def connection_free(self, connection: HTTPClientProtocol) -> None:
        """The response is complete and the connection can take another request."""

    def connection_closing(self, connection: HTTPClientProtocol) -> None:
        """The connection takes no more requests, and will be lost soon."""

    def connection_switched(self, connection: HTTPClientProtocol) -> None:
        """The connection speaks another protocol from now on, and has another owner."""

    def connection_lost(self, connection: HTTPClientProtocol) -> None:
        """The connection is gone."""

    def connection_stale(self, connection: HTTPClientProtocol) -> None:
        """The upstream had closed this connection while nobody used it."""


@implementer(IProtocol)
class HTTPClientProtocol:
    """HTTP/1.1 on one connection, one request at a time.

    What counts as sent, and so decides between RequestNotSent and ResponseLost: a body that is produced (more than
    ``WHOLE_REQUEST``) is sent when the transport has taken its last piece and asked for more, or did not pause the
    producer after it. A smaller request is sent when it is written: the transport then holds all of it, and its
    next act is to give it to the kernel; that it got no further cannot be known.
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
        """Part of IProtocol; nothing is to be done."""

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
            # Nobody asked: an answer to nothing, or more than the last length said. What comes next on this
            # connection could be taken for the answer to another request.
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
        """Send a request. The connection must be free."""
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
        call.head, call.body = b"", ()  # whoever may have to repeat it has its own
        if call.paused:
            self.transport.pauseProducing()

    def check(self, now: float) -> None:
        """Called about once a second: ends the call if the upstream has been silent for too long."""
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
        """Close a connection that has nothing to do, in good order."""
        self._close(abort=False)

    def abort(self) -> None:
        """Break the connection. A call on it is not told."""
        self._detach()
        self._close(abort=True)

    # What the call does

    def pause(self) -> None:
        """Stop reading."""
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read on."""
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
                    # No empty line would ever end it.
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
        """Pass the head on, and ``data``, which came in the same read; then get ready for the rest of a body of
        ``length`` bytes (-1: chunked, None: until the end)."""
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
        """HTTP is over here: whoever asked for another protocol gets the connection."""
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
        """What of ``data`` belongs to a body of known length."""
        extra = len(data) - self._remaining
        if extra <= 0:
            self._remaining = -extra
            return data
        # More than was announced: what comes next on this connection cannot be trusted.
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
        """Take the chunked coding off; the second is what is wrong with it, behind what could still be read.

        All chunks of one read are passed on together: a burst of small ones costs one write, not one each.
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
        """End the call if the chunks have ended, or are not as they should be."""
        if problem is not None:
            if not self._done:
                self._fail(UpstreamProtocolError(f"malformed body from the upstream: {problem}"))
                return
            self._keep_alive = False  # more came than the last chunk
        if self._done:
            self._end()
        elif self._overhead > self._owner.limits.head_size:
            self._fail(UpstreamProtocolError("too much between the chunks of the upstream's response"))

    # llhttp calls these two while it is fed: it must not be fed again from within, nor the connection re-used.

    def on_body(self, data: bytes) -> None:
        """A piece of a chunk."""
        self._overhead = 0
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        """The last chunk and the trailers have been read."""
        self._done = True

    def _deliver(self, data: bytes) -> None:
        call = self._call
        if call is not None:
            try:
                call.receiver.response_data(data)
            except Exception:
                self._receiver_failed()

    def _receiver_failed(self) -> None:
        """In an exception handler: log, and treat as cancel."""
        _log.failure("receiver of a response raised; its call is cancelled")
        if self._call is not None:
            self._call.cancel()

    # Ends

    def _end(self) -> None:
        """The response is complete: free or close the connection, then tell."""
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
            # An upload that is still going on would keep a graceful close waiting.
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
        """Forget the call."""
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
    """Whether the connection may be used again (RFC 9112 section 9.3)."""
    options = {option.lower() for option in list_items(headers, b"connection")}
    if b"close" in options:
        return False
    return minor == b"1" or b"keep-alive" in options
