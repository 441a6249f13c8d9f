"""One request as its handler sees it, and the methods with which the handler answers it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from twisted.internet.interfaces import IAddress, IProtocol, IPushProducer
from twisted.logger import Logger

from ccmproxy.http.framing import (
    LAST_CHUNK,
    FramingError,
    chunk,
    join_head,
    parse_content_length,
    response_has_body,
)
from ccmproxy.http.message import Headers, ResponseHead, lower_names
from ccmproxy.http.server.request_body import OnBody, OnError, Reserve
from ccmproxy.http.server.request_head import IncomingHead

_log = Logger()

#: States of a request. Answering: nothing of the response was sent yet. Streaming: the response has begun. Finished:
#: the handler has completed the response. Over: the response can no longer be sent, and calls of the handler do
#: nothing.
_ANSWERING: Final = 0
_STREAMING: Final = 1
_FINISHED: Final = 2
_OVER: Final = 3

#: How the body of the response ends. Values from 0 on are the number of bytes left of a body of known length.
_CHUNKED: Final = -1
_WITH_CONNECTION: Final = -2
_NO_BODY: Final = -3

#: Fields of a response that frame its body or concern the connection, which the server sets itself.
_FRAMING: Final = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"content-length"})
#: A piece of this size (bytes) or more is written without copying it behind its framing or its head.
_COPIED: Final = 16 * 1024


class ResponseTransport(Protocol):
    """The part of a transport that is needed to write a response."""

    def write(self, data: bytes) -> None:
        """See ITransport."""

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """See ITransport."""


class RequestConnection(Protocol):
    """The connection that a request arrived on, as the request uses it."""

    #: Writes to the transport.
    send: Callable[[bytes], None]
    #: Whether the transport's buffer is full (back-pressure).
    is_blocked: bool

    @property
    def transport(self) -> ResponseTransport:
        """The transport of the connection."""

    @property
    def is_last(self) -> bool:
        """Whether the current request is the last one of the connection."""

    def receive_body(
        self, limit: int, on_body: OnBody, on_error: OnError, reserve: Reserve | None = None
    ) -> None:
        """See :meth:`ServerRequest.receive_body`."""

    def leave_body(self) -> bool:
        """Discard the rest of the request's body as the response begins. Returns whether it was received completely."""

    def response_finished(self, close: bool) -> None:
        """Go on to the next request after a complete response, or close. ``close``: this response is the last one."""

    def close_unfinished(self) -> None:
        """Close after the written part of an incomplete response has been sent."""

    def refuse(self, status: int, message: str) -> None:
        """Send an error answer in place of the handler's response, and close the connection."""

    def take_over(self, successor: IProtocol) -> None:
        """See :meth:`ServerRequest.take_over`."""

    def abort(self) -> None:
        """Drop the connection at once."""

    def call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call a handler's code. An exception is logged and fails only the handler's own request."""


class ServerRequest:
    """A request, which is answered by ``respond``, or by ``start_response``, any number of ``write``, and ``finish``.

    Once the client is gone, these methods do nothing. Calling them out of order raises RuntimeError.
    """

    __slots__ = (
        "_close",
        "_connection",
        "_incoming",
        "_left",
        "_on_gone",
        "_state",
        "head",
        "peer",
        "producer",
        "stall_timeout",
    )

    def __init__(self, connection: RequestConnection, incoming: IncomingHead, peer: IAddress) -> None:
        self.head = incoming.head
        self.peer = peer
        self.producer: IPushProducer | None = None
        #: Seconds after which a client that reads nothing of the response is dropped; effective if shorter than the
        #: ``client_stall_timeout`` of the server.
        self.stall_timeout = float("inf")
        self._connection = connection
        self._incoming = incoming
        self._state = _ANSWERING
        self._left = _NO_BODY
        self._close = not incoming.keep_alive
        self._on_gone: Callable[[], None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether the response is finished or aborted, or the client is gone."""
        return self._state >= _FINISHED

    @property
    def can_switch(self) -> bool:
        """Whether the client may ask to switch to another protocol on this connection (RFC 9110 section 7.8)."""
        return self._incoming.is_http11

    # The request

    def receive_body(
        self, limit: int, on_body: OnBody, on_error: OnError, reserve: Reserve | None = None
    ) -> None:
        """Receive the whole body, at most ``limit`` bytes. May be called once, before the response is begun.

        ``reserve`` is called with a number of bytes before they are kept: at once with the announced length, up to 1
        MiB; of what exceeds that, and of a chunked body, as it comes. It may raise NoRoomForBody.

        One of the two is called, maybe before this returns: ``on_body`` with the body, of size 0 where there
        is none, or ``on_error`` with BodyTooLarge (at once where the client announces more), NoRoomForBody,
        BodyTimeout or BodyMalformed. Neither once the client is gone or a response was begun. Sends "100 Continue"
        if the client waits for it. Raises RuntimeError once a response was begun.
        """
        if self._state == _ANSWERING:
            self._connection.receive_body(limit, on_body, on_error, reserve)
        elif self._state != _OVER:
            raise RuntimeError("the response has been started: the body is not received any more")

    def on_gone(self, callback: Callable[[], None] | None) -> None:
        """Set the callback for a response that can no longer be sent, because the client disconnected before the
        response was finished, or the server gave up on the response.

        ``callback`` is called at most once, and never after ``finish`` or ``abort``; None removes it.
        """
        self._on_gone = callback

    # The response

    def start_response(self, head: ResponseHead, first: bytes = b"") -> None:
        """Send the head and the ``first`` piece of the body, in one write unless that piece is large.

        This decides the framing of the body: Content-Length bytes if ``head`` has that field, else chunked or, for
        HTTP/1.0, until the connection closes. There is no body after HEAD and with status 204 and 304.

        Connection, Keep-Alive and Transfer-Encoding in ``head`` are not sent, but "Connection: close" is obeyed. A head
        that cannot be sent, for example with a line break in a value, is logged and replaced by a 502.
        """
        self._begin(head, None, first)

    def write(self, data: bytes) -> None:
        """Send a piece of the body. Raises RuntimeError where no response was begun."""
        if self._state != _STREAMING:
            if self._state == _OVER:
                return
            raise RuntimeError("no response is being sent")
        left = self._left
        if not data or left == _NO_BODY:
            return
        connection = self._connection
        if left == _CHUNKED:
            if len(data) < _COPIED:
                connection.send(chunk(data))
            else:
                connection.transport.writeSequence([b"%x\r\n" % len(data), data, b"\r\n"])
        elif left == _WITH_CONNECTION:
            connection.send(data)
        elif len(data) <= left:
            self._left = left - len(data)
            connection.send(data)
        else:
            _log.error("response longer than its Content-Length, connection aborted")
            self.give_up()

    def finish(self) -> None:
        """The response is complete. One shorter than its Content-Length is logged, and aborted instead.

        Raises RuntimeError where no response was begun.
        """
        if self._state != _STREAMING:
            if self._state == _OVER:
                return
            raise RuntimeError("no response is being sent")
        if self._left > 0:
            _log.error("response shorter than its Content-Length, connection aborted")
            self.abort()
            return
        if self._left == _CHUNKED:
            self._connection.send(LAST_CHUNK)
        self._end(_FINISHED)
        self._connection.response_finished(self._close)

    def respond(self, head: ResponseHead, body: bytes) -> None:
        """Send the whole response at once, with its Content-Length."""
        if self._begin(head, body):
            self._end(_FINISHED)
            self._connection.response_finished(self._close)

    def abort(self, *, reset: bool = False) -> None:
        """Close the connection so that the client cannot mistake the truncated response for a complete one.

        If the framing shows that bytes are missing, the bytes that were written are sent before the connection closes,
        as a reset would also destroy what the client has received but not read yet. ``reset``: drop the connection at
        once even then.
        """
        if self._state >= _FINISHED:
            return
        connection = self._connection
        is_framed = self._state == _STREAMING and (self._left == _CHUNKED or self._left > 0)
        self._end(_OVER)
        if is_framed and not reset and not connection.is_blocked:
            connection.close_unfinished()
        else:
            connection.abort()

    def close_after_response(self) -> None:
        """Let this be the last request of its connection."""
        self._close = True

    def register_producer(self, producer: IPushProducer) -> None:
        """Pause ``producer`` while the client reads slowly. It is not told of the end: that is ``on_gone``'s
        task. Raises RuntimeError where there is one already."""
        if self._state >= _FINISHED:
            return
        if self.producer is not None:
            raise RuntimeError("a producer is already registered")
        self.producer = producer
        if self._connection.is_blocked:
            producer.pauseProducing()

    def unregister_producer(self) -> None:
        """Stop pausing and resuming the producer."""
        self.producer = None

    def take_over(self, successor: IProtocol) -> None:
        """Hand the connection over to another protocol, from the first byte after this request; HTTP ends on it.

        ``successor`` is connected to the transport and must write the response itself. Raises RuntimeError when the
        response was started, or when the request has a body that was not received.
        """
        if self._state == _OVER:
            return
        if self._state != _ANSWERING:
            raise RuntimeError("the response has been started")
        self._connection.take_over(successor)
        self._end(_FINISHED)

    # For the connection

    def gone(self) -> None:
        """Mark the response as one that can no longer be sent, and tell the handler."""
        callback = self._on_gone
        self._end(_OVER)
        if callback is not None:
            callback()

    def give_up(self) -> None:
        """Abort the response on behalf of the server, and tell the handler."""
        self._connection.abort()
        self._connection.call(self.gone)

    def fail(self, status: int, message: str) -> None:
        """Report an internal failure: send an error answer if nothing was sent yet, else abort the response."""
        if self._state >= _FINISHED:
            return
        if self._state == _STREAMING:
            self.give_up()
            return
        connection = self._connection
        self._state = _OVER
        connection.refuse(status, message)
        connection.call(self.gone)

    # Inside

    def _end(self, state: int) -> None:
        self._state = state
        self._on_gone = None
        self.producer = None

    def _begin(self, head: ResponseHead, body: bytes | None, first: bytes = b"") -> bool:
        """Send the head with the complete ``body``, or with the ``first`` piece of a body that continues (``body``
        None). Returns False if nothing was sent, as the client is gone or the head cannot be sent.

        Raises RuntimeError when the response has been started already.
        """
        if self._state != _ANSWERING:
            if self._state == _OVER:
                return False
            raise RuntimeError("the response has been started already")
        connection = self._connection
        # After an answer before the end of the body, the connection cannot be reused: the rest of the body follows.
        if not connection.leave_body():
            self._close = True
        try:
            raw = self._serialize(head, None if body is None else len(body))
        except FramingError as error:
            _log.error("response head cannot be sent: {error}", error=str(error))
            self.fail(502, "the response could not be passed on")
            return False
        self._state = _STREAMING
        if body and self._left != _NO_BODY:
            # Copying a large body behind its head would cost more than the write that it saves.
            if len(body) < _COPIED:
                connection.send(raw + body)
            else:
                connection.transport.writeSequence([raw, body])
            self._left = 0
        elif first:
            self._send_with(raw, first)
        else:
            connection.send(raw)
        return True

    def _send_with(self, raw: bytes, first: bytes) -> None:
        """Send the head ``raw`` and the first piece of the body, in one write if that piece is small enough to copy."""
        left = self._left
        if left == _NO_BODY or len(first) >= _COPIED or 0 <= left < len(first):
            self._connection.send(raw)
            self.write(first)
            return
        if left == _CHUNKED:
            first = chunk(first)
        elif left >= 0:
            self._left = left - len(first)
        self._connection.send(raw + first)

    def _serialize(self, head: ResponseHead, length: int | None) -> bytes:
        """Return the bytes of the head, with the fields that frame the body.

        ``length``: bytes of a body that is known completely, else None. Raises FramingError when the head cannot be
        sent.
        """
        headers: Headers = []
        declared = length
        for field, name in zip(head.headers, lower_names(head.headers), strict=True):
            if name in _FRAMING:
                if name == b"connection":
                    self._close = self._close or b"close" in field[1].lower()
                if name != b"content-length" or length is not None:
                    continue
                if declared is not None:
                    raise FramingError("more than one Content-Length")
                declared = parse_content_length(field[1])
            headers.append(field)
        status = head.status
        if status < 200 or status > 999:
            raise FramingError("not the status of a final response")
        if not response_has_body(self.head.method, status):
            self._left = _NO_BODY
            if status == 204 and declared is not None:
                headers = [field for field in headers if field[0].lower() != b"content-length"]
        elif declared is not None:
            self._left = declared
        elif self._incoming.is_http11:
            self._left = _CHUNKED
            headers.append((b"Transfer-Encoding", b"chunked"))
        else:
            self._left = _WITH_CONNECTION
            self._close = True
        if length is not None and (self._left != _NO_BODY or self.head.method == b"HEAD") and status != 204:
            headers.append((b"Content-Length", b"%d" % length))
        if self._close or self._connection.is_last:
            self._close = True
            headers.append((b"Connection", b"close"))
        elif not self._incoming.is_http11:
            headers.append((b"Connection", b"keep-alive"))
        return join_head(b"HTTP/1.1 %d %b" % (status, head.reason), headers)
