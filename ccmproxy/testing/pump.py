"""In-memory connections whose transports behave like TCP transports of Twisted, and networks of such connections.

Unlike Twisted's own in-memory transports these have back-pressure: a full write buffer pauses its producer, a paused
reader receives nothing, and the amount of data in flight is bounded. Nothing moves by itself: a test writes, and then
calls :meth:`Pump.advance` to carry bytes for one round, or :meth:`Pump.flush` to carry them until nothing moves. Each
behaviour is also tested against real TCP.

In one respect the pump is deliberately worse than most networks: an end that closes while bytes are on their way to it
resets the connection, and a reset destroys all bytes that are not yet delivered to the other end (RFC 9293 section
3.10.7.4 allows this, RFC 9112 section 9.6 warns of it).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError, TimeoutError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from zope.interface import implementer

from ccmproxy.testing.memory_transport import MemoryTransport

KIB = 1024


class Pump:
    """A connection between the protocols ``client`` and ``server``, made at once. The attributes ``client`` and
    ``server`` are its transports.

    ``chunk_size``: most bytes delivered in one piece; may be changed at any time. ``high_mark``, ``low_mark``: bytes in
    a write buffer above which its producer is paused, and down to which the buffer must drain before it is resumed
    (Twisted's own values: 64 KiB and 0). ``wire_size``: most bytes in flight in one direction. ``on_work`` is called
    with the pump when it wakes up, that is at the first change since a round in which there was nothing to do.
    ``awake``: whether there may be something to do.
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
        on_work: Callable[[Pump], None] | None = None,
    ) -> None:
        self.chunk_size = chunk_size
        client_address = client_address or IPv4Address("TCP", "127.0.0.1", 50000)
        server_address = server_address or IPv4Address("TCP", "127.0.0.1", 8080)
        marks = high_mark, low_mark, wire_size
        self.client = MemoryTransport(client_address, server_address, *marks, wake=self._wake)
        self.server = MemoryTransport(server_address, client_address, *marks, wake=self._wake)
        self._on_work = on_work
        self._running = False
        self.awake = False
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
        """Carry at most one chunk in each direction, ``rounds`` times. Returns False if there was nothing to do in the
        last round.

        A reentrant call, from a protocol that is receiving data, does nothing.
        """
        if self._running or not self.awake:
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
                    # No protocol was called, so no new work can have been added meanwhile.
                    self.awake = False
                    break
        finally:
            self._running = False
        return acted

    def flush(self, limit: int = 1_000_000) -> None:
        """Carry bytes until nothing moves. Raises AssertionError after ``limit`` rounds."""
        for _ in range(limit):
            if not self.advance():
                return
        raise AssertionError(f"the conversation did not come to rest within {limit} rounds")

    def _wake(self) -> None:
        if not self.awake:
            self.awake = True
            if self._on_work is not None:
                self._on_work(self)


class MemoryListener:
    """The listener at one address of a :class:`MemoryNetwork`.

    ``refusing``: connections are refused. ``hanging``: connections are neither made nor refused. ``error``: the
    exception with which connecting fails. ``connections``: all connections ever made here, oldest first. ``attempts``:
    number of attempts to connect, including failed ones. ``options``: keyword arguments of :class:`Pump` for future
    connections.
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
        """The connections that are still open at one end at least."""
        return [pump for pump in self.connections if not pump.closed]


class MemoryNetwork:
    """Hosts and ports in memory. Only :meth:`flush` and :meth:`advance` make connections and carry bytes.

    ``clock``: the clock for connection time-outs, by default a new one.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.listeners: dict[tuple[str, int], MemoryListener] = {}
        self._pending: list[Callable[[], None]] = []
        #: The connections that may have something to do, in the order in which they woke up. A round skips all others,
        #: because thousands of connections may be idle or closed.
        self._awake: dict[Pump, None] = {}
        self._last_port = 50000

    @property
    def connections(self) -> list[Pump]:
        """All connections ever made."""
        return [pump for listener in self.listeners.values() for pump in listener.connections]

    def listen(self, host: str, port: int, factory: IProtocolFactory) -> MemoryListener:
        """Let ``factory`` serve ``host``:``port`` from now on."""
        factory.doStart()
        listener = self.listeners[host, port] = MemoryListener(factory, IPv4Address("TCP", host, port))
        return listener

    def endpoint(self, host: str, port: int, timeout: float | None = 30.0) -> MemoryEndpoint:
        """Return an endpoint that connects to ``host``:``port``. ``timeout``: seconds, or None for no time-out."""
        return MemoryEndpoint(self, host, port, timeout)

    def flush(self, limit: int = 1_000_000) -> None:
        """Make connections and carry bytes until nothing moves. Raises AssertionError after ``limit`` rounds."""
        for _ in range(limit):
            pending, self._pending = self._pending, []
            for connect in pending:
                connect()
            acted = bool(pending)
            for pump in list(self._awake):
                if pump.advance():
                    acted = True
                elif not pump.awake:
                    self._awake.pop(pump, None)
            if not acted:
                return
        raise AssertionError(f"the network did not come to rest within {limit} rounds")

    def advance(self, seconds: float) -> None:
        """Advance the clock by ``seconds``, and then flush."""
        self.clock.advance(seconds)
        self.flush()

    def _on_work(self, pump: Pump) -> None:
        self._awake[pump] = None


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """Connects to an address of a :class:`MemoryNetwork`.

    Connecting fails with Twisted's errors: ConnectionRefusedError when there is no listener or the listener is
    refusing, TimeoutError, or the ``error`` of the listener. Cancelling ends the attempt. A connection is made only
    when the network is flushed, just as a real connection is never made within ``connect``.
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
            client,
            server,
            client_address=client_address,
            server_address=listener.address,
            on_work=network._on_work,
            **listener.options,
        )
        listener.connections.append(pump)
        waiting.callback(client)
