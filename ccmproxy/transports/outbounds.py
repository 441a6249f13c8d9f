"""Ways out to the network, as the configuration's ``outbounds`` name them.

An outbound makes endpoints; every connection of a credential goes through its outbound (F30), the control plane's
through :func:`agent`. :func:`make_outbound` makes the one that a configuration asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.web.client import URI, Agent, HTTPConnectionPool
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
    """Straight to the destination. Names are resolved here, and all their addresses tried (RFC 8305).

    ``reactor``: with TCP, time and name resolution. ``trust_root``: PEM file with certificates to trust besides the
    system's; raises OSError or ssl.SSLError if it cannot be read. ``bind_address``: local IP address that
    connections come from. ``connect_timeout``: seconds for the TCP connection, and again for the TLS handshake.
    ``tls``: how the latter is done.
    """

    def __init__(
        self,
        reactor: Any,
        trust_root: str | None = None,
        bind_address: str | None = None,
        connect_timeout: float = 10.0,
    ) -> None:
        self._reactor = reactor
        self.tls = ClientTLS(trust_root, connect_timeout)
        self._bind_address = None if bind_address is None else (bind_address, 0)
        self._connect_timeout = connect_timeout

    def endpoint(
        self, host: str, port: int, tls: bool, server_name: str | None = None
    ) -> IStreamClientEndpoint:
        """See IOutbound. Raises ValueError where ``tls`` is asked for and the name is none."""
        arguments = self._reactor, host, port, self._connect_timeout, self._bind_address
        endpoint: IStreamClientEndpoint
        # Addresses do not need the resolver's threads.
        if isIPAddress(host):
            endpoint = TCP4ClientEndpoint(*arguments)
        elif isIPv6Address(host):
            endpoint = TCP6ClientEndpoint(*arguments)
        else:
            endpoint = HostnameEndpoint(*arguments)
        endpoint = KeepAliveEndpoint(endpoint)
        return self.tls.wrap(endpoint, server_name or host, port, self._reactor) if tls else endpoint


@implementer(IOutbound)
class ProxyOutbound:
    """Through the proxy that ``config`` describes, which resolves the names of destinations.

    ``way``: how the proxy itself is reached; its name is resolved there. ``tls``: for the destinations, inside the
    tunnel. ``handshake_timeout``: seconds that the proxy has to connect to a destination.
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
        """See IOutbound; connecting fails with ProxyError for what happens before the tunnel stands.

        Raises ValueError where ``host`` is no name.
        """
        self._handshake(host, port)  # raises
        tunnel = TunnelEndpoint(
            self._proxy, lambda: self._handshake(host, port), self._clock, self._handshake_timeout
        )
        return self._tls.wrap(tunnel, server_name or host, port, self._clock) if tls else tunnel

    def _handshake(self, host: str, port: int) -> Handshake:
        return self._kind(host, port, self._login)


def make_outbound(
    config: OutboundConfig | None, reactor: Any, trust_root: str | None = None, connect_timeout: float = 10.0
) -> IOutbound:
    """The way out that ``config`` describes; None means straight, from whatever address the system chooses.

    ``trust_root`` and ``connect_timeout`` as for DirectOutbound, also for a proxy. Raises OSError or ssl.SSLError where
    the former cannot be read.
    """
    if isinstance(config, ProxyOutboundConfig):
        direct = DirectOutbound(reactor, trust_root, connect_timeout=connect_timeout)
        return ProxyOutbound(config, direct, direct.tls, reactor, connect_timeout)
    bind_address = None if config is None else config.bind_address
    return DirectOutbound(reactor, trust_root, bind_address, connect_timeout)


@implementer(IStreamClientEndpoint)
class KeepAliveEndpoint:
    """Connects through another endpoint of TCP, and sets TCP_NODELAY and keep-alive on the connection."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect a protocol of ``protocol_factory``; fails as the other endpoint does."""
        return self._endpoint.connect(protocol_factory).addCallback(_set_options)


def _set_options(protocol: IProtocol) -> IProtocol:
    set_socket_options(getattr(protocol, "transport", None))
    return protocol


@implementer(IAgentEndpointFactory)
class OutboundEndpoints:
    """The endpoints of an outbound, for an Agent."""

    def __init__(self, outbound: IOutbound) -> None:
        self._outbound = outbound

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See IAgentEndpointFactory."""
        return self._outbound.endpoint(uri.host.decode("ascii"), uri.port, uri.scheme == b"https")


def agent(outbound: IOutbound, reactor: Any, pool: HTTPConnectionPool | None = None) -> Agent:
    """An Agent of which every connection goes through ``outbound`` (F30). Without ``pool``, none is kept."""
    made: Agent = Agent.usingEndpointFactory(reactor, OutboundEndpoints(outbound), pool)
    return made
