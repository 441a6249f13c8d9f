"""One request as its handler sees it, and the response to it."""

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
from ccmproxy.http.message import Body, Headers, ResponseHead
from ccmproxy.http.server.request_head import IncomingHead

_log = Logger()

#: States of a request. Answering: nothing was sent yet. Streaming: the response has begun. Finished: by its
#: handler. Over: there is nobody to answer any more, and whatever the handler still does has no effect.
_ANSWERING: Final = 0
_STREAMING: Final = 1
_FINISHED: Final = 2
_OVER: Final = 3

#: How the body of the response ends, where it is not after a known number of bytes (0 or more).
_CHUNKED: Final = -1
_WITH_CONNECTION: Final = -2
_NO_BODY: Final = -3

#: From this size on a chunk is not copied to be framed.
_COPIED: Final = 16 * 1024


class ResponseTransport(Protocol):
    """What carries a response to a string of writes: a connection that HTTP is spoken on."""

    def write(self, data: bytes) -> None:
        """See ITransport."""

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """See ITransport."""


class RequestConnection(Protocol):
    """What a request asks of the connection that it came on."""

    #: Writes to the transport.
    send: Callable[[bytes], None]
    #: The transport takes no more for now.
    is_blocked: bool

    @property
    def transport(self) -> ResponseTransport:
        """What it writes to."""

    @property
    def is_last(self) -> bool:
        """Whether the request at hand is the last one of the connection."""

    def receive_body(
        self, limit: int, on_body: Callable[[Body], None], on_error: Callable[[Exception], None]
    ) -> None:
        """See :meth:`ServerRequest.receive_body`."""

    def leave_body(self) -> bool:
        """The response begins: whether all of the request has been received."""

    def response_finished(self, close: bool) -> None:
        """The response has been written; ``close``: it was the last one."""

    def close_unfinished(self) -> None:
        """Close behind what was written of a response that is not complete."""

    def refuse(self, status: int, message: str) -> None:
        """Answer in the request's place, and close."""

    def take_over(self, successor: IProtocol) -> None:
        """See :meth:`ServerRequest.take_over`."""

    def abort(self) -> None:
        """Drop the connection at once."""

    def call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call into a handler, whose errors cost its own request only."""


class ServerRequest:
    """A request, and the way to answer it: either ``respond``, or ``start_response``, ``write``…, ``finish``.

    Once the client is gone, all of these do nothing. Calling them out of order raises RuntimeError.
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
        #: Seconds after which a client that takes nothing of the response is dropped, where the handler wants that
        #: sooner than the server does.
        self.stall_timeout = float("inf")
        self._connection = connection
        self._incoming = incoming
        self._state = _ANSWERING
        self._left = _NO_BODY
        self._close = not incoming.keep_alive
        self._on_gone: Callable[[], None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to answer: finished, aborted, or the client is gone."""
        return self._state >= _FINISHED

    @property
    def can_switch(self) -> bool:
        """Whether the client may ask for another protocol on this connection (RFC 9110 section 7.8)."""
        return self._incoming.is_http11

    # The request

    def receive_body(
        self, limit: int, on_body: Callable[[Body], None], on_error: Callable[[Exception], None]
    ) -> None:
        """Receive the whole body, at most ``limit`` bytes; call at most once.

        One of the two is called, maybe before this returns: ``on_body`` with the body, of size 0 where there
        is none, or ``on_error`` with BodyTooLarge (at once where the client announces more), BodyTimeout or
        BodyMalformed. Neither once the client is gone or a response was begun. Sends "100 Continue" if the
        client waits for it. Raises RuntimeError once a response was begun.
        """
        if self._state == _ANSWERING:
            self._connection.receive_body(limit, on_body, on_error)
        elif self._state != _OVER:
            raise RuntimeError("the response has been started: the body is not received any more")

    def on_gone(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback`` if there is nobody to answer any more: the client went away before the response
        was finished, or the server had to give the response up. At most once; never after ``finish`` or
        ``abort``.
        """
        self._on_gone = callback

    # The response

    def start_response(self, head: ResponseHead, first: bytes = b"") -> None:
        """Send the head, and the ``first`` piece of the body with it, in one write unless it is large.

        How the body ends is decided here: after Content-Length bytes where ``head`` has that field, else in chunks, or
        with the connection for HTTP/1.0; after HEAD and with status 204 and 304 there is none.

        Connection, Keep-Alive and Transfer-Encoding in ``head`` do not go out; "Connection: close" is obeyed.
        A head that cannot be sent, with a line break in a value say, is logged, and the client gets a 502 in
        its place.
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
        """The whole response at once; sets Content-Length."""
        if self._begin(head, body):
            self._end(_FINISHED)
            self._connection.response_finished(self._close)

    def abort(self, *, reset: bool = False) -> None:
        """Break the connection in a way that the client cannot take for the end of a response.

        Where the framing tells that something is missing, what was written is still sent before; a reset would also
        destroy what the client has received and not read yet. ``reset``: drop the connection all the same.
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
        """Leave the producer alone from now on."""
        self.producer = None

    def take_over(self, successor: IProtocol) -> None:
        """Hand the connection to another protocol, from the first byte behind this request on; HTTP is over
        for it.

        ``successor`` is connected to the transport itself and must write the response. Raises RuntimeError
        after the response was started, and where the request has a body that was not received.
        """
        if self._state == _OVER:
            return
        if self._state != _ANSWERING:
            raise RuntimeError("the response has been started")
        self._connection.take_over(successor)
        self._end(_FINISHED)

    # For the connection

    def gone(self) -> None:
        """There is nobody to answer any more."""
        callback = self._on_gone
        self._end(_OVER)
        if callback is not None:
            callback()

    def give_up(self) -> None:
        """The server cannot let this response go on: break it, and tell its handler."""
        self._connection.abort()
        self._connection.call(self.gone)

    def fail(self, status: int, message: str) -> None:
        """Something went wrong on our side: say so if nothing was sent yet, else break the response off."""
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
        """Send the head, and ``body`` if that is all of it, or else its ``first`` piece. False if there was nobody to
        send it to."""
        if self._state != _ANSWERING:
            if self._state == _OVER:
                return False
            raise RuntimeError("the response has been started already")
        connection = self._connection
        # Who answers before the body has come cannot use the connection again: what follows is that body.
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
            # A large body is not copied behind its head.
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
        """Send the head ``raw`` and the first piece of the body: one write for both, where that saves more than the
        copy costs."""
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
        """Bytes of the head with the fields that frame the body; ``length``: of a body that is known
        already."""
        headers: Headers = []
        declared = length
        for field in head.headers:
            size = len(field[0])
            if size == 10 or size == 14 or size == 17:
                key = field[0].lower()
                if key == b"connection":
                    self._close = self._close or b"close" in field[1].lower()
                    continue
                if key == b"keep-alive" or key == b"transfer-encoding":
                    continue
                if key == b"content-length":
                    if length is not None:
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
