"""One side of a relayed WebSocket: its transport, its frames, and what it may take and read just now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IProtocol,
    IPushProducer,
    IReactorTime,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.transports.tcp import READ_SIZE, direct_gatherer, direct_writer, set_read_size
from ccmproxy.websocket.connection import (
    LONG_MESSAGE,
    NO_CODE,
    Close,
    Connection,
    Message,
    Ping,
    Pong,
    ProtocolError,
)

#: So much of a long frame is read at once (bytes).
LONGEST_READ = 1024 * 1024
#: The peer may take so long to answer a close and be gone (seconds).
CLOSE_TIME = 5.0

_log = Logger()


class LegTransport(ITransport, IConsumer, IPushProducer):
    """What a transport must be: TCP, TLS and any multiplexed stream are."""

    def abortConnection() -> None:
        """Drop the connection at once."""


class LegOwner(Protocol):
    """What a leg tells whoever holds both."""

    def message(self, leg: Leg, message: Message) -> None:
        """A whole message came."""

    def closed(self, leg: Leg, close: Close) -> None:
        """The peer closes; to be answered with :meth:`Leg.close`."""

    def failed(self, leg: Leg, error: ProtocolError) -> None:
        """The peer broke the protocol; to be answered likewise."""

    def crashed(self, leg: Leg) -> None:
        """A defect of ours, which has been logged."""

    def drained(self, leg: Leg) -> None:
        """The peer reads again."""

    def lost(self, leg: Leg) -> None:
        """The connection is gone, and all that had come of it was told."""


def _nowhere(data: bytes) -> None:
    """Before there is a transport."""


@implementer(IProtocol, IPushProducer)
class Leg:
    """One side. It is the producer of its own transport: while that takes nothing more, the other leg is not read.

    Nothing that comes is looked at before :meth:`start`. Not a frame is looked at while the other side does not take
    what it holds: what has come stays as it came, at most a read of the transport.

    ``is_blocked``: the transport takes nothing more for now. ``is_lost``: it is gone. ``quiet_ticks``, ``idle_ticks``,
    ``blocked_ticks``: seconds since something came, was written, and since it takes nothing more.
    """

    __slots__ = (
        "_clock",
        "_connection",
        "_deadline",
        "_held",
        "_owner",
        "_pong",
        "_pumping",
        "_reads_more",
        "_registered",
        "_started",
        "_told",
        "_write",
        "_write_both",
        "blocked_ticks",
        "idle_ticks",
        "is_blocked",
        "is_closing",
        "is_lost",
        "other",
        "quiet_ticks",
        "transport",
    )

    transport: LegTransport
    other: Leg

    def __init__(self, owner: LegOwner, connection: Connection, clock: IReactorTime) -> None:
        self._owner = owner
        self._connection = connection
        self._clock = clock
        self._write: Callable[[bytes], None] = _nowhere
        #: Made for the first long message: most connections never have one.
        self._write_both: Callable[[bytes, bytes | bytearray], None] | None = None
        self._started = self._held = self._pumping = self._registered = self._told = False
        self._reads_more = False
        self._pong: bytes | None = None
        self._deadline: IDelayedCall | None = None
        self.is_blocked = self.is_closing = self.is_lost = False
        self.quiet_ticks = self.idle_ticks = self.blocked_ticks = 0

    # IProtocol ------------------------------------------------------------------------------------------------

    def makeConnection(self, transport: ITransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # all of ours are more than ITransport
        self._write = direct_writer(transport)

    def connectionMade(self) -> None:
        """Part of IProtocol; nothing is to be done."""

    def dataReceived(self, data: bytes) -> None:
        self.quiet_ticks = 0
        self._connection.receive(data)
        self._pump()
        if self._reads_more or len(data) >= READ_SIZE:
            self._adjust_reads(len(data))

    def connectionLost(self, reason: Failure) -> None:
        self.is_lost = True
        self.is_blocked = False
        self._disarm()
        # What came before the end is passed on first, as the other side takes it.
        if not self._held or self.is_closing or not self._connection.buffered:
            self._tell_lost()

    # What the owner calls -------------------------------------------------------------------------------------

    def start(self, head: bytes = b"") -> None:
        """Write ``head``, and begin to pass on; both legs are connected."""
        if self.is_lost:
            return
        if head:
            self._write(head)
        self._registered = True
        self.transport.registerProducer(self, True)

    def pump(self) -> None:
        """Look at what has come already."""
        self._started = True
        self._pump()
        if self.is_lost:
            self._tell_lost()

    def send(self, data: bytes, is_text: bool) -> None:
        """Send a message; one that comes after a close is dropped."""
        if not self.is_closing and not self.is_lost:
            self.idle_ticks = 0
            if len(data) < LONG_MESSAGE:
                self._write(self._connection.send_message(data, is_text))
                return
            if self._write_both is None:
                self._write_both = direct_gatherer(self.transport)
            self._write_both(*self._connection.send_long_message(data, is_text))

    def ping(self) -> None:
        """Send a sign of life, unless there is more than enough on its way."""
        if not self.is_closing and not self.is_lost and not self.is_blocked:
            self.idle_ticks = 0
            self._write(self._connection.send_ping())

    def close(self, code: int = NO_CODE, reason: bytes = b"") -> None:
        """Close, or answer a close; what was sent before arrives before. Idempotent."""
        if self.is_closing or self.is_lost:
            return
        self.is_closing = True
        self._write(self._connection.send_close(code, reason))
        if self._connection.closed:
            self._finish()
            return
        if not self.is_blocked:
            self._leave()
        # The peer's answer is waited for, whatever the other side takes.
        self.release()

    def abort(self) -> None:
        """Drop the connection."""
        if not self.is_lost:
            self.is_closing = True
            self._unregister()
            self.transport.abortConnection()

    def hold(self) -> None:
        """Read no further: the other side does not take it."""
        if not self._held and not self.is_closing:
            self._held = True
            if not self.is_lost:
                self.transport.pauseProducing()

    def release(self) -> None:
        """Read on."""
        if not self._held:
            return
        self._held = False
        self._pump()
        if self._held:
            return
        if self.is_lost:
            self._tell_lost()
        else:
            self.transport.resumeProducing()

    # Producer: our own transport tells what it takes -------------------------------------------------------

    def pauseProducing(self) -> None:
        """The peer reads slowly."""
        self.is_blocked = True
        self.other.hold()

    def resumeProducing(self) -> None:
        self.is_blocked = False
        self.blocked_ticks = 0
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
        """The connection is gone; connectionLost says so."""

    # Inside ---------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Tell the owner one event after the other, until there is none or the other side takes no more."""
        if self._pumping or not self._started:
            return
        self._pumping = True
        try:
            while not self._held:
                event = self._connection.next_event()
                if event is None:
                    break
                self._handle(event)
        except ProtocolError as error:
            if self.is_closing:
                self.abort()
            else:
                self._owner.failed(self, error)
        except Exception:
            _log.failure("relaying a WebSocket message failed")
            self._owner.crashed(self)
        finally:
            self._pumping = False

    def _adjust_reads(self, size: int) -> None:
        """After a read of ``size`` bytes: read the rest of a long frame at once, if it comes as fast as we read.

        Never more than the frame still lacks: what comes behind it has to be kept while the other side is slow.
        """
        missing = self._connection.missing if size >= READ_SIZE else 0
        self._reads_more = missing > READ_SIZE
        set_read_size(self.transport, min(missing, LONGEST_READ) if self._reads_more else READ_SIZE)

    def _handle(self, event: Message | Ping | Pong | Close) -> None:
        if isinstance(event, Message):
            if not self.is_closing:
                self._owner.message(self, event)
        elif isinstance(event, Ping):
            # To whoever asks and does not read, only the last answer is owed (RFC 6455 section 5.5.3).
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
        """Our close has been taken by the transport: wait for the peer's, but not for ever."""
        self._unregister()
        self._arm()

    def _finish(self) -> None:
        """Both sides have closed: so may the transport, once it has sent what it holds."""
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
        if not self._told and self._started:
            self._told = True
            self._owner.lost(self)
