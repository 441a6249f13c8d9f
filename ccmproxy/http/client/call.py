"""One call to an upstream, and the interface of the object that receives its response."""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.http.client.response_head import MOST_INTERIM_RESPONSES
from ccmproxy.http.client.upgrade import SwitchedConnection
from ccmproxy.http.failures import UpstreamError
from ccmproxy.http.message import ResponseHead

_log = Logger()


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Limits of a connection pool. Times in seconds, ``head_size`` in bytes.

    ``connect_timeout``: until a connection is established, TLS included. ``first_byte_timeout``: from the end of the
    request to the head of the final response. ``idle_timeout``: between bytes of a response, or between steps of an
    upload; only the upstream's bytes count (F15), and time during which reading is paused does not.
    ``keepalive_timeout``: how long an idle connection is kept. ``head_size``: largest size of all heads of one response
    together, interim ones included; it also bounds the overhead between two pieces of a chunked body, and its trailers.
    ``interim_responses``: most interim responses (1xx) to one request; 102 (Processing) comes every 20 seconds or so.
    """

    connect_timeout: float = 10.0
    first_byte_timeout: float = 600.0
    idle_timeout: float = 600.0
    keepalive_timeout: float = 60.0
    head_size: int = 256 * 1024
    interim_responses: int = MOST_INTERIM_RESPONSES


class ResponseReceiver(typing.Protocol):
    """The interface of an object that receives one response.

    Its methods are never called before ``send`` has returned, nor after ``Call.cancel``. An exception from one of them
    is logged, and the call is cancelled.
    """

    def response_started(self, head: ResponseHead, data: bytes) -> None:
        """The head of the final response has arrived. ``data``: the part of the body that came in the same read, maybe
        empty, so that both can be relayed in one write. Interim responses (1xx) are not reported."""

    def response_data(self, data: bytes) -> None:
        """A piece of the body, never empty, has arrived; called in the reactor turn in which it was received."""

    def response_ended(self) -> None:
        """The response is complete. Its connection may already be reused."""

    def response_failed(self, error: UpstreamError) -> None:
        """There will be no complete response. ``error``: RequestNotSent, UpstreamTimeout, ResponseLost or
        UpstreamProtocolError."""


class CallConnection(typing.Protocol):
    """The connection that serves a call, as the call uses it."""

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Resume reading."""

    def abort(self) -> None:
        """Drop the connection at once, without notifying the call."""


@implementer(IPushProducer)
class Call:
    """One request, from ``ConnectionPool.send`` to the end of its response.

    It is an IPushProducer, so the receiver of the response can exert back-pressure: pausing stops reading from the
    upstream. Bytes that have been read already (at most one read of the transport) are still delivered.
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
        "was_started",
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
        #: Whether the connection is to be closed after this call.
        self.last = False
        self.paused = False
        self.over = False
        #: Whether the request was given to an open connection: before that, no upstream has seen anything of it.
        self.was_started = False
        #: Called with the connection if the upstream switches protocols; None if that was not asked for.
        self.on_switch: Callable[[ResponseHead, SwitchedConnection], None] | None = None
        #: Cancels the attempt to connect, or the report of its failure; set while there is no connection yet.
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
        """Cancel the call: its connection is dropped at once, and the receiver is not called any more.

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
        """Report ``error`` to the receiver, unless the call is over already."""
        if self.over:
            return
        self.over = True
        try:
            self.receiver.response_failed(error)
        except Exception:
            _log.failure("receiver of a response raised when told of its failure")
