"""One side of a session: bytes in, events and bytes out. No socket, no clock: ``now`` is passed in, in seconds.

docs/yamux.md explains the decisions on everything that the protocol leaves open.
"""

from __future__ import annotations

from math import inf

from ccmproxy.yamux.admission import Admission
from ccmproxy.yamux.errors import (
    NORMAL,
    PROTOCOL_ERROR,
    CarrierClosed,
    PeerFailed,
    ProtocolError,
    SessionError,
    SessionTimeout,
)
from ccmproxy.yamux.events import (
    DataReceived,
    DataSent,
    EndReceived,
    EndSent,
    Event,
    PeerGoesAway,
    PingAnswered,
    SessionEnded,
    StreamAcknowledged,
    StreamOpened,
    StreamReset,
)
from ccmproxy.yamux.frames import ACK, DATA, FIN, GO_AWAY, PING, RST, SYN, WINDOW_UPDATE, FrameReader, Header
from ccmproxy.yamux.keepalive import KeepAlive
from ccmproxy.yamux.open_streams import Opening
from ccmproxy.yamux.output import Output
from ccmproxy.yamux.parameters import SessionConfig
from ccmproxy.yamux.stream import Direction, Stream
from ccmproxy.yamux.stream_table import StreamTable
from ccmproxy.yamux.timeouts import Timeouts


class Session:
    """Multiplexes streams on one carrier; compatible on the wire with hashicorp/yamux.

    After each call of ``receive``, ``tick``, ``data_to_send`` and of any method that acts on streams, check ``events``
    and ``data_to_send``. Nothing that the peer sends makes a method raise: instead the session ends, with an event that
    says why. ``is_client``: this side opens streams with odd ids; the other side uses even ids.

    The owner must never stop reading the carrier. For a slow reader of one stream it applies back-pressure by not
    calling ``consumed``, so that other streams are not held up. It reports by ``blocked`` and ``unblocked`` when the
    carrier is full. ``error``: why the session is over; None while it is not.
    """

    __slots__ = (
        "_admission",
        "_config",
        "_current",
        "_end_follows",
        "_events",
        "_keepalive",
        "_lingering",
        "_now",
        "_opening",
        "_output",
        "_reader",
        "_streams",
        "error",
    )

    def __init__(self, config: SessionConfig, is_client: bool, now: float) -> None:
        self._config = config
        self._now = now  # the time of the current call
        self._reader = FrameReader()
        self._output = Output(config, self._data_sent, self._end_sent)
        self._events: list[Event] = []
        self.error: SessionError | None = None
        self._streams = StreamTable()
        #: The stream of the payload being received (None: it is discarded), and whether FIN follows the payload.
        self._current: Stream | None = None
        self._end_follows = False
        self._opening = Opening(config, is_client)
        self._admission = Admission(config, now)
        #: Streams that we closed, and that the peer has not closed yet.
        self._lingering = Timeouts(config.linger, "the peer did not close it within")
        self._keepalive = KeepAlive(config.keepalive_interval, config.ping_timeout, config.pings, now)

    def __repr__(self) -> str:
        state = "open" if self.error is None else f"ended: {self.error}"
        return f"<Session {state}, {len(self._streams)} streams>"

    @property
    def streams(self) -> int:
        """Number of streams that are open in at least one direction."""
        return len(self._streams)

    @property
    def can_open(self) -> bool:
        """Whether streams can still be opened; a full backlog, which is temporary, does not count."""
        return not self._opening.is_closed

    @property
    def unread(self) -> int:
        """Number of bytes given to the owner and not consumed yet, over all streams."""
        return self._streams.unread

    # Receiving ------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Process bytes from the carrier."""
        if self.error is not None:
            return
        self._now = now
        try:
            for item in self._reader.feed(data):
                if isinstance(item, Header):
                    self._frame(item)
                elif self._current is not None:
                    self._payload(self._current, item)
        except (ProtocolError, PeerFailed) as error:
            self._end(error)

    def receive_end(self) -> None:
        """End the session because the carrier has ended."""
        if self.error is None:
            where = "" if self._reader.is_between_frames else " in the middle of a frame"
            self._end(CarrierClosed(f"the connection ended{where}"))

    def events(self) -> list[Event]:
        """Return the events since the last call, in order."""
        events, self._events = self._events, []
        return events

    def consumed(self, stream: Stream, size: int) -> None:
        """Record that the owner has used up ``size`` bytes of received data, so that the peer may send more.

        Raises ValueError when the owner holds fewer bytes than that.
        """
        if stream.is_discarding:
            return
        self._streams.consumed(stream, size)
        window = stream.receive_window
        window.consumed(size)
        if stream.inbound is Direction.OPEN and not stream.is_closed:
            credit = window.credit()
            if credit:
                self._output.add_control(WINDOW_UPDATE, 0, stream.id, credit)

    # Streams --------------------------------------------------------------------------------------------------

    def open_stream(self, now: float) -> Stream:
        """Open a stream, which can be used at once. Raises CannotOpen when the session allows no more streams now."""
        self._now = now
        stream = Stream(self._opening.next_id(self._streams), False, self._config.max_window)
        self._streams.add(stream)
        self._opening.unacknowledged.start(stream, now)
        credit = stream.receive_window.credit(at_once=True)
        self._output.add_control(WINDOW_UPDATE, SYN, stream.id, credit)
        return stream

    def accept(self, stream: Stream) -> None:
        """Accept a stream of the peer. This only makes room in the backlog; the stream is acknowledged already."""
        self._admission.accepted(stream)

    def send(self, stream: Stream, data: bytes) -> None:
        """Queue ``data``, which must not be changed afterwards. It is dropped if the stream is closed.

        Raises ValueError after ``close_write``.
        """
        if stream.is_closed or not data:
            return
        if stream.outbound is not Direction.OPEN:
            raise ValueError("data behind the end of a stream")
        stream.queue.add(data)
        self._output.add_data(stream)

    def close_write(self, stream: Stream) -> None:
        """Half-close: send FIN after what is queued. The peer's direction is not affected."""
        if stream.is_closed or stream.outbound is not Direction.OPEN:
            return
        stream.outbound = Direction.ENDING
        if not stream.queue.size:
            self._output.add_control(WINDOW_UPDATE, FIN, stream.id, 0)
            self._end_sent(stream)

    def close(self, stream: Stream, now: float) -> None:
        """Close both directions: send FIN after what is queued, and discard received data. The peer then has ``linger``
        seconds to close, too. The stream is not reset at once, because a reset destroys data the peer has not yet read.
        """
        self._now = now
        self._streams.release(stream)
        if stream.is_closed:
            return
        self.accept(stream)
        if stream.outbound is Direction.ENDED:
            self._lingering.start(stream, self._now)
        else:
            self.close_write(stream)

    def reset(self, stream: Stream) -> None:
        """Close both directions at once by RST. Data that is queued, or that the peer has not read yet, is lost."""
        self._streams.release(stream)
        if not stream.is_closed:
            self._output.add_control(WINDOW_UPDATE, RST, stream.id, 0)
            self._forget(stream)

    # Session --------------------------------------------------------------------------------------------------

    def ping(self, now: float) -> int:
        """Send a ping; return its number, which PingAnswered will have."""
        number = self._keepalive.ping(now)
        if self.error is None:
            self._output.add_control(PING, SYN, 0, number)
        return number

    def go_away(self) -> None:
        """Send GO_AWAY, and reset new streams of the peer. Open streams continue, and we may still open streams."""
        if self.error is None and not self._admission.is_closed:
            self._admission.is_closed = True
            self._output.add_control(GO_AWAY, 0, 0, NORMAL)

    def blocked(self, now: float) -> None:
        """Record that the carrier is full; the session ends if that lasts for ``write_timeout``."""
        self._output.blocked(now)

    def unblocked(self) -> None:
        """Record that the carrier takes data again."""
        self._output.unblocked()

    def data_to_send(self, max_bytes: int, now: float) -> bytes:
        """Return all control frames, then DATA frames of the streams in round-robin order, until these have
        ``max_bytes`` or up to one frame more. Pass 0 if the carrier is full: control frames are small and limited.
        """
        self._now = now
        return self._output.take(max_bytes, now)

    # Time -----------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Return the time at which to call ``tick``; infinity for never. Other methods may make it earlier."""
        if self.error is not None:
            return inf
        return min(
            self._keepalive.deadline,
            self._output.deadline,
            self._opening.unacknowledged.deadline,
            self._output.waiting.deadline,
            self._lingering.deadline,
        )

    def tick(self, now: float) -> None:
        """Act on time-outs that have expired, and send keep-alive pings."""
        if self.error is not None:
            return
        self._now = now
        config = self._config
        if now >= self._output.deadline:
            self._end(SessionTimeout(f"the peer took nothing for {config.write_timeout:g} seconds"))
            return
        if now >= self._keepalive.deadline:
            if self._keepalive.is_asking:
                self._end(SessionTimeout(f"no answer to a ping within {config.ping_timeout:g} seconds"))
                return
            self._output.add_control(PING, SYN, 0, self._keepalive.ask(now))
        for timeouts in (self._opening.unacknowledged, self._output.waiting, self._lingering):
            for stream in timeouts.over(now):
                self._give_up(stream, timeouts.reason)

    # Inside ---------------------------------------------------------------------------------------------------

    def _frame(self, header: Header) -> None:
        """Process a header; the payload of a DATA frame follows. Raises ProtocolError and PeerFailed."""
        kind, flags, stream_id, length = header
        if kind == PING:
            self._ping_received(flags, length)
            return
        if kind == GO_AWAY:
            self._go_away_received(length)
            return
        # A frame with several flags is processed in this order: SYN, ACK, RST, payload or window, FIN.
        stream = self._opened_by_peer(stream_id) if flags & SYN else self._streams.get(stream_id)
        self._current = stream
        self._end_follows = False
        if stream is None:
            return  # closed, reset or refused while the frame was in transit: its payload is discarded
        if not stream.is_acknowledged:
            # Any frame acknowledges: Go sends no ACK if it received our FIN before it accepted the stream.
            self._opening.acknowledged(stream)
            self._events.append(StreamAcknowledged(stream))
        if flags & RST:
            self._reset_by_peer(stream)
            return
        if flags & FIN and stream.inbound is Direction.ENDED:
            raise ProtocolError(f"second end of stream {stream_id}")
        if stream in self._lingering:
            self._lingering.start(stream, self._now)
        if kind == DATA:
            try:
                stream.receive_window.received(length)
            except ProtocolError as error:
                raise ProtocolError(f"stream {stream_id}: {error}") from None
            self._end_follows = bool(flags & FIN and length)
        elif length:
            stream.send_window.granted(length)
            if stream.queue.size:
                self._output.add_data(stream)
        if flags & FIN and not self._end_follows:
            self._end_received(stream)

    def _payload(self, stream: Stream, data: bytes) -> None:
        if stream.inbound is Direction.OPEN and not stream.is_discarding:
            self._streams.given(stream, len(data))
            self._events.append(DataReceived(stream, data))
            if self._streams.unread > self._config.max_unread:
                self._give_up(self._streams.fullest(), "too much of what came was not read")
        if self._end_follows and not self._reader.remaining and self._current is not None:
            self._end_follows = False
            self._end_received(stream)

    def _opened_by_peer(self, stream_id: int) -> Stream | None:
        """Process a SYN. Return the new stream; None if it was refused."""
        if stream_id in self._streams:
            raise ProtocolError(f"stream {stream_id} was opened twice")
        if not self._admission.admit(self._now):
            self._output.add_control(WINDOW_UPDATE, RST, stream_id, 0)
            return None
        stream = Stream(stream_id, True, self._config.max_window)
        self._streams.add(stream)
        # Acknowledge now, not on acceptance: Go ends the whole session if a stream is never acknowledged.
        self._output.add_control(WINDOW_UPDATE, ACK, stream_id, stream.receive_window.credit(at_once=True))
        self._events.append(StreamOpened(stream))
        return stream

    def _reset_by_peer(self, stream: Stream) -> None:
        self._streams.release(stream)
        self._forget(stream)
        self._events.append(StreamReset(stream, True, "the peer reset the stream"))
        self._admission.reset_by_peer(stream, self._now)

    def _ping_received(self, flags: int, number: int) -> None:
        if flags & SYN:
            self._keepalive.requested(self._now)
            self._output.add_control(PING, ACK, 0, number)
            return
        seconds = self._keepalive.answered(number, self._now)
        if seconds is not None:
            self._events.append(PingAnswered(number, seconds))

    def _go_away_received(self, code: int) -> None:
        if code != NORMAL:
            raise PeerFailed(code)
        if not self._opening.is_closed:
            self._opening.close("the peer takes no more streams")
            self._events.append(PeerGoesAway())

    def _end_received(self, stream: Stream) -> None:
        stream.inbound = Direction.ENDED
        self._events.append(EndReceived(stream))
        if stream.outbound is Direction.ENDED:
            self._forget(stream)

    def _data_sent(self, stream: Stream) -> None:
        self._events.append(DataSent(stream))

    def _end_sent(self, stream: Stream) -> None:
        stream.outbound = Direction.ENDED
        self._events.append(EndSent(stream))
        if stream.inbound is Direction.ENDED:
            self._forget(stream)
        elif stream.is_discarding:
            self._lingering.start(stream, self._now)

    def _give_up(self, stream: Stream, reason: str) -> None:
        self.reset(stream)
        self._events.append(StreamReset(stream, False, reason))

    def _forget(self, stream: Stream) -> None:
        """Remove a closed stream. Data that its owner holds and has not consumed still counts as unread."""
        self._streams.remove(stream)
        self._output.forget(stream)
        self._opening.unacknowledged.stop(stream)
        self._lingering.stop(stream)
        self._admission.closed(stream)
        if self._current is stream:
            self._current = None

    def _end(self, error: SessionError) -> None:
        """End the session; after a ProtocolError, tell the peer by GO_AWAY."""
        self.error = error
        self._output.clear_data()
        if isinstance(error, ProtocolError):
            self._output.add_control(GO_AWAY, 0, 0, PROTOCOL_ERROR)
        self._streams.close_all()
        self._opening.close(f"the session is over: {error}")
        self._opening.unacknowledged.clear()
        self._lingering.clear()
        self._keepalive.stop()
        self._events.append(SessionEnded(error))
