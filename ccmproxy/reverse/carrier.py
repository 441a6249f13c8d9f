"""A yamux session on a transport, the carrier: TCP, TLS, or a connection that was upgraded from HTTP."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.reverse.address import StreamAddress
from ccmproxy.reverse.stream_errors import SessionLost, StreamNotOpened
from ccmproxy.reverse.stream_transport import StreamTransport
from ccmproxy.transports.tcp import direct_writer, limit_unsent, set_socket_options
from ccmproxy.yamux import (
    CannotOpen,
    DataReceived,
    DataSent,
    EndReceived,
    EndSent,
    Event,
    PeerGoesAway,
    PingAnswered,
    Session,
    SessionConfig,
    SessionEnded,
    SessionError,
    SessionTimeout,
    Stream,
    StreamOpened,
    StreamReset,
)

_log = Logger()

#: Bytes that are written to the carrier at a time, before checking again whether it is full.
_PIECE: Final = 64 * 1024
#: Maximum of unsent bytes in the kernel. If its whole buffer of a few MiB were used, the answer to a ping would be sent
#: after seconds of data on a slow line.
_UNSENT: Final = 128 * 1024
#: Tolerance in seconds for a timer that is due after the deadline. A timer is never due exactly at the deadline it was
#: set for; without a tolerance it would be set anew each time.
_LATE: Final = 0.05
#: Default time in seconds for a draining session to end.
_DRAIN_TIMEOUT: Final = 30.0


def _nothing() -> None:
    """The default callback: do nothing."""


@implementer(IPushProducer)
class YamuxProtocol(Protocol):
    """One side of a session. It is a push producer for its carrier: while the carrier is full, data stays in the
    streams' queues, and only frames without data are written.

    The carrier is never paused, whatever the streams do. ``is_client``: the role in the session, which need not be the
    role on the carrier. ``clock``: runs all time-outs. ``acceptor``: builds the protocols for the peer's streams; None:
    these are reset. ``session``: the state of the session; for reading only.

    Neither what the peer sends nor an exception of a stream's protocol raises into the reactor. The reason for the end
    of a session is logged.
    """

    transport: Any
    session: Session

    def __init__(
        self,
        clock: IReactorTime,
        is_client: bool,
        acceptor: IProtocolFactory | None = None,
        config: SessionConfig = SessionConfig(),  # noqa: B008 - frozen
    ) -> None:
        self.clock = clock
        self.acceptor = acceptor
        self._is_client = is_client
        self._config = config
        self._transports: dict[Stream, StreamTransport] = {}
        #: Calls of ``open`` that wait until the peer acknowledges some of the streams opened before.
        self._opening: deque[tuple[Deferred[IProtocol], IProtocolFactory]] = deque()
        self._pings: dict[int, Deferred[float]] = {}
        self._blocked = False
        self._working = False
        self._draining = False
        #: Why the session is over (None while it is not), and whether the connection is closed, too.
        self._lost: Exception | None = None
        self._gone = False
        #: Called when the peer sends GO_AWAY: it takes no more streams, but open ones continue.
        self.on_peer_leaving: Callable[[], None] = _nothing
        self._waiting_for_loss: list[Deferred[Exception]] = []
        self._timer: IDelayedCall | None = None
        self._deadline: IDelayedCall | None = None

    def __repr__(self) -> str:
        peer = None if self.transport is None else self.transport.getPeer()
        return f"<YamuxProtocol with {peer}: {getattr(self, 'session', None)}>"

    # Called by the carrier

    def connectionMade(self) -> None:
        transport = self.transport
        if ITCPTransport.providedBy(transport):
            set_socket_options(transport)
        limit_unsent(transport, _UNSENT)  # our TLS transport, no ITCPTransport, has a socket too
        self.session = Session(self._config, self._is_client, self.clock.seconds())
        self._send = direct_writer(transport)
        transport.registerProducer(self, True)
        self.work()

    def dataReceived(self, data: bytes) -> None:
        self.session.receive(data, self.clock.seconds())
        self.work()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.session.receive_end()
        self.session.events()
        for call in (self._timer, self._deadline):
            if call is not None and call.active():
                call.cancel()
        self._timer = self._deadline = None
        error = self._lose(SessionLost(f"the connection was lost: {reason.getErrorMessage()}"))
        self._gone = True
        waiting, self._waiting_for_loss = self._waiting_for_loss, []
        for deferred in waiting:
            deferred.callback(error)

    def pauseProducing(self) -> None:
        self._blocked = True
        self.session.blocked(self.clock.seconds())
        self.work()

    def resumeProducing(self) -> None:
        self._blocked = False
        self.session.unblocked()
        self.work()

    def stopProducing(self) -> None:
        """Do nothing: the carrier calls this when it is lost, and connectionLost follows."""

    # Called by the owner

    @property
    def streams(self) -> int:
        """Number of streams that are open in at least one direction."""
        return self.session.streams

    @property
    def is_usable(self) -> bool:
        """Whether streams can be opened: the session is not over, and neither side is going away."""
        return self._lost is None and not self._draining and self.session.can_open

    def open(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Open a stream for a protocol of ``factory``, without waiting for the peer unless 256 streams are not yet
        acknowledged. Fails with StreamNotOpened, NoProtocol, or what ``factory`` raises. May be cancelled.
        """
        if self._draining:
            return fail(StreamNotOpened("the session is being closed"))
        if not self._opening:
            try:
                return succeed(self._open(factory))
            except CannotOpen as error:
                if error.for_good:
                    return fail(StreamNotOpened(str(error)))
            except Exception:
                return fail()
        waiting: Deferred[IProtocol] = Deferred(self._give_up_opening)
        self._opening.append((waiting, factory))
        return waiting

    def ping(self) -> Deferred[float]:
        """Send a ping. Fires with the round-trip time in seconds; fails with SessionLost."""
        if self._lost is not None:
            return fail(self._lost)
        answer: Deferred[float] = Deferred()
        self._pings[self.session.ping(self.clock.seconds())] = answer
        self.work()
        return answer

    def close(self, timeout: float = _DRAIN_TIMEOUT) -> Deferred[Exception]:
        """Drain the session: send GO_AWAY, take no more streams, and close the connection when no stream is left, or
        after ``timeout`` seconds. Fires as ``when_lost`` does. Owners of idle streams should close them now. A later
        call can only shorten the time.
        """
        if self._lost is None and not self._draining:
            self._draining = True
            self._set_deadline(timeout)
            self.session.go_away()
            self.work()
        elif self._lost is None and self._deadline is not None and self._deadline.active():
            self._set_deadline(min(timeout, self._deadline.getTime() - self.clock.seconds()))
        return self.when_lost()

    def abort(self) -> None:
        """Drop the connection, and with it all streams, at once."""
        if not self._gone:  # aborting a lost TLS connection raises
            self.transport.abortConnection()

    def when_lost(self) -> Deferred[Exception]:
        """Fires with the reason once the connection is closed and all streams have been told. Never fails."""
        if self._lost is not None and self._gone:
            return succeed(self._lost)
        waiting: Deferred[Exception] = Deferred()
        self._waiting_for_loss.append(waiting)
        return waiting

    # Called by the streams (Carrier)

    def work(self) -> None:
        """Handle the session's events and send its data, until nothing is left to do or the carrier is full."""
        if self._working:
            return
        self._working = True
        session = self.session
        try:
            while True:
                for event in session.events():
                    self._act(event)
                if self._opening:
                    self._open_waiting()
                data = session.data_to_send(0 if self._blocked else _PIECE, self.clock.seconds())
                if not data:
                    break
                self._send(data)
        finally:
            self._working = False
        if session.error is None:
            if self._draining and not session.streams:
                self._disconnect()
            self._set_timer()

    def stream_lost(self, transport: StreamTransport) -> None:
        """Forget ``transport``: its protocol has been told, or is being told, that the stream is lost."""
        self._transports.pop(transport.stream, None)

    # Inside

    def _act(self, event: Event) -> None:
        """Pass an event on. Events of a stream whose transport is gone are dropped; such a stream ends by itself."""
        transports = self._transports
        match event:
            case DataReceived(stream, data):
                if stream in transports:
                    transports[stream].data_received(data)
            case DataSent(stream):
                if stream in transports:
                    transports[stream].data_sent()
            case EndReceived(stream):
                if stream in transports:
                    transports[stream].end_received()
            case EndSent(stream):
                if stream in transports:
                    transports[stream].end_sent()
            case StreamOpened(stream):
                self._accept(stream)
            case StreamReset(stream, _, reason):
                if stream in transports:
                    transports[stream].reset(reason)
            case PingAnswered(number, seconds):
                answer = self._pings.pop(number, None)
                if answer is not None:
                    answer.callback(seconds)
            case SessionEnded(error):
                self._session_ended(error)
            case PeerGoesAway():
                try:
                    self.on_peer_leaving()
                except Exception:
                    _log.failure("whoever was told that a peer goes away let an exception out")
            case _:
                pass  # StreamAcknowledged: nothing to do, waiting streams are opened by ``work``

    def _accept(self, stream: Stream) -> None:
        self.session.accept(stream)
        if self.acceptor is not None and not stream.is_closed:
            try:
                self._connect(stream, self.acceptor)
                return
            except NoProtocol:
                pass  # the factory refuses the connection
            except Exception:
                _log.failure("a stream could not be given to a protocol")
        self.session.reset(stream)

    def _open(self, factory: IProtocolFactory) -> IProtocol:
        stream = self.session.open_stream(self.clock.seconds())
        try:
            return self._connect(stream, factory)
        except Exception:
            self.session.reset(stream)
            raise
        finally:
            self.work()

    def _connect(self, stream: Stream, factory: IProtocolFactory) -> IProtocol:
        """Connect the stream to a new protocol. Raises NoProtocol, and what the factory and the protocol raise."""
        carrier = self.transport
        host = StreamAddress(carrier.getHost(), stream.id)
        peer = StreamAddress(carrier.getPeer(), stream.id)
        protocol = factory.buildProtocol(peer)
        if protocol is None:
            raise NoProtocol
        transport = StreamTransport(self, stream, host, peer)
        self._transports[stream] = transport
        try:
            transport.connect(protocol)
        except Exception:
            self._transports.pop(stream, None)
            raise
        return protocol

    def _open_waiting(self) -> None:
        """Serve the waiting calls of ``open``, as many as the session allows."""
        while self._opening:
            waiting, factory = self._opening[0]
            try:
                protocol = self._open(factory)
            except CannotOpen as error:
                if not error.for_good:
                    return
                self._opening.popleft()
                waiting.errback(StreamNotOpened(str(error)))
            except Exception:
                self._opening.popleft()
                waiting.errback()
            else:
                self._opening.popleft()
                waiting.callback(protocol)

    def _give_up_opening(self, waiting: Deferred[IProtocol]) -> None:
        self._opening = deque(entry for entry in self._opening if entry[0] is not waiting)

    def _session_ended(self, error: SessionError) -> None:
        peer = self.transport.getPeer()
        _log.warn("session with {peer} ended: {reason}", peer=peer, reason=str(error))
        self._lose(SessionLost(str(error)))
        if isinstance(error, SessionTimeout):
            self.transport.abortConnection()
        else:
            farewell = self.session.data_to_send(0, self.clock.seconds())
            if farewell:
                self._send(farewell)
            self._set_deadline(self._config.write_timeout)
            self._disconnect()

    def _lose(self, error: Exception) -> Exception:
        """Tell streams, pings and waiting ``open`` calls that the session is over, once. Return the reason told."""
        if self._lost is not None:
            return self._lost
        self._lost = error
        for transport in list(self._transports.values()):
            transport.lose(Failure(error))
        opening, self._opening = self._opening, deque()
        for waiting, _ in opening:
            waiting.errback(StreamNotOpened(str(error)))
        pings, self._pings = self._pings, {}
        for answer in pings.values():
            answer.errback(error)
        return error

    def _disconnect(self) -> None:
        """Close the carrier after what was written."""
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _set_deadline(self, seconds: float) -> None:
        """Abort the connection if it is not closed within ``seconds``."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = self.clock.callLater(seconds, self.abort)

    def _set_timer(self) -> None:
        """Set a timer for the session's next deadline. A timer that is due earlier is kept: otherwise it would be set
        anew with every frame."""
        due = self.session.next_deadline()
        timer = self._timer
        if timer is not None and timer.active():
            if timer.getTime() <= due + _LATE:
                return
            timer.cancel()
        self._timer = self.clock.callLater(max(0.0, due - self.clock.seconds()), self._tick)

    def _tick(self) -> None:
        self.session.tick(self.clock.seconds())
        self.work()
