"""Listening addresses and URLs in a configuration: whether the syntax is right, and who can reach them.

Nothing is resolved or opened here, and only the syntax of endpoint descriptions is checked: which kinds of endpoint
exist depends on Twisted and its plugins, and is found out when the service starts.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

#: Endpoints that wrap another one: the wrapped endpoint determines the address.
_WRAPPERS = frozenset({"haproxy"})
#: Endpoints that listen on a TCP port and take ``interface=``.
_TCP = frozenset({"tcp", "tcp6", "ssl"})

_ENDPOINT_KIND = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where a service listens.

    ``host``: an IP address in its shortest form; the path of a socket; empty where it is unknown. ``port``: None for an
    address without a port. ``is_local``: only this machine can reach it. ``text``: for people.
    """

    host: str
    port: int | None
    is_local: bool
    text: str

    def overlaps(self, other: ListenAddress) -> bool:
        """Whether both cannot be bound, or not be told apart. Wildcards cover the addresses of their family."""
        if self.port != other.port:
            return False
        if not self.host or not other.host:
            return self.text == other.text
        if self.host == other.host:
            return True
        if not self.port:
            return False
        mine, others = ipaddress.ip_address(self.host), ipaddress.ip_address(other.host)
        return mine.version == others.version and (mine.is_unspecified or others.is_unspecified)


def parse_listen(listen: str) -> str:
    """The IP address of ``listen`` in its shortest form. Raises ValueError, with a sentence, where it is invalid."""
    if listen == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(listen))
    except ValueError:
        if listen.startswith("[") and listen.endswith("]"):
            raise ValueError('must be an IP address without brackets, for example "::1"') from None
        raise ValueError('must be an IP address, for example "127.0.0.1", "0.0.0.0" or "::"') from None


def tcp_address(listen: str, port: int) -> ListenAddress:
    """The address of a service with the valid options ``listen`` and ``listen_port``."""
    host = parse_listen(listen)
    text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return ListenAddress(host, port, is_loopback(host), text)


def tcp_endpoint(listen: str, port: int) -> str:
    """The Twisted server endpoint description for the valid options ``listen`` and ``listen_port``."""
    host = parse_listen(listen).replace(":", r"\:")
    return f"tcp:{port}:interface={host}"


def parse_endpoint(description: str) -> ListenAddress:
    """The address in a Twisted server endpoint description. Raises ValueError, with a sentence, if malformed."""
    if any(not character.isprintable() for character in description):
        raise ValueError("must not contain control characters")
    positional, named = _endpoint_arguments(description)
    kind = positional[0].lower()
    if not _ENDPOINT_KIND.fullmatch(kind) or (len(positional) < 2 and not named):
        raise ValueError('must be a Twisted server endpoint, for example "tcp:8080:interface=127.0.0.1"')
    if kind in _WRAPPERS:
        return parse_endpoint(description.partition(":")[2])
    if kind in _TCP:
        return _tcp_endpoint_address(positional, named, description, "::" if kind == "tcp6" else "0.0.0.0")
    if kind == "unix":
        path = named.get("address") or (positional[1] if len(positional) > 1 else "")
        if not path:
            raise ValueError('needs the path of the socket, for example "unix:/run/ccmproxy.sock:mode=660"')
        return ListenAddress(path, None, True, description)
    is_local = kind == "systemd" and named.get("domain", "").upper() == "UNIX"
    return ListenAddress("", None, is_local, description)


def _tcp_endpoint_address(
    positional: list[str], named: Mapping[str, str], description: str, everywhere: str
) -> ListenAddress:
    port = named.get("port") or (positional[1] if len(positional) > 1 else "")
    if not (port.isascii() and port.isdigit() and int(port[:6]) <= 65535):
        raise ValueError("needs a port from 0 to 65535 after its first colon")
    interface = named.get("interface", everywhere)
    try:
        host = parse_listen(interface)
    except ValueError:
        raise ValueError(
            "has an interface that is not an IP address (a colon within is written \\:)"
        ) from None
    return ListenAddress(host, int(port), is_loopback(host), description)


def _endpoint_arguments(description: str) -> tuple[list[str], dict[str, str]]:
    """Split a description at its unescaped colons (``twisted.internet.endpoints.serverFromString``).

    Raises ValueError for a description that ends in the middle of an escape.
    """
    parts: list[str] = []
    names: list[str | None] = []
    current, name = "", None
    characters = iter(description)
    for character in characters:
        if character == "\\":
            escaped = next(characters, None)
            if escaped is None:
                raise ValueError("ends in the middle of an escape")
            current += escaped
        elif character == ":":
            parts.append(current)
            names.append(name)
            current, name = "", None
        elif character == "=" and name is None:
            current, name = "", current
        else:
            current += character
    parts.append(current)
    names.append(name)
    positional = [part for part, key in zip(parts, names, strict=True) if key is None]
    return positional or [""], {key: part for part, key in zip(parts, names, strict=True) if key is not None}


def is_loopback(host: str) -> bool:
    """Whether ``host`` is an address that only this machine can reach. The only such name is ``localhost``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def parse_url(url: str) -> SplitResult:
    """Parse a base URL. Raises ValueError, with a sentence that does not repeat the URL: it may hold a password."""
    if any(not "!" <= character <= "~" for character in url):
        raise ValueError("is malformed: a URL has only printable ASCII characters, and no spaces")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is malformed: its host or port is not valid") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with https:// (or http://)")
    # No zone of an IPv6 address: it says nothing to others.
    if not host or port == 0 or "%" in host or not is_host(host):
        raise ValueError("is malformed: it needs a host, for example https://ccm.example.org")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user name or password")
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise ValueError("must not have a query or a fragment")
    return parts


def is_host(host: str) -> bool:
    """Whether ``host`` has the form of an IP address or a host name (RFC 1123 section 2.1).

    The bounds on its length are those of RFC 1035 section 2.3.4.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        labels = host.removesuffix(".").split(".")
        return (
            bool(_HOST.fullmatch(host))
            and all(1 <= len(label) <= 63 for label in labels)
            and len(".".join(labels)) <= 253
            and not all(label.isdigit() for label in labels)
        )
    return True
