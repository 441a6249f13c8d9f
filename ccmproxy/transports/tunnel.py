"""Connections through a proxy: a client endpoint on top of the endpoint of the proxy itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.transports.contract import IByteStream
from ccmproxy.transports.proxy_dialogue import Handshake, ProxyError
from ccmproxy.transports.wrapping import Connecting, INegotiator


@implementer(IStreamClientEndpoint)
class TunnelEndpoint:
    """Connects to a proxy through the endpoint ``proxy``, and does the handshake that opens a tunnel.

    ``handshake``: makes the handshake of one connection. ``timeout``: seconds for the whole handshake, counted from
    when the proxy is connected. ``connect`` fails with ProxyError, whatever goes wrong. The protocol is built only when
    the tunnel is established, and its transport is that of the connection to the proxy.
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
        """Connect a protocol built by ``protocol_factory``. Cancelling closes the connection at once."""
        handshake = self._handshake()
        late = ProxyError(f"the proxy did not answer within {self._timeout:g} seconds")
        connecting = Connecting(
            protocol_factory,
            self._clock,
            lambda connecting: _Tunnel(handshake, connecting),
            self._timeout,
            late,
            _not_connected,
        )
        return connecting.begin(self._proxy)


def _not_connected(reason: Failure) -> Failure:
    return Failure(ProxyError(f"cannot connect to the proxy: {reason.getErrorMessage()}"))


@implementer(INegotiator)
class _Tunnel:
    """The protocol of a connection to a proxy: does the handshake, then relays to the protocol that uses the tunnel."""

    __slots__ = ("_connecting", "_handshake", "_protocol", "transport")
    transport: IByteStream

    def __init__(self, handshake: Handshake, connecting: Connecting) -> None:
        #: Set only during the handshake.
        self._handshake: Handshake | None = handshake
        self._connecting: Connecting | None = connecting
        #: Set only after the handshake.
        self._protocol: IProtocol | None = None

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport

    def connectionMade(self) -> None:
        """Do nothing; part of IProtocol."""

    def negotiate(self) -> None:
        """See INegotiator."""
        if self._handshake is not None:
            self.transport.write(self._handshake.start())

    def abortConnection(self) -> None:
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        if self._protocol is not None:
            self._protocol.dataReceived(data)
        elif self._connecting is not None and self._handshake is not None and not self._connecting.is_over:
            self._shake_hands(self._handshake, self._connecting, data)

    def _shake_hands(self, handshake: Handshake, connecting: Connecting, data: bytes) -> None:
        try:
            answer = handshake.receive(data)
        except ProxyError as error:
            self.abortConnection()
            connecting.failed(Failure(error))
            return
        if answer:
            self.transport.write(answer)
        if handshake.rest is not None:
            self._established(connecting, handshake.rest)

    def _established(self, connecting: Connecting, rest: bytes) -> None:
        """Connect the requested protocol, which receives all data from now on, beginning with ``rest``."""
        self._handshake = self._connecting = None
        protocol = self._protocol = connecting.established(self.transport)
        if protocol is None:
            return
        protocol.makeConnection(self.transport)
        connecting.succeeded(protocol)
        if rest:
            # Data is delivered only now: the caller of ``connect`` must learn first that it is connected.
            self.dataReceived(rest)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        protocol, self._protocol = self._protocol, None
        connecting, self._connecting = self._connecting, None
        if protocol is not None:
            protocol.connectionLost(reason)
        elif connecting is not None:
            connecting.failed(Failure(ProxyError("the proxy closed the connection before the tunnel stood")))
