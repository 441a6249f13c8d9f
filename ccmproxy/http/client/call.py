"""One call to an upstream, and what is told about its response."""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.http.client.upgrade import SwitchedConnection
from ccmproxy.http.failures import UpstreamError
from ccmproxy.http.message import ResponseHead

_log = Logger()


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Time-outs in seconds, and the size of a response's head in bytes.

    ``connect_timeout``: until there is a connection, TLS included. ``first_byte_timeout``: from the request being
    written to the head of the (final) response. ``idle_timeout``: between bytes of a response, or progress of an
    upload; only the upstream's bytes count (F15), and not the time for which we did not read. ``keepalive_timeout``:
    for which an unused connection is kept. ``head_size``: of all heads of one response together, the interim ones
    included; it also bounds what comes between two pieces of a chunked body, and its trailers.
    """

    connect_timeout: float = 10.0
    first_byte_timeout: float = 600.0
    idle_timeout: float = 600.0
    keepalive_timeout: float = 60.0
    head_size: int = 256 * 1024


class ResponseReceiver(typing.Protocol):
    """What is told about one response. Never called before ``send`` has returned, nor after ``Call.cancel``.

    An exception from one of these methods is logged and the call cancelled.
    """

    def response_started(self, head: ResponseHead, data: bytes) -> None:
        """The final response's head, and what has come of the body in the same read, maybe nothing: so that whoever
        passes both on can do so in one write. Interim responses (1xx) are not shown."""

    def response_data(self, data: bytes) -> None:
        """A piece of the body, in the reactor turn that brought it. Never empty."""

    def response_ended(self) -> None:
        """The response is complete. Its connection can be used for the next call already."""

    def response_failed(self, error: UpstreamError) -> None:
        """There will be no (whole) response: RequestNotSent, UpstreamTimeout, ResponseLost or
        UpstreamProtocolError."""


class CallConnection(typing.Protocol):
    """What a call does with the connection that serves it."""

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Read on."""

    def abort(self) -> None:
        """Break the connection at once, without a word to the call."""


@implementer(IPushProducer)
class Call:
    """One request, from ``ConnectionPool.send`` to the end of its response.

    Provides IPushProducer, so that whoever takes the response can be its consumer: pausing stops reading from the
    upstream. What has been read already (at most one read of the transport) still arrives.
    """

    __slots__ = (
        "abandon",
        "body",
        "connection",
        "head",
        "last",
        "method",
        "on_switch",
        "over",
        "paused",
        "receiver",
        "size",
    )

    def __init__(
        self, head: bytes, method: bytes, body: Sequence[bytes], size: int, receiver: ResponseReceiver
    ) -> None:
        self.head = head
        self.method = method
        self.body = body
        self.size = size
        self.receiver = receiver
        self.connection: CallConnection | None = None
        #: The connection is to be closed after this call.
        self.last = False
        self.paused = False
        self.over = False
        #: Gets the connection if the upstream switches protocols; None where that was not asked for.
        self.on_switch: Callable[[ResponseHead, SwitchedConnection], None] | None = None
        #: Undoes what is going on while there is no connection yet.
        self.abandon: Callable[[Call], None] | None = None

    def pauseProducing(self) -> None:
        self.paused = True
        if self.connection is not None:
            self.connection.pause()

    def resumeProducing(self) -> None:
        self.paused = False
        if self.connection is not None:
            self.connection.resume()

    def stopProducing(self) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Give up: the upstream sees its connection close at once, and the receiver is not called any more.

        Does nothing once the response has ended or failed.
        """
        if self.over:
            return
        self.over = True
        if self.connection is not None:
            self.connection.abort()
        elif self.abandon is not None:
            self.abandon(self)

    def failed(self, error: UpstreamError) -> None:
        """Tell the receiver, unless the call is over already."""
        if self.over:
            return
        self.over = True
        try:
            self.receiver.response_failed(error)
        except Exception:
            _log.failure("receiver of a response raised when told of its failure")
