"""One side of a relayed WebSocket: its transport, its frames, and its flow control."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IPushProducer,
    IReactorTime,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.http.failures import NoRoomForBody
from ccmproxy.proxy.body_memory import Reservation
from ccmproxy.transports.contract import IByteStream, nowhere
from ccmproxy.transports.stall import StallWatch
from ccmproxy.transports.tcp import READ_SIZE, direct_gatherer, direct_writer, set_read_size
from ccmproxy.websocket.close_codes import NO_CODE, TOO_BIG, TRY_AGAIN_LATER
from ccmproxy.websocket.connection import LONG_MESSAGE, Close, Connection, Message, Ping, Pong, ProtocolError
from ccmproxy.websocket.frame_head import LONGEST_FRAME

#: Largest read while the rest of a long frame is expected (bytes).
LONGEST_READ = 1024 * 1024
#: Bytes of messages that are handled in one turn of the reactor, where more have come; an event counts as so many
#: besides (F63).
MOST_AT_ONCE = 1024 * 1024
_EVENT_COST = 4096
#: A peer that is told one of these is in the middle of a message. The rest of it is dropped: a reset would keep our
#: close from the peer.
_NOT_TAKEN = (TOO_BIG, TRY_AGAIN_LATER)
#: How long the peer may take to answer a close and to close its connection (seconds).
CLOSE_TIME = 5.0

_log = Logger()


class LegOwner(Protocol):
    """The owner of both legs, as a leg notifies it."""

    def message(self, leg: Leg, message: Message) -> None:
        """A complete message was received."""

    def closed(self, leg: Leg, close: Close) -> None:
        """The peer sent a close, which the owner must answer with :meth:`Leg.close`."""

    def failed(self, leg: Leg, error: ProtocolError) -> None:
        """The peer violated the protocol, or there is no room for its message; the owner must answer with
        :meth:`Leg.close`."""

    def crashed(self, leg: Leg) -> None:
        """The owner raised an exception, which has been logged."""

    def drained(self, leg: Leg) -> None:
        """The peer reads again."""

    def lost(self, leg: Leg) -> None:
        """The connection was lost, and everything received on it has been reported."""


@implementer(IProtocol, IPushProducer)
class Leg:
    """One side of a WebSocket. It is the push producer of its own transport: while that exerts back-pressure, the other
    leg is not read.

    Received bytes are not parsed before :meth:`pump` is called, nor while the other side exerts back-pressure: until
    then they are kept as received, at most one read of the transport.

    ``is_blocked``: the transport's buffer is full. ``is_lost``: the connection was lost. ``quiet_ticks``,
    ``idle_ticks``: seconds since bytes were last received, and since a frame was last written; the owner counts them
    once a second.
    """

    __slots__ = (
        "_clock",
        "_connection",
        "_deadline",
        "_held",
        "_memory",
        "_next_turn",
        "_owner",
        "_passed",
        "_pong",
        "_pumping",
        "_reads_more",
        "_registered",
        "_stall",
        "_started",
        "_told",
        "_write",
        "_write_both",
        "idle_ticks",
        "is_blocked",
        "is_closing",
        "is_lost",
        "other",
        "quiet_ticks",
        "transport",
    )

    transport: IByteStream
    other: Leg

    def __init__(
        self, owner: LegOwner, connection: Connection, clock: IReactorTime, memory: Reservation
    ) -> None:
        """``memory``: reserves what the leg holds of messages; released by the leg."""
        self._owner = owner
        self._memory = memory
        #: Size of the last message (bytes).
        self._passed = 0
        self._connection = connection
        self._clock = clock
        self._write: Callable[[bytes], None] = nowhere
        #: Made for the first long message: most connections never have one.
        self._write_both: Callable[[bytes, bytes | bytearray], None] | None = None
        self._started = self._held = self._pumping = self._registered = self._told = False
        self._reads_more = False
        self._pong: bytes | None = None
        self._deadline: IDelayedCall | None = None
        #: Goes on with what has come. The transport is not read meanwhile.
        self._next_turn: IDelayedCall | None = None
        self.is_blocked = self.is_closing = self.is_lost = False
        self.quiet_ticks = self.idle_ticks = 0

    # IProtocol

    def makeConnection(self, transport: ITransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # all of ours are more than ITransport
        self._write = direct_writer(transport)
        self._stall = StallWatch(transport)

    def connectionMade(self) -> None:
        """Do nothing; part of IProtocol."""

    def dataReceived(self, data: bytes) -> None:
        self.quiet_ticks = 0
        self._connection.receive(data)
        self._pump()
        if self._reads_more or len(data) >= READ_SIZE:
            self._adjust_reads(len(data))

    def connectionLost(self, reason: Failure) -> None:
        self.is_lost = True
        self.is_blocked = False
        self._stall.released()
        self._disarm()
        # Bytes received before the end are passed on first, at the pace of the other side.
        if not self._held or self.is_closing or not self._connection.buffered:
            self._tell_lost()

    # What the owner calls

    def start(self, head: bytes = b"") -> None:
        """Write ``head``, and register as the transport's producer. Both legs must be connected."""
        if self.is_lost:
            return
        if head:
            self._write(head)
        self._registered = True
        self.transport.registerProducer(self, True)

    def pump(self) -> None:
        """Begin to parse, with the bytes that were received already."""
        self._started = True
        self._pump()
        if self.is_lost:
            self._tell_lost()

    def send(self, data: bytes, is_text: bool) -> None:
        """Send a message. A message after a close is dropped."""
        if not self.is_closing and not self.is_lost:
            self.idle_ticks = 0
            if not LONG_MESSAGE <= len(data) <= LONGEST_FRAME:
                self._write(self._connection.send_message(data, is_text))
                return
            if self._write_both is None:
                self._write_both = direct_gatherer(self.transport)
            self._write_both(*self._connection.send_long_message(data, is_text))

    def stalled_seconds(self) -> float:
        """Return for how many seconds the peer has read none of its pending data; negative if none is pending."""
        return self._stall.seconds(self._clock.seconds())

    def ping(self) -> None:
        """Send a ping, unless the transport's buffer is full anyway."""
        if not self.is_closing and not self.is_lost and not self.is_blocked:
            self.idle_ticks = 0
            self._write(self._connection.send_ping())

    def close(self, code: int = NO_CODE, reason: bytes = b"") -> None:
        """Send a close, or answer the peer's close, after everything sent before. Idempotent."""
        if self.is_closing or self.is_lost:
            return
        self.is_closing = True
        self._write(self._connection.send_close(code, reason))
        if self._connection.closed:
            self._finish()
            return
        if not self.is_blocked:
            self._leave()
        # The peer's answer must be read even if the other side exerts back-pressure.
        self.release()

    def abort(self) -> None:
        """Drop the connection at once."""
        if not self.is_lost:
            self.is_closing = True
            self._unregister()
            self.transport.abortConnection()

    def hold(self) -> None:
        """Pause reading, because the other side exerts back-pressure."""
        if not self._held and not self.is_closing:
            self._held = True
            if not self.is_lost:
                self.transport.pauseProducing()

    def release(self) -> None:
        """Resume reading."""
        if not self._held:
            return
        self._held = False
        self._pump()
        self._read_on()

    def _read_on(self) -> None:
        if self._held or self._next_turn is not None:
            return
        if self.is_lost:
            self._tell_lost()
        else:
            self.transport.resumeProducing()

    # Producer: back-pressure from this leg's own transport

    def pauseProducing(self) -> None:
        """Pause the other leg, as the peer reads slowly."""
        self.is_blocked = True
        self._stall.blocked(self._clock.seconds())
        self.other.hold()

    def resumeProducing(self) -> None:
        self.is_blocked = False
        self._stall.released()
        if self.is_closing:
            self._leave()
            return
        pong, self._pong = self._pong, None
        if pong is not None:
            self._write(self._connection.send_pong(pong))
        self._owner.drained(self)
        if not self.is_blocked:
            self.other.release()

    def stopProducing(self) -> None:
        """Do nothing: connectionLost reports the loss of the connection."""

    # Inside

    def _pump(self) -> None:
        """Report events to the owner until none is left, the other side exerts back-pressure, or it is enough for one
        turn of the reactor."""
        if self._pumping or not self._started or self._next_turn is not None:
            return
        self._pumping = True
        room = MOST_AT_ONCE
        try:
            while not self._held:
                event = self._connection.next_event()
                if event is None:
                    if self._connection.is_behind:
                        self._wait_for_next_turn()
                    break
                self._handle(event)
                room -= _EVENT_COST + (len(event.data) if isinstance(event, Message) else 0)
                if room < 0 and self._connection.buffered:
                    self._wait_for_next_turn()
                    break
            if self._connection.gathered or self._memory.size:
                self._reserve()
        except ProtocolError as error:
            self._memory.release()
            if not self.is_closing:
                self._owner.failed(self, error)
            elif error.code not in _NOT_TAKEN:
                self.abort()
        except Exception:
            _log.failure("relaying a WebSocket message failed")
            self._owner.crashed(self)
        finally:
            self._pumping = False

    def _reserve(self) -> None:
        """Reserve memory for the message that is coming, or for the last one while the other side has not taken it.

        Raises ProtocolError where there is no room for more of a message; one that has passed on is never refused.
        """
        passed = min(self._passed, self._memory.size) if self.other.is_blocked else 0
        try:
            self._memory.resize(self._connection.gathered + passed)
        except NoRoomForBody:
            if self._connection.gathered > self._memory.largest:
                error = ProtocolError(TOO_BIG, "message too big")
            else:
                error = ProtocolError(TRY_AGAIN_LATER, "too many large messages are held at the moment")
            self._connection.fail(error)
            raise error from None

    def _wait_for_next_turn(self) -> None:
        self._next_turn = self._clock.callLater(0, self._go_on)
        if not self.is_lost:
            self.transport.pauseProducing()

    def _go_on(self) -> None:
        self._next_turn = None
        self._pump()
        self._read_on()

    def _adjust_reads(self, size: int) -> None:
        """After a read of ``size`` bytes: read the rest of a long frame at once, if it comes as fast as we read.

        Never more than the frame still lacks: what comes behind it has to be kept while the other side is slow.
        """
        missing = self._connection.missing if size >= READ_SIZE else 0
        self._reads_more = missing > READ_SIZE
        set_read_size(self.transport, min(missing, LONGEST_READ) if self._reads_more else READ_SIZE)

    def _handle(self, event: Message | Ping | Pong | Close) -> None:
        if isinstance(event, Message):
            self._passed = len(event.data)
            if not self.is_closing:
                self._owner.message(self, event)
        elif isinstance(event, Ping):
            # A peer that does not read gets a pong for its most recent ping only (RFC 6455 section 5.5.3).
            if self.is_blocked:
                self._pong = event.payload
            elif not self.is_closing and not self.is_lost:
                self._write(self._connection.send_pong(event.payload))
        elif isinstance(event, Close):
            if self.is_closing:
                self._finish()
            else:
                self._owner.closed(self, event)

    def _leave(self) -> None:
        """Wait for the peer's close, for a limited time, after the transport has sent ours."""
        self._unregister()
        self._arm()

    def _finish(self) -> None:
        """Close the transport after both sides have sent a close; its pending bytes are sent first."""
        self._unregister()
        if not self.is_lost:
            if not self.is_blocked:
                self._arm()
            self.transport.loseConnection()

    def _arm(self) -> None:
        if self._deadline is None and not self.is_lost:
            self._deadline = self._clock.callLater(CLOSE_TIME, self._time_out)

    def _disarm(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()

    def _time_out(self) -> None:
        self._deadline = None
        self.abort()

    def _unregister(self) -> None:
        if self._registered:
            self._registered = False
            if not self.is_lost:
                self.transport.unregisterProducer()

    def _tell_lost(self) -> None:
        if not self._told and self._started and self._next_turn is None:
            self._told = True
            self._memory.release()
            self._owner.lost(self)
