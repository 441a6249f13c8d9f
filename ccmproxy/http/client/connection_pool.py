"""The connections to one upstream: every call gets a connection of its own at once, and connections are reused.

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

#: Methods whose requests carry a Content-Length even without a body (RFC 9110 section 8.6).
_BODY_EXPECTED: Final = frozenset({b"POST", b"PUT", b"PATCH"})
_DEFAULT_LIMITS: Final = ClientLimits()
#: Longest interval between checks of the time-outs (seconds).
_TICK: Final = 1.0
#: Seconds after which a gracefully closed connection that is still there is aborted.
_CLOSE_TIMEOUT: Final = 10.0


class ConnectionPool:
    """The connections to one upstream.

    ``idle``, ``busy``, ``connecting``: number of connections that are unused, serve a call, and are being established.

    A connection is reused, the most recently used one first, if its response was complete, its request was sent
    completely, and both sides allow keep-alive. An idle connection is closed when it has been idle for
    ``keepalive_timeout``, when the upstream closes it, and when a byte arrives on it. The pool never closes a busy
    connection (F28). If a reused connection is lost without a byte of a response, all other idle connections are closed
    too: the upstream is likely to have closed them as well.

    Time-outs are checked about once a second for all connections together, on ``clock``; nothing is scheduled while the
    pool is empty.
    """

    def __init__(
        self, endpoint: IStreamClientEndpoint, clock: IReactorTime, limits: ClientLimits = _DEFAULT_LIMITS
    ) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self.limits = limits
        #: Idle connections, and since when each has been idle (the clock's seconds); the longest idle comes first.
        self._idle: dict[HTTPClientProtocol, float] = {}
        self._busy: set[HTTPClientProtocol] = set()
        #: Calls without a connection: when the attempt to connect began (the clock's seconds), and its Deferred.
        self._connecting: dict[Call, tuple[float, Deferred[IProtocol]]] = {}
        #: Closing connections, and when each is aborted (the clock's seconds).
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
        """Number of unused connections."""
        return len(self._idle)

    @property
    def busy(self) -> int:
        """Number of connections that serve a call."""
        return len(self._busy)

    @property
    def connecting(self) -> int:
        """Number of connections that are being established, each for one call."""
        return len(self._connecting)

    def send(
        self, head: RequestHead, body: Sequence[bytes], receiver: ResponseReceiver, fresh: bool = False
    ) -> Call:
        """Send a request at once, over an idle connection or a new one. ``fresh``: over a new one.

        ``head`` is sent as given, with the names, order and case of its fields. ``body``: the chunks of the complete
        body. A Content-Length is added if ``head`` has none and the body is not empty or the method is POST, PUT or
        PATCH. The connection is not kept if the head says ``Connection: close``.

        Raises FramingError for a head that cannot be sent: with line breaks, with a Content-Length that differs from
        the body's, or with a Transfer-Encoding. All other errors are reported to ``receiver``, never before this method
        has returned.
        """
        size = sum(map(len, body))
        call = Call(_request_head(head, size), head.method, body, size, receiver)
        call.last = not is_persistent(b"1", head.headers)
        if self._idle and not fresh:
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
        fresh: bool = False,
    ) -> Call:
        """Ask the upstream to switch protocols, by the Connection and Upgrade fields in ``head``.

        ``on_switch`` is called with the head of a 101 and the connection, which leaves the pool. Any other response,
        and every failure, is reported to ``receiver`` as by :meth:`send`, with the same time-outs. ``fresh`` and the
        errors that are raised are those of :meth:`send`.
        """
        call = self.send(head, (), receiver, fresh)
        call.on_switch = on_switch
        return call

    def close(self) -> None:
        """Close the idle connections now and the busy ones after their response; keep none from now on.

        A call that begins later still gets a connection, which is not kept.
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
        self._fail(call, f"cannot connect to the upstream: {reason.getErrorMessage()}", reason.value)
        self._stop_ticking_if_empty()

    def _fail(self, call: Call, message: str, cause: BaseException | None = None) -> None:
        """Report the failure in the next reactor turn, as an endpoint may fail before the caller has its Call.

        Cancelling the call also cancels the report.
        """
        if call.over:
            return
        error = RequestNotSent(message)
        error.__cause__ = cause
        report = self._clock.callLater(0, call.failed, error)
        call.abandon = lambda _: report.cancel()

    def _abandon(self, call: Call) -> None:
        """Cancel the attempt to connect for a call that was cancelled."""
        _, connecting = self._connecting.pop(call)
        connecting.cancel()
        self._stop_ticking_if_empty()

    def _start(self, connection: HTTPClientProtocol, call: Call) -> None:
        call.abandon = None
        self._busy.add(connection)
        self._tick_on()
        connection.start(call)

    # What the connections tell (ConnectionOwner)

    def seconds(self) -> float:
        """Return the clock's time in seconds."""
        return self._clock.seconds()

    def next_turn(self, call: Callable[[], None]) -> object:
        """Call a function in the next turn of the reactor."""
        return self._clock.callLater(0, call)

    def connection_free(self, connection: HTTPClientProtocol) -> None:
        """Keep the connection for the next call."""
        self._busy.discard(connection)
        if self._closed:
            connection.close()
        else:
            self._idle[connection] = self._clock.seconds()

    def connection_closing(self, connection: HTTPClientProtocol) -> None:
        """Stop using the connection, and abort it later if it does not close."""
        self._busy.discard(connection)
        self._idle.pop(connection, None)
        self._closing[connection] = self._clock.seconds() + _CLOSE_TIMEOUT
        self._tick_on()

    def connection_switched(self, connection: HTTPClientProtocol) -> None:
        """Forget the connection: it has another owner now."""
        self._busy.discard(connection)
        self._stop_ticking_if_empty()

    def connection_lost(self, connection: HTTPClientProtocol) -> None:
        """Forget the connection."""
        self._busy.discard(connection)
        self._idle.pop(connection, None)
        self._closing.pop(connection, None)
        self._stop_ticking_if_empty()

    def connection_stale(self, connection: HTTPClientProtocol) -> None:
        """Close the other idle connections, which are likely to be stale too."""
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
        """Enforce all time-outs."""
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
    """Builds the connection for one call."""

    __slots__ = ("_call", "_pool")

    def __init__(self, pool: ConnectionPool, call: Call) -> None:
        self._pool = pool
        self._call = call

    def buildProtocol(self, address: IAddress) -> HTTPClientProtocol | None:
        if self._call.over:
            return None  # the call was cancelled, but the endpoint connected anyway: the transport closes
        return HTTPClientProtocol(self._pool)

    def doStart(self) -> None: ...
    def doStop(self) -> None: ...


def _request_head(head: RequestHead, size: int) -> bytes:
    """Return the bytes of the head, with a Content-Length added if it is needed.

    Raises FramingError when the head is malformed or contradicts ``size``, the length of the body in bytes.
    """
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
