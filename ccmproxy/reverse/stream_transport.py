"""A stream of a session as a transport: every Twisted protocol that runs on TCP runs on it."""

from __future__ import annotations

import typing
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, cast

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IProducer,
    IProtocol,
    IPullProducer,
    IPushProducer,
    IReactorTime,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.reverse.address import StreamAddress
from ccmproxy.reverse.stream_errors import StreamAborted
from ccmproxy.transports.contract import IByteStream
from ccmproxy.yamux import Direction, Session, Stream

_log = Logger()

#: High and low watermark: bytes in a stream's queue above which its producer is paused, and below which it is resumed.
#: A window is 512 KiB, so a producer is resumed well before the peer has used up its window.
HIGH_MARK: Final = 256 * 1024
LOW_MARK: Final = 64 * 1024
#: While the protocol is paused, received pieces smaller than _SMALL are joined to buffers of up to _JOINED bytes.
#: Otherwise a peer that sends two bytes at a time would use twenty times the memory that its window allows.
_SMALL: Final = 4 * 1024
_JOINED: Final = 64 * 1024


class Carrier(typing.Protocol):
    """The part of YamuxProtocol that a stream uses."""

    session: Session
    clock: IReactorTime

    def work(self) -> None:
        """Handle all events of the session, and send its data."""

    def stream_lost(self, transport: StreamTransport) -> None:
        """Forget ``transport``: its protocol has been told, or is being told, that the stream is lost."""


@implementer(IByteStream)
class StreamTransport:
    """A stream as a transport that behaves as Twisted's TCP transport: ``loseConnection`` first sends what was written,
    waits for the producer to unregister, and the protocol learns of the loss in a later turn of the reactor.

    After ``pauseProducing`` received data is kept, and the peer is stopped because its window is not renewed; other
    streams continue. The peer's FIN ends the connection, unless the protocol provides IHalfCloseableProtocol: Go has no
    other way to say that it has closed.

    The connection is lost with ConnectionDone after an orderly close, ConnectionAborted after ``abortConnection``,
    StreamAborted after a reset, and SessionLost when the session is over.
    """

    __slots__ = (
        "__weakref__",
        "_carrier",
        "_delivering",
        "_end_waits",
        "_finishing",
        "_host",
        "_input",
        "_paused",
        "_peer",
        "connected",
        "disconnected",
        "disconnecting",
        "producer",
        "producer_paused",
        "protocol",
        "stream",
        "streaming_producer",
    )

    protocol: IProtocol

    def __init__(self, carrier: Carrier, stream: Stream, host: StreamAddress, peer: StreamAddress) -> None:
        self._carrier = carrier
        self.stream = stream
        self._host = host
        self._peer = peer
        self._paused = False
        #: Data received while the protocol was paused; whether the peer's FIN follows it; whether its delivery is
        #: scheduled.
        self._input: deque[bytes | bytearray] = deque()
        self._end_waits = False
        self._delivering = False
        #: The protocol will be told of the loss, and of nothing else.
        self._finishing = False
        self.connected = True
        self.disconnected = False
        self.disconnecting = False
        self.producer: IProducer | None = None
        self.streaming_producer = False
        self.producer_paused = False

    def __repr__(self) -> str:
        return f"<StreamTransport {self.stream.id} of {self._peer.carrier}>"

    def connect(self, protocol: IProtocol) -> None:
        """Connect ``protocol`` to the stream. Raises what its ``makeConnection`` raises."""
        self.protocol = protocol
        protocol.makeConnection(self)

    # ITransport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not isinstance(data, bytes):
            if not isinstance(data, bytearray | memoryview):
                raise TypeError(f"transports carry bytes, not {type(data).__name__}")
            data = bytes(data)
        stream = self.stream
        if stream.is_closed or stream.outbound is not Direction.OPEN:
            return
        self._carrier.session.send(stream, data)
        self._carrier.work()
        producer = self.producer
        if stream.queue.size > HIGH_MARK and producer is not None and self.streaming_producer:
            if not self.producer_paused:
                self.producer_paused = True
                self._call(cast(IPushProducer, producer).pauseProducing)

    def unsent_bytes(self) -> int:
        """Return the number of bytes that wait for the peer's window or for the carrier."""
        return self.stream.queue.size

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if not self.disconnecting and not self._finishing:
            self.disconnecting = True
            if self.producer is None:
                self._close()

    def loseWriteConnection(self) -> None:
        """Half-close: send FIN after what was written, and continue to receive."""
        if not self.disconnecting and not self._finishing:
            self._carrier.session.close_write(self.stream)
            self._carrier.work()

    def abortConnection(self) -> None:
        """Reset the stream. Data that was not sent yet, or that the peer has not read yet, is lost."""
        if not self._finishing:
            self._carrier.session.reset(self.stream)
            self._finish_later(ConnectionAborted())
            self._carrier.work()

    def getPeer(self) -> StreamAddress:
        return self._peer

    def getHost(self) -> StreamAddress:
        return self._host

    # IPushProducer

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        if (self._input or self._end_waits) and not self._delivering and not self._finishing:
            # Delivered in a later turn: no protocol expects data inside its call of resumeProducing.
            self._delivering = True
            self._carrier.clock.callLater(0, self._deliver_kept)

    def stopProducing(self) -> None:
        self.loseConnection()

    # IConsumer

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError("a producer is already registered")
        if self._finishing:
            producer.stopProducing()
            return
        self.producer = producer
        self.streaming_producer = streaming
        self.producer_paused = False
        if not streaming:
            cast(IPullProducer, producer).resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None
        self.streaming_producer = False
        if self.disconnecting and not self._finishing:
            self._close()

    # Called by the carrier, from its loop in ``work``

    def data_received(self, data: bytes) -> None:
        """Deliver a piece of data, or keep it while the protocol is paused."""
        if self._paused or self._input:
            self._keep(data)
        else:
            self._deliver(data)

    def end_received(self) -> None:
        """Handle the peer's FIN, after all data that is kept."""
        if self._paused or self._input:
            self._end_waits = True
        else:
            self._end()

    def data_sent(self) -> None:
        """Resume the producer if the queue, which has become shorter, is short enough."""
        producer = self.producer
        if producer is None:
            return
        if self.streaming_producer:
            if self.producer_paused and self.stream.queue.size < LOW_MARK:
                self.producer_paused = False
                self._call(cast(IPushProducer, producer).resumeProducing)
        elif not self.stream.queue.size:
            self._call(cast(IPullProducer, producer).resumeProducing)

    def end_sent(self) -> None:
        """Handle the end of our direction: all written data and FIN have been sent."""
        if self.disconnecting:
            self._finish_later(ConnectionDone())
        elif not self._finishing:
            if IHalfCloseableProtocol.providedBy(self.protocol):
                self._call(cast(IHalfCloseableProtocol, self.protocol).writeConnectionLost)
            self._finish_if_both_ended()

    def reset(self, reason: str) -> None:
        """Lose the connection because the stream was reset, by either side."""
        self.lose(Failure(StreamAborted(reason)))

    def lose(self, reason: Failure) -> None:
        """Tell the protocol and the producer that the connection is lost; later calls do nothing."""
        if self.disconnected:
            return
        self.disconnected = self._finishing = True
        self.connected = False
        self._input.clear()
        self._carrier.stream_lost(self)
        producer, self.producer = self.producer, None
        if producer is not None:
            self._call(producer.stopProducing)
        # Break the reference cycle of protocol and transport, which would otherwise be left to the garbage collector.
        protocol = self.protocol
        del self.protocol
        try:
            protocol.connectionLost(reason)
        except Exception:
            _log.failure("a protocol on a stream let an exception out when it was lost")

    # Inside

    def _deliver(self, data: bytes) -> None:
        if not self._finishing:
            self._carrier.session.consumed(self.stream, len(data))
            self._call(self.protocol.dataReceived, data)

    def _keep(self, data: bytes) -> None:
        """Keep data until the protocol is resumed."""
        last = self._input[-1] if self._input else None
        if isinstance(last, bytearray) and len(last) + len(data) <= _JOINED:
            last += data
        else:
            self._input.append(bytearray(data) if len(data) < _SMALL else data)

    def _deliver_kept(self) -> None:
        self._delivering = False
        while self._input and not self._paused:
            self._deliver(bytes(self._input.popleft()))
        if self._end_waits and not self._input and not self._paused:
            self._end_waits = False
            self._end()
        self._carrier.work()

    def _end(self) -> None:
        """Handle the peer's FIN: the protocol has received all that the peer sent."""
        if self._finishing:
            return
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self._call(cast(IHalfCloseableProtocol, self.protocol).readConnectionLost)
            self._finish_if_both_ended()
            return
        if self.stream.queue.size:
            # The peer has closed and reads no more, so the queue would never be sent. Reset the stream, since FIN
            # would make the incomplete data look complete.
            self._carrier.session.reset(self.stream)
        else:
            self._carrier.session.close(self.stream, self._carrier.clock.seconds())
        self.lose(Failure(ConnectionDone()))

    def _close(self) -> None:
        """Send FIN after what is queued; data received from now on is discarded."""
        stream = self.stream
        self._input.clear()
        self._carrier.session.close(stream, self._carrier.clock.seconds())
        if stream.is_closed or stream.outbound is Direction.ENDED:
            self._finish_later(ConnectionDone())
        self._carrier.work()

    def _finish_if_both_ended(self) -> None:
        """Lose the connection if both directions have ended and the protocol has received all data."""
        if self.stream.is_closed and not self._input and not self._end_waits:
            self._finish_later(ConnectionDone())

    def _finish_later(self, error: Exception) -> None:
        """Tell the protocol of the loss in a later turn, because it may be inside a call to this transport."""
        if not self._finishing:
            self._finishing = True
            self._input.clear()
            self._carrier.clock.callLater(0, self.lose, Failure(error))

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call the protocol or producer; as in the reactor, an exception is logged and loses this connection only."""
        try:
            function(*arguments)
        except Exception as error:
            _log.failure("a protocol on a stream let an exception out")
            self._carrier.session.reset(self.stream)
            self.lose(Failure(error))
