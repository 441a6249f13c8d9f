"""One end of an in-memory connection that behaves like a TCP transport of Twisted.

It has the back-pressure of TCP: a full write buffer pauses its producer, a paused reader receives nothing, and the
amount of data in flight is bounded. :class:`ccmproxy.testing.pump.Pump` joins two ends and carries the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IProducer,
    IProtocol,
    IPullProducer,
    IPushProducer,
    ITCPTransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

_log = Logger()


@implementer(ITCPTransport, IConsumer, IPushProducer)
class MemoryTransport:
    """One end of a :class:`ccmproxy.testing.pump.Pump`.

    ``wake`` is called at every outside change that the next round of the pump may act upon. ``reading``: False while
    the protocol has paused the transport. ``written``: bytes that the protocol has written so far. ``buffered``: bytes
    in the write buffer. ``peak``: the largest number of bytes that were ever in the write buffer.
    """

    def __init__(
        self,
        host: IPv4Address,
        peer: IPv4Address,
        high_mark: int,
        low_mark: int,
        wire_size: int,
        wake: Callable[[], None],
    ) -> None:
        self._host = host
        self._peer = peer
        self._high_mark = high_mark
        self._low_mark = low_mark
        self._wire_size = wire_size
        self._wake = wake
        self._protocol: IProtocol
        self._other: MemoryTransport
        self._outgoing = bytearray()
        #: Bytes that left the write buffer and are not delivered yet, as in the buffers of the two kernels.
        self._wire = bytearray()
        self._end_sent = False  # An end of stream follows ``_wire``.
        self._end_delivered = False
        self._reset_sent = False  # A reset was sent; data sent before it is lost.
        self._aborting = False
        self._write_disconnecting = False
        self._writing = False  # Corresponds to being registered with the reactor for writing.
        self._no_delay = False
        self._keep_alive = False
        self._held = False
        self.connected = True
        self.disconnected = False
        self.disconnecting = False
        self.reading = True
        self.written = 0
        self.peak = 0
        self.producer: IProducer | None = None
        self.streaming_producer = False
        self.producer_paused = False

    @property
    def buffered(self) -> int:
        """The number of bytes in the write buffer."""
        return len(self._outgoing)

    def unsent_bytes(self) -> int:
        """Return the number of bytes not delivered to the other end: those in the write buffer and on the wire."""
        return len(self._outgoing) + len(self._wire)

    @property
    def held(self) -> bool:
        """While True, nothing that this end sends is delivered: neither bytes nor the end of the connection."""
        return self._held

    @held.setter
    def held(self, held: bool) -> None:
        self._held = held
        self._wake()

    # ITransport

    def write(self, data: bytes) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"transports carry bytes, not {type(data).__name__}")
        if self.disconnected or self._aborting or self._end_sent or not data:
            return
        self._outgoing += data
        self._writing = True
        self._wake()
        self.written += len(data)
        self.peak = max(self.peak, len(self._outgoing))
        if len(self._outgoing) > self._high_mark and self.producer is not None and self.streaming_producer:
            if not self.producer_paused:
                self.producer_paused = True
                cast(IPushProducer, self.producer).pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        for piece in data:
            self.write(piece)

    def loseConnection(self) -> None:
        if not self.disconnected:
            self.disconnecting = self._writing = True
            self._wake()

    def abortConnection(self) -> None:
        if not self.disconnected:
            self._aborting = True
            self.reading = False
            self._wake()

    def loseWriteConnection(self) -> None:
        self._write_disconnecting = self._writing = True
        self._wake()

    def getPeer(self) -> IPv4Address:
        return self._peer

    def getHost(self) -> IPv4Address:
        return self._host

    # ITCPTransport

    def getTcpNoDelay(self) -> bool:
        return self._no_delay

    def setTcpNoDelay(self, enabled: bool) -> None:
        self._no_delay = bool(enabled)

    def getTcpKeepAlive(self) -> bool:
        return self._keep_alive

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self._keep_alive = bool(enabled)

    # IPushProducer

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        if not self.disconnected and not self._aborting:
            self.reading = True
            self._wake()

    def stopProducing(self) -> None:
        self.loseConnection()

    # IConsumer

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError("a producer is already registered")
        if self.disconnected:
            producer.stopProducing()
            return
        self.producer = producer
        self.streaming_producer = streaming
        self.producer_paused = False
        if not streaming:
            cast(IPullProducer, producer).resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None
        if self.disconnecting:
            self._writing = True
            self._wake()

    # Called by the pump. Each method returns whether anything happened.

    def _push(self) -> bool:
        """Move bytes from the write buffer to the wire, and act on a close that was requested behind them."""
        if self.disconnected:
            return False
        if self._aborting:
            self._reset()
            self._disconnect(ConnectionAborted())
            return True
        if not self._writing:
            return False
        moved = min(len(self._outgoing), self._wire_size - len(self._wire))
        if self._outgoing and self._other.disconnected:
            # Bytes for an end that is closed are answered by a reset.
            self._other._reset()
            self._outgoing.clear()
            moved = 1
        elif moved > 0:
            self._wire += self._outgoing[:moved]
            del self._outgoing[:moved]
        if len(self._outgoing) > self._low_mark:
            return moved > 0
        if not self._outgoing:
            self._writing = False
        if self.producer is not None and (self.producer_paused or not self.streaming_producer):
            self.producer_paused = False
            self._call(cast(IPullProducer, self.producer).resumeProducing)
            return True
        if self._outgoing:
            return moved > 0
        if self.disconnecting:
            if self._other._wire and not self._other._reset_sent:
                self._reset()
            self._end_sent = True
            self._disconnect(ConnectionDone())
            return True
        if self._write_disconnecting and not self._end_sent:
            self._end_sent = True
            if IHalfCloseableProtocol.providedBy(self._protocol):
                self._call(cast(IHalfCloseableProtocol, self._protocol).writeConnectionLost)
            return True
        return moved > 0

    def _deliver(self, chunk_size: int) -> bool:
        """Deliver bytes on the wire to the other end, at most ``chunk_size``, or else a reset or an end of stream."""
        other = self._other
        if self._held or other.disconnected or other._aborting:
            return False
        if self._reset_sent:
            # The reactor does not watch an end that neither reads nor writes, so it does not notice the reset.
            if other.reading or other._outgoing:
                other._disconnect(ConnectionLost())
                return True
            return False
        if not other.reading or other._end_delivered:
            return False
        if self._wire:
            data = bytes(self._wire[:chunk_size])
            del self._wire[:chunk_size]
            other._call(other._protocol.dataReceived, data)
            return True
        if self._end_sent:
            other._end_delivered = True
            if IHalfCloseableProtocol.providedBy(other._protocol):
                other._call(cast(IHalfCloseableProtocol, other._protocol).readConnectionLost)
            else:
                other._end_sent = True
                other._disconnect(ConnectionDone())
            return True
        return False

    def _reset(self) -> None:
        self._wire.clear()
        self._reset_sent = True

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call ``function``. As in the reactor, an exception is logged and the connection is lost."""
        try:
            function(*arguments)
        except Exception as error:
            _log.failure("a protocol let an exception out")
            self._reset()
            self._disconnect(error)

    def _disconnect(self, error: Exception) -> None:
        if self.disconnected:
            return
        self.disconnected = True
        self.connected = self.reading = False
        self._wake()
        self._outgoing.clear()
        producer, self.producer = self.producer, None
        if producer is not None:
            self._call(producer.stopProducing)
        self._call(self._protocol.connectionLost, Failure(error))
