"""Ways out to the network, and what tells of its changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import Interface

if TYPE_CHECKING:
    from twisted.internet.interfaces import IStreamClientEndpoint


class IOutbound(Interface):
    """A way out: directly, or through a proxy. Every connection of a credential goes through its outbound."""

    def endpoint(host: str, port: int, tls: bool, server_name: str | None = None) -> IStreamClientEndpoint:
        """An endpoint that connects to ``host``:``port``, with TLS (SNI, verified) if ``tls``.

        ``server_name``: the name that TLS asks for and verifies, where that is not ``host``.

        Connecting fails with Twisted's connect errors, or with an SSL error where verification fails. Each
        ``connect`` makes a connection of its own.
        """


class INetworkMonitor(Interface):
    """Tells when the machine's network changes: an address or a link comes or goes, or a default route (spec 7.4)."""

    def start() -> None:
        """Begin to watch. Raises OSError where the system has not got what this one rests on."""

    def stop() -> None:
        """End; nothing is told any more, and nothing stays open. Harmless where it does not watch."""
