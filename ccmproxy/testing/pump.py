"""Two protocols connected in memory, by transports that behave as TCP's do in Twisted.

Unlike the stock in-memory transports these push back: a write buffer pauses its producer, a paused reader
receives nothing, and what is in flight is bounded. Nothing moves by itself: a test writes, then lets
:meth:`Pump.advance` carry bytes for a round, or :meth:`Pump.flush` until all is quiet. Each behaviour here is
also tested against real TCP.

Deliberately worse than most networks: whoever closes while bytes for it are on their way resets the
connection, and a reset destroys what the other side has not yet been given (RFC 9293 section 3.10.7.4 allows
it, RFC 9112 section 9.6 warns of it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IProducer,
    IProtocol,
    IProtocolFactory,
    IPullProducer,
    IPushProducer,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

KIB = 1024

_log = Logger()


@implementer(ITCPTransport, IConsumer, IPushProducer)
class MemoryTransport:
    """One end of a :class:`Pump`.

    ``held``: while true, nothing that this end sent is delivered: neither bytes nor its going away.
    ``reading``: false while the protocol has paused it. ``written``: bytes that the protocol has written so
    far. ``buffered``: bytes still in the write buffer. ``peak``: the most bytes that were ever in the write
    buffer.
    """

    def __init__(
        self, host: IPv4Address, peer: IPv4Address, high_mark: int, low_mark: int, wire_size: int
    ) -> None:
        self._host = host
        self._peer = peer
        self._high_mark = high_mark
        self._low_mark = low_mark
        self._wire_size = wire_size
        self._protocol: IProtocol
        self._other: MemoryTransport
        self._outgoing = bytearray()
        #: What left the write buffer and was not delivered yet; as if in the kernels' buffers.
        self._wire = bytearray()
        self._end_sent = False  # an end of stream stands behind ``_wire``
        self._end_delivered = False
        self._reset_sent = False  # a reset was sent; nothing before it arrives any more
        self._aborting = False
        self._write_disconnecting = False
        self._writing = False  # as if registered with the reactor for writing
        self._no_delay = False
        self._keep_alive = False
        self.connected = True
        self.disconnected = False
        self.disconnecting = False
        self.reading = True
        self.held = False
        self.written = 0
        self.peak = 0
        self.producer: IProducer | None = None
        self.streaming_producer = False
        self.producer_paused = False

    @property
    def buffered(self) -> int:
        """Bytes in the write buffer."""
        return len(self._outgoing)

    def unsent_bytes(self) -> int:
        """Bytes that the other end has not been given: in the write buffer, and in the kernels', as it were."""
        return len(self._outgoing) + len(self._wire)

    # ITransport

    def write(self, data: bytes) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"transports carry bytes, not {type(data).__name__}")
        if self.disconnected or self._aborting or self._end_sent or not data:
            return
        self._outgoing += data
        self._writing = True
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

    def abortConnection(self) -> None:
        if not self.disconnected:
            self._aborting = True
            self.reading = False

    def loseWriteConnection(self) -> None:
        self._write_disconnecting = self._writing = True

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

    # What the pump calls. Each returns whether anything happened.

    def _push(self) -> bool:
        """Move bytes out of the write buffer, and act on what was to happen behind them."""
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
            # Bytes for an end that is gone are answered by a reset.
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
        """Give the other end what has come, at most ``chunk_size`` bytes."""
        other = self._other
        if self.held or other.disconnected or other._aborting:
            return False
        if self._reset_sent:
            # An end that neither reads nor writes is not watched, and so learns nothing.
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
        """What the reactor does with an exception: log it, lose the connection."""
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
        self._outgoing.clear()
        producer, self.producer = self.producer, None
        if producer is not None:
            self._call(producer.stopProducing)
        self._call(self._protocol.connectionLost, Failure(error))


class Pump:
    """A connection between ``client`` and ``server``, made at once; ``.client`` and ``.server`` are its
    transports.

    ``chunk_size``: most bytes that are delivered in one piece; may be changed at any time. ``high_mark``,
    ``low_mark``: fill of a write buffer, in bytes, above which a producer is paused and down to which it is
    resumed (Twisted's own: 64 KiB and 0). ``wire_size``: bytes that may be in flight in one direction.
    """

    def __init__(
        self,
        client: IProtocol,
        server: IProtocol,
        *,
        chunk_size: int = 64 * KIB,
        high_mark: int = 64 * KIB,
        low_mark: int = 0,
        wire_size: int = 64 * KIB,
        client_address: IPv4Address | None = None,
        server_address: IPv4Address | None = None,
    ) -> None:
        self.chunk_size = chunk_size
        client_address = client_address or IPv4Address("TCP", "127.0.0.1", 50000)
        server_address = server_address or IPv4Address("TCP", "127.0.0.1", 8080)
        self.client = MemoryTransport(client_address, server_address, high_mark, low_mark, wire_size)
        self.server = MemoryTransport(server_address, client_address, high_mark, low_mark, wire_size)
        self._running = False
        for transport, other, protocol in (
            (self.client, self.server, client),
            (self.server, self.client, server),
        ):
            transport._protocol = protocol
            transport._other = other
        server.makeConnection(self.server)
        client.makeConnection(self.client)

    @property
    def closed(self) -> bool:
        """Whether both ends have lost the connection."""
        return self.client.disconnected and self.server.disconnected

    def advance(self, rounds: int = 1) -> bool:
        """Carry at most one chunk each way, ``rounds`` times. False if there was nothing to do in the last
        one.

        Does nothing when called from within itself, that is by a protocol that is just receiving.
        """
        if self._running:
            return False
        self._running = True
        acted = False
        try:
            for _ in range(rounds):
                acted = self.client._push()
                acted = self.server._push() or acted
                acted = self.client._deliver(self.chunk_size) or acted
                acted = self.server._deliver(self.chunk_size) or acted
                if not acted:
                    break
        finally:
            self._running = False
        return acted

    def flush(self, limit: int = 1_000_000) -> None:
        """Carry bytes until nothing moves any more. Raises AssertionError after ``limit`` rounds."""
        for _ in range(limit):
            if not self.advance():
                return
        raise AssertionError(f"the conversation did not come to rest within {limit} rounds")


class MemoryListener:
    """What listens at one address of a :class:`MemoryNetwork`.

    ``refusing``: connections are refused. ``hanging``: connections are neither made nor refused. ``error``:
    connecting fails with this. ``connections``: every connection ever made here, oldest first. ``attempts``:
    connections asked for, including those that failed. ``options``: what :class:`Pump` takes, for the
    connections to come.
    """

    def __init__(self, factory: IProtocolFactory, address: IPv4Address) -> None:
        self.factory = factory
        self.address = address
        self.refusing = False
        self.hanging = False
        self.error: Exception | None = None
        self.connections: list[Pump] = []
        self.attempts = 0
        self.options: dict[str, Any] = {}

    @property
    def open_connections(self) -> list[Pump]:
        """The connections that at least one end still holds."""
        return [pump for pump in self.connections if not pump.closed]


class MemoryNetwork:
    """Hosts and ports in memory. Connections are made, and bytes carried, only by :meth:`flush` and
    :meth:`advance`.

    ``clock``: the one that connection time-outs run on, by default one of the network's own.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.listeners: dict[tuple[str, int], MemoryListener] = {}
        self._pending: list[Callable[[], None]] = []
        self._last_port = 50000

    @property
    def connections(self) -> list[Pump]:
        """Every connection ever made."""
        return [pump for listener in self.listeners.values() for pump in listener.connections]

    def listen(self, host: str, port: int, factory: IProtocolFactory) -> MemoryListener:
        """Let ``factory`` serve ``host``:``port`` from now on."""
        factory.doStart()
        listener = self.listeners[host, port] = MemoryListener(factory, IPv4Address("TCP", host, port))
        return listener

    def endpoint(self, host: str, port: int, timeout: float | None = 30.0) -> MemoryEndpoint:
        """An endpoint that connects to ``host``:``port``; ``timeout`` in seconds, None for never."""
        return MemoryEndpoint(self, host, port, timeout)

    def flush(self, limit: int = 1_000_000) -> None:
        """Make connections and carry bytes until nothing moves any more. Raises AssertionError after
        ``limit`` rounds."""
        for _ in range(limit):
            pending, self._pending = self._pending, []
            for connect in pending:
                connect()
            acted = bool(pending)
            for listener in self.listeners.values():
                for pump in listener.connections:
                    acted = pump.advance() or acted
            if not acted:
                return
        raise AssertionError(f"the network did not come to rest within {limit} rounds")

    def advance(self, seconds: float) -> None:
        """Let time pass, then flush."""
        self.clock.advance(seconds)
        self.flush()


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """Connects to an address of a :class:`MemoryNetwork`.

    Fails with Twisted's errors: ConnectionRefusedError where nobody listens or the listener is refusing,
    TimeoutError, or the listener's ``error``. Cancelling gives the attempt up. No connection is ever made
    before the network is flushed, as no real one is made within ``connect``.
    """

    def __init__(self, network: MemoryNetwork, host: str, port: int, timeout: float | None) -> None:
        self._network = network
        self._address = host, port
        self._timeout = timeout

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect a protocol of ``protocol_factory``."""
        network = self._network
        waiting: Deferred[IProtocol] = Deferred()

        def time_out() -> None:
            if not waiting.called:
                waiting.errback(TimeoutError())

        def proceed() -> None:
            if waiting.called:
                return
            listener = network.listeners.get(self._address)
            if listener is not None:
                listener.attempts += 1
            if listener is None or listener.refusing:
                waiting.errback(ConnectionRefusedError())
            elif listener.error is not None:
                waiting.errback(listener.error)
            elif not listener.hanging:
                self._connect(listener, protocol_factory, waiting)

        if self._timeout is not None:
            deadline = network.clock.callLater(self._timeout, time_out)

            def disarm(result: Any) -> Any:
                if deadline.active():
                    deadline.cancel()
                return result

            waiting.addBoth(disarm)
        network._pending.append(proceed)
        return waiting

    def _connect(
        self, listener: MemoryListener, protocol_factory: IProtocolFactory, waiting: Deferred[IProtocol]
    ) -> None:
        network = self._network
        network._last_port += 1
        client_address = IPv4Address("TCP", "127.0.0.1", network._last_port)
        server = listener.factory.buildProtocol(client_address)
        if server is None:
            waiting.errback(ConnectionRefusedError())
            return
        client = protocol_factory.buildProtocol(listener.address)
        if client is None:
            waiting.errback(ConnectionRefusedError())
            return
        pump = Pump(
            client, server, client_address=client_address, server_address=listener.address, **listener.options
        )
        listener.connections.append(pump)
        waiting.callback(client)
