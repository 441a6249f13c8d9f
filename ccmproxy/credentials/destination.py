"""The destination of a credential's requests: the parsed base URL of an upstream, and the connections to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from ccmproxy.dialects.oauth import UpstreamURLs
from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.interfaces.network import IOutbound

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Upstream(NamedTuple):
    """The destination of requests. ``host``: the value of the Host header field; ``base_path``: without a trailing
    slash; ``connections``: the pool of connections to that host."""

    host: bytes
    base_path: bytes
    connections: ConnectionPool


def upstream_of(api_url: str, connections: ConnectionPool) -> Upstream:
    """Return the Upstream for the base URL ``api_url``, reached through ``connections``."""
    return Upstream(host_field(api_url), urlsplit(api_url).path.rstrip("/").encode("ascii"), connections)


@dataclass(frozen=True, slots=True)
class UpstreamAccess:
    """The addresses of an account's upstream, and the connections to it.

    ``outbound``: makes the connections for refreshes and polls (F30). ``connections``: the pool of connections to the
    API in ``urls``, through the same outbound. ``key_connections``: the pool of connections to the API for keys, if
    ``urls`` has a separate one.
    """

    urls: UpstreamURLs
    outbound: IOutbound
    connections: ConnectionPool
    key_connections: ConnectionPool | None = None

    def for_logins(self) -> Upstream:
        """Return the upstream for requests that are sent with a login."""
        return upstream_of(self.urls.api_url, self.connections)

    def for_keys(self) -> Upstream:
        """Return the upstream for requests that are sent with a key."""
        if self.urls.key_api_url and self.key_connections is not None:
            return upstream_of(self.urls.key_api_url, self.key_connections)
        return self.for_logins()


def host_field(url: str) -> bytes:
    """Return the Host header field for ``url`` (RFC 9110 section 7.2), without a default port."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    if parts.port is not None and parts.port != _DEFAULT_PORTS.get(parts.scheme):
        host = f"{host}:{parts.port}"
    return host.encode("ascii")


def origin(url: str) -> tuple[str, int, bool]:
    """Return (host, port, whether to use TLS) of an http or https URL (RFC 9110 section 4.3.1).

    The URL must have passed the checks of the configuration.
    """
    parts = urlsplit(url)
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 80)
    return parts.hostname or "", port, parts.scheme == "https"
