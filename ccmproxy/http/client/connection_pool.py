"""Requests to one upstream: every call gets a connection of its own at once, and connections are used again.

:class:`ConnectionPool` is for one origin (one endpoint). It never queues: N calls at the same time are N
connections (F27, F41, F43). :mod:`.protocol` speaks HTTP/1.1 on each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.http.client.call import Call, ClientLimits, ResponseReceiver
from ccmproxy.http.client.protocol import HTTPClientProtocol
from ccmproxy.http.client.response_head import is_persistent
from ccmproxy.http.client.upgrade import SwitchedConnection
from ccmproxy.http.failures import RequestNotSent
from ccmproxy.http.framing import FramingError, body_length, join_head
from ccmproxy.http.message import RequestHead, ResponseHead

__all__ = ["Call", "ClientLimits", "ConnectionPool", "HTTPClientProtocol", "ResponseReceiver"]

#: Methods whose request says that it has no body (RFC 9110 section 8.6).
_BODY_EXPECTED: Final = frozenset({b"POST", b"PUT", b"PATCH"})
_DEFAULT_LIMITS: Final = ClientLimits()
#: Seconds between two looks at the time-outs, at most.
_TICK: Final = 1.0
#: Seconds for which a connection that was closed in good order may take to be gone.
_CLOSE_TIMEOUT: Final = 10.0


class ConnectionPool:
    """The connections to one upstream.

    ``idle``, ``busy``, ``connecting``: how many connections wait to be used, serve a call, and are being made.

    A connection is used again, the last one first, if its response was complete, the request had been sent whole,
    and both sides let it. An idle connection is closed when it is ``keepalive_timeout`` old, when the upstream closes
    it and when a byte comes on it. A busy one is never closed by the pool (F28). If a connection turns out to have
    been closed by the upstream while it was idle, the others that are idle are closed as well: so whoever repeats
    the request gets a fresh connection.

    Time-outs are looked at about once a second for all connections together, on ``clock``; nothing is scheduled
    while there are none.
    """

    def __init__(
        self, endpoint: IStreamClientEndpoint, clock: IReactorTime, limits: ClientLimits = _DEFAULT_LIMITS
    ) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self.limits = limits
        #: Since when each has been idle, oldest first.
        self._idle: dict[HTTPClientProtocol, float] = {}
        self._busy: set[HTTPClientProtocol] = set()
        #: Calls without a connection: since when, and what is going on.
        self._connecting: dict[Call, tuple[float, Deferred[IProtocol]]] = {}
        #: Until when each may take to be gone.
        self._closing: dict[HTTPClientProtocol, float] = {}
        self._closed = False
        self._tick: IDelayedCall | None = None
        shortest = min(
            limits.connect_timeout,
            limits.first_byte_timeout,
            limits.idle_timeout,
            limits.keepalive_timeout,
        )
        self._interval = min(_TICK, max(shortest / 4, 0.01))

    def __repr__(self) -> str:
        return f"<ConnectionPool idle={self.idle} busy={self.busy} connecting={self.connecting}>"

    @property
    def idle(self) -> int:
        """Connections that wait to be used."""
        return len(self._idle)

    @property
    def busy(self) -> int:
        """Connections that serve a call."""
        return len(self._busy)

    @property
    def connecting(self) -> int:
        """Connections that are being made, each for its call."""
        return len(self._connecting)

    def send(self, head: RequestHead, body: Sequence[bytes], receiver: ResponseReceiver) -> Call:
        """Send a request, at once.

        ``head`` goes out as given, names, order and case kept; ``body`` are the chunks of the whole body. A
        Content-Length is added where the body is not empty, or the method is POST, PUT or PATCH, and there is none.
        The connection is not kept if the head says ``Connection: close``.

        Raises FramingError for a head that cannot be sent: line breaks in it, a Content-Length that is not the
        body's, a Transfer-Encoding. All else is told to ``receiver``, never before this has returned.
        """
        size = sum(map(len, body))
        call = Call(_request_head(head, size), head.method, body, size, receiver)
        call.last = not is_persistent(b"1", head.headers)
        if self._idle:
            connection, _ = self._idle.popitem()
            self._start(connection, call)
        else:
            self._connect(call)
        return call

    def upgrade(
        self,
        head: RequestHead,
        receiver: ResponseReceiver,
        on_switch: Callable[[ResponseHead, SwitchedConnection], None],
    ) -> Call:
        """Ask the upstream to switch protocols; ``head`` says so in its Connection and Upgrade fields.

        ``on_switch`` gets the head of a 101 and the connection, which leaves the pool; any other answer, and every
        failure, is told to ``receiver`` as by :meth:`send`, with the same time-outs. Raises FramingError.
        """
        call = self.send(head, (), receiver)
        call.on_switch = on_switch
        return call

    def close(self) -> None:
        """Close the idle connections now, the busy ones after their response; keep none from now on.

        A call that is begun after this still gets a connection.
        """
        self._closed = True
        self._close_idle()
        self._stop_ticking_if_empty()

    # Connecting

    def _connect(self, call: Call) -> None:
        call.abandon = self._abandon
        waiting = self._endpoint.connect(_Factory(self, call))
        self._connecting[call] = self._clock.seconds(), waiting
        self._tick_on()
        waiting.addCallbacks(self._connected, self._not_connected, (call,), {}, (call,))

    def _connected(self, connection: IProtocol, call: Call) -> None:
        self._connecting.pop(call, None)
        assert isinstance(connection, HTTPClientProtocol)
        if call.over or connection.is_closing:
            connection.abort()
            self._fail(call, "the upstream closed the connection before the request was sent")
        else:
            self._start(connection, call)

    def _not_connected(self, reason: Failure, call: Call) -> None:
        self._connecting.pop(call, None)
        if not call.over:
            self._fail(call, f"cannot connect to the upstream: {reason.getErrorMessage()}")
        self._stop_ticking_if_empty()

    def _fail(self, call: Call, message: str) -> None:
        """Not before the next turn: an endpoint may fail at once, when the caller does not have its Call yet."""
        self._clock.callLater(0, call.failed, RequestNotSent(message))

    def _abandon(self, call: Call) -> None:
        """The call was cancelled: so is the attempt to connect."""
        connecting = self._connecting.pop(call, None)
        if connecting is not None:  # else it has failed, and is told so in the next turn
            connecting[1].cancel()
        self._stop_ticking_if_empty()

    def _start(self, connection: HTTPClientProtocol, call: Call) -> None:
        call.abandon = None
        self._busy.add(connection)
        self._tick_on()
        connection.start(call)

    # What the connections tell (ConnectionOwner)

    def seconds(self) -> float:
        """The time."""
        return self._clock.seconds()

    def connection_free(self, connection: HTTPClientProtocol) -> None:
        """Keep it for the next call."""
        self._busy.discard(connection)
        if self._closed:
            connection.close()
        else:
            self._idle[connection] = self._clock.seconds()

    def connection_closing(self, connection: HTTPClientProtocol) -> None:
        """It is not to be used any more; see that it goes."""
        self._busy.discard(connection)
        self._idle.pop(connection, None)
        self._closing[connection] = self._clock.seconds() + _CLOSE_TIMEOUT
        self._tick_on()

    def connection_switched(self, connection: HTTPClientProtocol) -> None:
        """It is not ours any more."""
        self._busy.discard(connection)
        self._stop_ticking_if_empty()

    def connection_lost(self, connection: HTTPClientProtocol) -> None:
        """It is gone."""
        self._busy.discard(connection)
        self._idle.pop(connection, None)
        self._closing.pop(connection, None)
        self._stop_ticking_if_empty()

    def connection_stale(self, connection: HTTPClientProtocol) -> None:
        """What was idle before it is likely to be stale too."""
        self._close_idle()

    def _close_idle(self) -> None:
        for connection in list(self._idle):
            connection.close()

    # Time

    def _tick_on(self) -> None:
        if self._tick is None:
            self._tick = self._clock.callLater(self._interval, self._check)

    def _stop_ticking_if_empty(self) -> None:
        if self._tick is not None and not (self._busy or self._idle or self._connecting or self._closing):
            self._tick.cancel()
            self._tick = None

    def _check(self) -> None:
        """Everything that has lasted too long."""
        self._tick = None
        now = self._clock.seconds()
        for connection in list(self._busy):
            connection.check(now)
        for connection, since in list(self._idle.items()):
            if now - since < self.limits.keepalive_timeout:
                break
            connection.close()
        for connection, until in list(self._closing.items()):
            if now >= until:
                del self._closing[connection]
                connection.transport.abortConnection()
        for call, (since, waiting) in list(self._connecting.items()):
            if now - since >= self.limits.connect_timeout:
                call.failed(
                    RequestNotSent(
                        f"no connection to the upstream within {self.limits.connect_timeout:g} seconds"
                    )
                )
                self._connecting.pop(call, None)
                waiting.cancel()
        if self._busy or self._idle or self._connecting or self._closing:
            self._tick_on()


@implementer(IProtocolFactory)
class _Factory:
    """Builds the connection of one call."""

    __slots__ = ("_call", "_pool")

    def __init__(self, pool: ConnectionPool, call: Call) -> None:
        self._pool = pool
        self._call = call

    def buildProtocol(self, address: IAddress) -> HTTPClientProtocol | None:
        if self._call.over:
            return None  # cancelled, but the endpoint connected all the same: the transport closes
        return HTTPClientProtocol(self._pool)

    def doStart(self) -> None: ...
    def doStop(self) -> None: ...


def _request_head(head: RequestHead, size: int) -> bytes:
    """The head in bytes, with a Content-Length where one is needed. Raises FramingError."""
    if not head.method or not head.target or b" " in head.method or b" " in head.target:
        raise FramingError("invalid request line")
    headers = head.headers
    length = body_length(headers)
    if length is None:
        if size or head.method in _BODY_EXPECTED:
            headers = [*headers, (b"Content-Length", b"%d" % size)]
    elif length != size:
        raise FramingError("the request's framing fields contradict its body")
    if b"" in [name for name, _ in headers]:
        raise FramingError("header field without a name")
    return join_head(b"%b %b HTTP/1.1" % (head.method, head.target), headers)
