"""Outbounds, which connect to the network, and monitors of the machine's network."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from zope.interface import Interface

if TYPE_CHECKING:
    from twisted.internet.interfaces import IStreamClientEndpoint


class NetworkChange(IntEnum):
    """What has changed in the machine's network (spec 14). A larger value stands for the smaller ones as well."""

    NONE = 0
    #: A link or an address. It concerns only connections from an address that is gone.
    OTHER = 1
    #: The default route. It concerns every connection that leaves the machine.
    DEFAULT_ROUTE = 2


class IOutbound(Interface):
    """Makes outgoing connections, directly or through a proxy. All connections of a credential use its outbound."""

    def endpoint(host: str, port: int, tls: bool, server_name: str | None = None) -> IStreamClientEndpoint:
        """Return an endpoint that connects to ``host``:``port``, with TLS (SNI, verified) if ``tls``.

        ``server_name``: the name for SNI and verification if it is not ``host``.

        Connecting fails with Twisted's connect errors, or with an SSL error when verification fails. Each ``connect``
        makes a new connection.
        """


class INetworkMonitor(Interface):
    """Reports changes of the machine's network: addresses, links or default routes added or removed (spec 7.4)."""

    def start() -> None:
        """Start watching. Raises OSError when the system does not support this kind of monitor."""

    def stop() -> None:
        """Stop watching and release all resources. Idempotent."""
