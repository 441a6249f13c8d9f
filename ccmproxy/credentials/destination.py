"""Where a credential's requests go: the base URL of an upstream taken apart, and the connections that lead there."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from ccmproxy.http.client.connection_pool import ConnectionPool

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Upstream(NamedTuple):
    """Where requests go. ``host``: for the Host header field; ``base_path``: without a slash at its end."""

    host: bytes
    base_path: bytes
    connections: ConnectionPool


def upstream_of(api_url: str, connections: ConnectionPool) -> Upstream:
    """Where requests for a base URL go, through ``connections``."""
    return Upstream(host_field(api_url), urlsplit(api_url).path.rstrip("/").encode("ascii"), connections)


def host_field(url: str) -> bytes:
    """The Host header field for a URL (RFC 9110 section 7.2): no default port."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    if parts.port is not None and parts.port != _DEFAULT_PORTS.get(parts.scheme):
        host = f"{host}:{parts.port}"
    return host.encode("ascii")


def origin(url: str) -> tuple[str, int, bool]:
    """Host, port and whether TLS is spoken, of an http or https URL that the configuration has checked (RFC 9110
    section 4.3.1)."""
    parts = urlsplit(url)
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 80)
    return parts.hostname or "", port, parts.scheme == "https"
