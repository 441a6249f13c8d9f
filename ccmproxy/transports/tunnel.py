"""Connections through a proxy: an endpoint on top of the endpoint of the proxy itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.transports.proxy_dialogue import Handshake, ProxyError


@implementer(IStreamClientEndpoint)
class TunnelEndpoint:
    """Connects to a proxy through ``proxy``, and holds a handshake for the rest of the way.

    ``handshake`` makes one for each connection. ``timeout``: seconds for all of it, from when the proxy is connected.
    ``connect`` fails with ProxyError, whatever goes wrong; the protocol is built only when the tunnel stands. Its
    transport is that of the connection to the proxy.
    """

    def __init__(
        self,
        proxy: IStreamClientEndpoint,
        handshake: Callable[[], Handshake],
        clock: IReactorTime,
        timeout: float = 10.0,
    ) -> None:
        self._proxy = proxy
        self._handshake = handshake
        self._clock = clock
        self._timeout = timeout

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect a protocol of ``protocol_factory``. Cancelling closes the connection at once."""
        connecting = _Connecting(self._handshake(), self._clock, self._timeout, protocol_factory)
        return connecting.begin(self._proxy)


@implementer(IProtocolFactory)
class _Connecting:
    """One ``connect`` of a TunnelEndpoint, until its Deferred fires."""

    def __init__(
        self, handshake: Handshake, clock: IReactorTime, timeout: float, factory: IProtocolFactory
    ) -> None:
        self._handshake = handshake
        self._clock = clock
        self._timeout = timeout
        self._factory = factory
        self._tunnel: _Tunnel | None = None
        self._deadline: IDelayedCall | None = None
        self._over = False

    def begin(self, proxy: IStreamClientEndpoint) -> Deferred[IProtocol]:
        self._result: Deferred[IProtocol] = Deferred(self._cancelled)
        self._below = proxy.connect(self)
        self._below.addCallbacks(self._connected, self._not_connected)
        return self._result

    # IProtocolFactory, for the endpoint below

    def buildProtocol(self, address: IAddress) -> _Tunnel | None:
        return None if self._over else _Tunnel(self)

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def _connected(self, tunnel: IProtocol) -> None:
        assert isinstance(tunnel, _Tunnel)
        if self._over:
            tunnel.transport.abortConnection()
            return
        self._tunnel = tunnel
        self._deadline = self._clock.callLater(self._timeout, self._time_out)
        tunnel.transport.write(self._handshake.start())

    def _not_connected(self, reason: Failure) -> None:
        self._fail(f"cannot connect to the proxy: {reason.getErrorMessage()}")

    # What the tunnel tells

    def received(self, tunnel: _Tunnel, data: bytes) -> None:
        if self._over:
            return
        try:
            answer = self._handshake.receive(data)
        except ProxyError as error:
            tunnel.transport.abortConnection()
            self._fail(str(error))
            return
        if answer:
            tunnel.transport.write(answer)
        if self._handshake.rest is not None:
            self._established(tunnel, self._handshake.rest)

    def lost(self) -> None:
        self._fail("the proxy closed the connection before the tunnel stood")

    def _established(self, tunnel: _Tunnel, rest: bytes) -> None:
        protocol = self._factory.buildProtocol(tunnel.transport.getPeer())
        if protocol is None:
            tunnel.transport.abortConnection()
            self._finish()
            self._result.errback(Failure(ConnectionLost("nobody wants the connection")))
            return
        self._finish()
        tunnel.go_over_to(protocol)
        self._result.callback(protocol)
        if rest:
            # Not earlier: who connects may not know yet that it is connected.
            tunnel.dataReceived(rest)

    def _time_out(self) -> None:
        self._deadline = None
        if self._tunnel is not None:
            self._tunnel.transport.abortConnection()
        self._fail(f"the proxy did not answer within {self._timeout:g} seconds")

    def _cancelled(self, result: Deferred[IProtocol]) -> None:
        tunnel = self._tunnel
        self._finish()
        if tunnel is not None:
            tunnel.transport.abortConnection()
        else:
            self._below.cancel()

    def _fail(self, message: str) -> None:
        if not self._over:
            self._finish()
            self._result.errback(Failure(ProxyError(message)))

    def _finish(self) -> None:
        self._over = True
        self._tunnel = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


@implementer(IProtocol)
class _Tunnel:
    """The protocol of a connection to a proxy: the handshake first, then whoever is to use the tunnel."""

    __slots__ = ("_connecting", "_protocol", "transport")

    def __init__(self, connecting: _Connecting) -> None:
        self._connecting: _Connecting | None = connecting
        self._protocol: IProtocol | None = None
        self.transport: Any = None

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport

    def connectionMade(self) -> None:
        """Part of IProtocol; nothing is to be done."""

    def go_over_to(self, protocol: IProtocol) -> None:
        """Everything from now on is for ``protocol``."""
        self._connecting = None
        self._protocol = protocol
        protocol.makeConnection(self.transport)

    def dataReceived(self, data: bytes) -> None:
        if self._protocol is not None:
            self._protocol.dataReceived(data)
        elif self._connecting is not None:
            self._connecting.received(self, data)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        protocol, self._protocol = self._protocol, None
        connecting, self._connecting = self._connecting, None
        if protocol is not None:
            protocol.connectionLost(reason)
        elif connecting is not None:
            connecting.lost()
