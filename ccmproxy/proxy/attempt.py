"""One attempt at an upstream: it waits for the head, holds the body until the exchange decides, then relays it.

The methods that are called per chunk are the hot path and must not use Deferreds, timers, log events or copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from zope.interface import implementer

from ccmproxy.dialects.event_rewriter import EventRewriter
from ccmproxy.dialects.usage import UsageMeter
from ccmproxy.http.client.connection_pool import Call, ConnectionPool
from ccmproxy.http.client.upgrade import SwitchedConnection
from ccmproxy.http.failures import UpstreamError, UpstreamTimeout
from ccmproxy.http.message import RequestHead, ResponseHead
from ccmproxy.http.server.factory import ServerRequest
from ccmproxy.state.availability import Availability

#: How much of a refusal's body is read to classify it (bytes), and for how long (seconds).
COLLECT_SIZE = 64 * 1024
COLLECT_TIME = 10.0


class Interrupted(Exception):
    """The credential stopped being usable before the response began (spec 5.3)."""

    def __init__(self, availability: Availability) -> None:
        super().__init__(availability.message)
        self.availability = availability


class ClientGone(Exception):
    """The client disconnected before the response began."""


class RelayEnd(Enum):
    """How a relayed response ended."""

    WHOLE = auto()
    #: The upstream broke off, or ended a stream prematurely, so the client's connection was broken too.
    BROKEN = auto()
    CLIENT_GONE = auto()


class _State(Enum):
    WAITING = auto()
    HOLDING = auto()
    RELAYING = auto()
    OVER = auto()


@implementer(IPushProducer)
class Attempt:
    """Receives one upstream response (it is a :class:`ccmproxy.http.client.connection_pool.ResponseReceiver`).

    ``answered`` fires with the head, in the reactor turn in which the head arrives, or fails with an UpstreamError,
    :class:`Interrupted` or :class:`ClientGone`. After the head, the body is held and reading is paused until
    :meth:`relay` or :meth:`discard`.
    """

    __slots__ = (
        "_call",
        "_clock",
        "_collected",
        "_ended",
        "_enough",
        "_error",
        "_held",
        "_held_size",
        "_meter",
        "_on_end",
        "_paused",
        "_quiet_ticks",
        "_request",
        "_rewriter",
        "_state",
        "answered",
        "switched",
    )

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self.answered: Deferred[ResponseHead] = Deferred()
        self._state = _State.WAITING
        self._call: Call | None = None
        self._held: list[bytes] = []
        self._held_size = 0
        self._ended = False
        self._error: UpstreamError | None = None
        self._collected: Deferred[None] | None = None
        self._enough: Callable[[bytes], bool] | None = None
        self._request: ServerRequest | None = None
        self._meter: UsageMeter | None = None
        self._on_end: Callable[[RelayEnd], None] | None = None
        self._rewriter: EventRewriter | None = None
        #: The connection, if the upstream has switched protocols. Its new owner sets this to None.
        self.switched: SwitchedConnection | None = None
        #: Seconds since the last byte from the upstream; whether the client exerts back-pressure.
        self._quiet_ticks = 0
        self._paused = False

    @property
    def is_sent(self) -> bool:
        """Whether the request was given to an open connection: before that no upstream has seen anything of it."""
        return self._call is not None and self._call.was_started

    def send(
        self, connections: ConnectionPool, head: RequestHead, body: Sequence[bytes], fresh: bool = False
    ) -> None:
        """Send the request. Must be called once; sends nothing if the attempt was interrupted before.

        ``fresh``: on a connection that has served no request yet.
        """
        if self._state is _State.WAITING:
            self._call = connections.send(head, body, self, fresh)

    def upgrade(self, connections: ConnectionPool, head: RequestHead, fresh: bool = False) -> None:
        """Ask the upstream to switch protocols. After a 101, ``switched`` is the connection. ``fresh``: as for
        :meth:`send`."""
        if self._state is _State.WAITING:
            self._call = connections.upgrade(head, self, self._switch, fresh)

    # What the client protocol calls

    def response_started(self, head: ResponseHead, data: bytes) -> None:
        """Fire ``answered`` with the head, so that the exchange can decide, and hold ``data`` meanwhile."""
        if self._state is not _State.WAITING:
            return
        self._state = _State.HOLDING
        if data:
            self._held.append(data)
            self._held_size = len(data)
        self.answered.callback(head)
        # mypy does not see that the callback may have changed the state.
        if self._state is _State.HOLDING and self._call is not None and self._collected is None:
            self._call.pauseProducing()

    def _switch(self, head: ResponseHead, connection: SwitchedConnection) -> None:
        self._state = _State.OVER
        self.switched = connection
        self.answered.callback(head)

    def response_data(self, data: bytes) -> None:
        """Pass a piece of the body on at once while relaying, else hold it."""
        if self._state is _State.RELAYING:
            self._quiet_ticks = 0
            self._meter.feed(data)  # type: ignore[union-attr]  # set whenever relaying
            if self._rewriter is not None:
                data = self._rewriter.feed(data)
            self._request.write(data)  # type: ignore[union-attr]
        elif self._state is _State.HOLDING:
            self._held.append(data)
            self._held_size += len(data)
            if self._collected is not None and self._has_enough():
                self._finish_collecting()

    def response_ended(self) -> None:
        """Note that the body is complete according to its framing."""
        self._ended = True
        if self._state is _State.RELAYING:
            self._finish()
        elif self._state is _State.HOLDING and self._collected is not None:
            self._finish_collecting()

    def response_failed(self, error: UpstreamError) -> None:
        """Note that there will be no complete response."""
        if self._state is _State.WAITING:
            self._state = _State.OVER
            self.answered.errback(error)
        elif self._state is _State.RELAYING:
            self._break()
        elif self._state is _State.HOLDING:
            self._error = error
            if self._collected is not None:
                self._finish_collecting()

    # What the exchange calls

    async def collect(
        self, enough: Callable[[bytes], bool] | None = None, seconds: float = COLLECT_TIME
    ) -> bytes:
        """Return as much of the body as is needed to classify the response.

        Reads until ``enough`` returns True for the bytes so far, until the end of the body, until 64 KiB have arrived,
        or until ``seconds`` have passed. The body stays held, so that it can be relayed afterwards.
        """
        self._enough = enough
        if not self._ended and self._error is None and not self._has_enough():
            self._collected = Deferred()
            timer = self._clock.callLater(seconds, self._finish_collecting)
            if self._call is not None:
                self._call.resumeProducing()
            try:
                await self._collected
            finally:
                if timer.active():
                    timer.cancel()
        return b"".join(self._held)

    def _has_enough(self) -> bool:
        if self._held_size >= COLLECT_SIZE:
            return True
        return self._enough is not None and self._enough(b"".join(self._held))

    def _finish_collecting(self) -> None:
        collected, self._collected = self._collected, None
        if collected is not None:
            if self._call is not None and not self._ended and self._error is None:
                self._call.pauseProducing()
            collected.callback(None)

    def relay(
        self,
        request: ServerRequest,
        head: ResponseHead,
        meter: UsageMeter,
        on_end: Callable[[RelayEnd], None],
        rewriter: EventRewriter | None = None,
    ) -> None:
        """Relay the response with ``head`` as its head: the held part of the body now, the rest as it arrives.

        ``meter`` is fed the upstream's bytes. The client gets these bytes, or the output of ``rewriter`` if there is
        one. ``on_end`` is called once, at the end.
        """
        self._state = _State.RELAYING
        self._request, self._meter, self._on_end = request, meter, on_end
        self._rewriter = rewriter
        first = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        self._held.clear()
        if first:
            meter.feed(first)
            if rewriter is not None:
                first = rewriter.feed(first)
        request.start_response(head, first)
        if self._state is not _State.RELAYING:
            return
        if self._error is not None:
            self._break()
        elif self._ended:
            self._finish()
        elif self._call is not None:
            request.register_producer(self)
            # The held part may have filled the client's buffer; then the client's transport resumes the upstream later.
            if not self._paused:
                self._call.resumeProducing()

    def held_body(self) -> bytes:
        """Return what is held of the body."""
        return b"".join(self._held)

    def discard(self) -> None:
        """Drop the response, and free its connection."""
        self._state = _State.OVER
        self._held.clear()
        if self._call is not None and not self._ended:
            self._call.cancel()
        if self.switched is not None:
            self.switched.abort()
            self.switched = None

    def time_out(self, message: str) -> None:
        """Stop waiting for the head, because of a time-out that is shorter than the connection pool's."""
        self._fail(UpstreamTimeout(message))

    def interrupt(self, availability: Availability) -> None:
        """Stop waiting for the head, because the credential is not usable any more."""
        self._fail(Interrupted(availability))

    def client_gone(self) -> None:
        """Cancel the upstream's response at once, in any state."""
        if self._state is _State.RELAYING:
            self._state = _State.OVER
            if self._call is not None:
                self._call.cancel()
            self._end(RelayEnd.CLIENT_GONE)
        else:
            self._fail(ClientGone())

    def _fail(self, error: Exception) -> None:
        waiting = self._state is _State.WAITING
        self.discard()
        self._finish_collecting()
        if waiting:
            self.answered.errback(error)

    # Producer: the client's side pauses the upstream

    def pauseProducing(self) -> None:
        """Stop reading from the upstream, as the client reads slowly."""
        self._paused = True
        if self._call is not None:
            self._call.pauseProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        if self._call is not None:
            self._call.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing: the request reports the loss of the client's connection."""

    # Ends

    def tick(self, keep_alive: float, sign_of_life: bytes) -> None:
        """Write ``sign_of_life`` after ``keep_alive`` seconds without a byte from the upstream (0: never).

        Nothing is written in the middle of an event (F44), or while the client does not read. Called once a second
        while relaying.
        """
        self._quiet_ticks += 1
        if not keep_alive or self._paused or self._quiet_ticks < keep_alive:
            return
        self._quiet_ticks = 0
        if self._state is _State.RELAYING and self._request is not None:
            if self._meter is not None and self._meter.at_boundary:
                self._request.write(sign_of_life)

    def _finish(self) -> None:
        self._state = _State.OVER
        request, meter = self._request, self._meter
        assert request is not None and meter is not None
        meter.end()
        if self._rewriter is not None:
            request.write(self._rewriter.end())
        reading = meter.reading()
        request.unregister_producer()
        if reading.complete or reading.error:
            request.finish()
            self._end(RelayEnd.WHOLE)
        else:
            # The framing is complete, but the final event is missing: a clean end would make a truncated response look
            # complete (F22).
            request.abort()
            self._end(RelayEnd.BROKEN)

    def _break(self) -> None:
        self._state = _State.OVER
        assert self._request is not None
        self._request.unregister_producer()
        if self._rewriter is not None:
            self._request.write(self._rewriter.end())
        self._request.abort()
        self._end(RelayEnd.BROKEN)

    def _end(self, end: RelayEnd) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(end)
