"""Outgoing connections, direct or through a proxy, as the ``outbounds`` of the configuration describe them.

An outbound makes client endpoints. All connections of a credential go through its outbound (F30); those of the control
plane do so through :class:`OutboundEndpoints`. :func:`make_outbound` makes the outbound for a configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.web.client import URI
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from ccmproxy.config import OutboundConfig, ProxyOutboundConfig
from ccmproxy.interfaces.network import IOutbound
from ccmproxy.transports.connect import ConnectHandshake
from ccmproxy.transports.proxy_dialogue import Handshake, Login
from ccmproxy.transports.socks import SocksHandshake
from ccmproxy.transports.tcp import set_socket_options
from ccmproxy.transports.tls import ClientTLS
from ccmproxy.transports.tunnel import TunnelEndpoint


@implementer(IOutbound)
class DirectOutbound:
    """Connects directly to the destination. Host names are resolved locally, and all addresses are tried (RFC 8305).

    ``reactor``: provides TCP, time and name resolution. ``trust_root``: PEM file with certificates to trust besides
    the system's; raises OSError or ssl.SSLError if it cannot be read. ``bind_address``: local IP address that
    connections come from. ``connect_timeout``: seconds for the TCP connection, and again for the TLS handshake.
    ``clock``: runs the time-out of the TLS handshake; None = the reactor. ``tls``: the settings of the TLS handshake.
    """

    def __init__(
        self,
        reactor: Any,
        trust_root: str | None = None,
        bind_address: str | None = None,
        connect_timeout: float = 10.0,
        clock: IReactorTime | None = None,
    ) -> None:
        self._reactor = reactor
        self._clock: IReactorTime = reactor if clock is None else clock
        self.tls = ClientTLS(trust_root, connect_timeout)
        self._bind_address = None if bind_address is None else (bind_address, 0)
        self._connect_timeout = connect_timeout

    def endpoint(
        self, host: str, port: int, tls: bool, server_name: str | None = None
    ) -> IStreamClientEndpoint:
        """See IOutbound. Raises ValueError when ``tls`` is true and the name for it is not a valid host name."""
        arguments = self._reactor, host, port, self._connect_timeout, self._bind_address
        endpoint: IStreamClientEndpoint
        # IP addresses are connected to without the resolver, which runs in threads.
        if isIPAddress(host):
            endpoint = TCP4ClientEndpoint(*arguments)
        elif isIPv6Address(host):
            endpoint = TCP6ClientEndpoint(*arguments)
        else:
            endpoint = HostnameEndpoint(*arguments)
        endpoint = KeepAliveEndpoint(endpoint)
        return self.tls.wrap(endpoint, server_name or host, port, self._clock) if tls else endpoint


@implementer(IOutbound)
class ProxyOutbound:
    """Connects through the proxy that ``config`` describes. The proxy resolves the host names of destinations.

    ``way``: the outbound through which the proxy itself is reached, and which resolves the proxy's name. ``tls``: TLS
    settings for destinations, inside the tunnel. ``handshake_timeout``: seconds in which the proxy must have connected
    to a destination.
    """

    def __init__(
        self,
        config: ProxyOutboundConfig,
        way: IOutbound,
        tls: ClientTLS,
        clock: IReactorTime,
        handshake_timeout: float = 10.0,
    ) -> None:
        self._kind: Callable[[str, int, Login | None], Handshake]
        self._kind = SocksHandshake if config.type == "socks" else ConnectHandshake
        self._login: Login | None = None
        if config.username:
            password = config.password.get_secret_value() if config.password is not None else ""
            self._login = Login(config.username, password)
        self._proxy = way.endpoint(config.server, config.server_port, config.tls)
        self._tls = tls
        self._clock = clock
        self._handshake_timeout = handshake_timeout

    def endpoint(
        self, host: str, port: int, tls: bool, server_name: str | None = None
    ) -> IStreamClientEndpoint:
        """See IOutbound. Connecting fails with ProxyError for any failure before the tunnel is established.

        Raises ValueError when ``host`` is not a valid host name.
        """
        self._handshake(host, port)  # raises ValueError now, not only when connecting
        tunnel = TunnelEndpoint(
            self._proxy, lambda: self._handshake(host, port), self._clock, self._handshake_timeout
        )
        return self._tls.wrap(tunnel, server_name or host, port, self._clock) if tls else tunnel

    def _handshake(self, host: str, port: int) -> Handshake:
        return self._kind(host, port, self._login)


def make_outbound(
    config: OutboundConfig | None,
    reactor: Any,
    trust_root: str | None = None,
    connect_timeout: float = 10.0,
    clock: IReactorTime | None = None,
) -> IOutbound:
    """Return the outbound that ``config`` describes; None means direct, from an address that the system chooses.

    ``trust_root``, ``connect_timeout`` and ``clock`` are those of DirectOutbound, and apply to proxies too. Raises
    OSError or ssl.SSLError when ``trust_root`` cannot be read.
    """
    if isinstance(config, ProxyOutboundConfig):
        direct = DirectOutbound(reactor, trust_root, connect_timeout=connect_timeout, clock=clock)
        return ProxyOutbound(config, direct, direct.tls, reactor if clock is None else clock, connect_timeout)
    bind_address = None if config is None else config.bind_address
    return DirectOutbound(reactor, trust_root, bind_address, connect_timeout, clock)


@implementer(IStreamClientEndpoint)
class KeepAliveEndpoint:
    """Wraps a TCP endpoint, and sets TCP_NODELAY and keep-alive on its connections."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect a protocol built by ``protocol_factory``. Fails as the wrapped endpoint does."""
        return self._endpoint.connect(protocol_factory).addCallback(_set_options)


def _set_options(protocol: IProtocol) -> IProtocol:
    set_socket_options(getattr(protocol, "transport", None))
    return protocol


@implementer(IAgentEndpointFactory)
class OutboundEndpoints:
    """Adapts an outbound to the interface by which an Agent gets its endpoints."""

    def __init__(self, outbound: IOutbound) -> None:
        self._outbound = outbound

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See IAgentEndpointFactory."""
        return self._outbound.endpoint(uri.host.decode("ascii"), uri.port, uri.scheme == b"https")
