"""One try at an upstream: waits for the head, holds the body until somebody decides, then passes it on.

The methods called per chunk are the hot path: no Deferred, no timer, no log event, no copy there.
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

#: As much of a refusal's body is read to understand it (bytes), and for as long (seconds).
COLLECT_SIZE = 64 * 1024
COLLECT_TIME = 10.0


class Interrupted(Exception):
    """The credential stopped being usable before its answer began (spec 5.3)."""

    def __init__(self, availability: Availability) -> None:
        super().__init__(availability.message)
        self.availability = availability


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class RelayEnd(Enum):
    """How a relayed answer ended."""

    WHOLE = auto()
    #: The upstream broke off, or ended a stream before its proper end: the client's side was broken too.
    BROKEN = auto()
    CLIENT_GONE = auto()


class _State(Enum):
    WAITING = auto()
    HOLDING = auto()
    RELAYING = auto()
    OVER = auto()


@implementer(IPushProducer)
class Attempt:
    """Receives one upstream answer (it is a :class:`ccmproxy.http.client.connection_pool.ResponseReceiver`).

    ``answered`` fires with the head once it is there, within the reactor turn that brought it; or fails with an
    UpstreamError, :class:`Interrupted` or :class:`ClientGone`. From then on the body is held, and reading paused,
    until :meth:`relay` or :meth:`discard`.
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
        #: The connection, where the upstream has switched protocols; whoever takes it puts None here.
        self.switched: SwitchedConnection | None = None
        #: Seconds since the last byte of the upstream; whether the client takes no more for now.
        self._quiet_ticks = 0
        self._paused = False

    def send(self, connections: ConnectionPool, head: RequestHead, body: Sequence[bytes]) -> None:
        """Begin. Must be called once; sends nothing if the attempt was interrupted before."""
        if self._state is _State.WAITING:
            self._call = connections.send(head, body, self)

    def upgrade(self, connections: ConnectionPool, head: RequestHead) -> None:
        """The same, asking the upstream to switch protocols: a 101 comes with the connection as ``switched``."""
        if self._state is _State.WAITING:
            self._call = connections.upgrade(head, self, self._switch)

    # What the client protocol calls

    def response_started(self, head: ResponseHead, data: bytes) -> None:
        """The head is there. Whoever waits decides now; ``data`` is held meanwhile."""
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
        """A piece of the body; passed on at once while relaying."""
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
        """The body is complete as its framing says."""
        self._ended = True
        if self._state is _State.RELAYING:
            self._finish()
        elif self._state is _State.HOLDING and self._collected is not None:
            self._finish_collecting()

    def response_failed(self, error: UpstreamError) -> None:
        """No (whole) answer will come."""
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
        """The body as far as it is needed to understand it: until ``enough`` says so of what has come, or else whole;
        at most its first 64 KiB, and what comes within ``seconds``.

        It stays held, so that it can be relayed afterwards.
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
        """Pass the answer on under ``head``: what is held at once, the rest as it comes; ``on_end`` once.

        ``meter`` sees the upstream's bytes; the client gets what ``rewriter`` makes of them, where there is one.
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
            # What was held may be more than the client takes at once; then it resumes us.
            if not self._paused:
                self._call.resumeProducing()

    def discard(self) -> None:
        """Nobody wants this answer: free its connection."""
        self._state = _State.OVER
        self._held.clear()
        if self._call is not None and not self._ended:
            self._call.cancel()
        if self.switched is not None:
            self.switched.abort()
            self.switched = None

    def time_out(self, message: str) -> None:
        """Give up waiting for the head, after less time than any answer may take."""
        self._fail(UpstreamTimeout(message))

    def interrupt(self, availability: Availability) -> None:
        """Give up waiting for the head."""
        self._fail(Interrupted(availability))

    def client_gone(self) -> None:
        """Cancel the upstream at once, whatever the state."""
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
        """The client reads slowly: stop reading from the upstream."""
        self._paused = True
        if self._call is not None:
            self._call.pauseProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        if self._call is not None:
            self._call.resumeProducing()

    def stopProducing(self) -> None:
        """The client's connection is gone; its request says so by itself."""

    # Ends

    def tick(self, keep_alive: float, sign_of_life: bytes) -> None:
        """Called once a second while relaying: after ``keep_alive`` seconds without a byte of the upstream (0: never)
        write ``sign_of_life``, if the stream stands between two events (F44) and the client reads."""
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
            # Framed as complete, yet without its own end: a clean end here would pass a truncated answer
            # off as a whole one (F22).
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
