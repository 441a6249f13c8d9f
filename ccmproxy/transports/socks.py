"""SOCKS version 5 (RFC 1928) with user name and password (RFC 1929): the client's side of CONNECT, without sockets."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from ccmproxy.transports.proxy_dialogue import Login, ProxyError

_VERSION: Final = 5
_CONNECT: Final = 1
_NO_LOGIN: Final = 0
_PASSWORD: Final = 2
_NONE_ACCEPTABLE: Final = 0xFF
_IPV4: Final = 1
_NAME: Final = 3
_IPV6: Final = 4
#: Version of the user name/password subnegotiation, which differs from that of SOCKS (RFC 1929 section 2).
_LOGIN_VERSION: Final = 1
#: Maximum length in bytes of a host name, a user name or a password: the length field has one byte.
LONGEST: Final = 255

#: RFC 1928 section 6.
_REPLIES: Final = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}


class SocksHandshake:
    """Asks a SOCKS5 proxy for a connection to ``host``:``port``; see :mod:`ccmproxy.transports.proxy_dialogue`.

    The proxy resolves host names; an IP address is sent as an address. Without ``login`` only "no authentication" is
    offered; with ``login`` user name and password are offered too, and the proxy chooses. Raises ValueError when
    ``host``, or the user name or the password in UTF-8, is longer than 255 bytes.
    """

    def __init__(self, host: str, port: int, login: Login | None = None) -> None:
        self._request = bytes([_VERSION, _CONNECT, 0]) + _address(host) + port.to_bytes(2, "big")
        self._login = None if login is None else _login(login)
        self._received = bytearray()
        self._step: Callable[[], bytes | None] = self._take_method
        self.rest: bytes | None = None

    def start(self) -> bytes:
        """Return the greeting, with the authentication methods that we offer."""
        methods = bytes([_NO_LOGIN]) if self._login is None else bytes([_NO_LOGIN, _PASSWORD])
        return bytes([_VERSION, len(methods)]) + methods

    def receive(self, data: bytes) -> bytes:
        """See Handshake. Raises ProxyError when the proxy refuses the connection or its answer is not valid SOCKS5."""
        self._received += data
        answers = bytearray()
        while self.rest is None and (answer := self._step()) is not None:
            answers += answer
        return bytes(answers)

    # Each step consumes one message of the proxy and returns our answer, or None while the message is incomplete.

    def _take_method(self) -> bytes | None:
        if self._received and self._received[0] != _VERSION:
            raise ProxyError("what answers is not a SOCKS5 proxy")
        if len(self._received) < 2:
            return None
        method = self._received[1]
        del self._received[:2]
        if method == _NO_LOGIN:
            self._step = self._take_reply
            return self._request
        if method == _PASSWORD and self._login is not None:
            self._step = self._take_login
            return self._login
        if method != _NONE_ACCEPTABLE:
            raise ProxyError(f"the proxy chose a way to log in that was not offered ({method})")
        if self._login is None:
            raise ProxyError("the proxy wants a user name and password")
        raise ProxyError("the proxy accepts no user name and password")

    def _take_login(self) -> bytes | None:
        if len(self._received) < 2:
            return None
        # Some proxies send the version of SOCKS here, not that of the subnegotiation; so only the status is checked.
        status = self._received[1]
        del self._received[:2]
        if status != 0:
            raise ProxyError("the proxy does not accept the user name and password")
        self._step = self._take_reply
        return self._request

    def _take_reply(self) -> bytes | None:
        received = self._received
        if received and received[0] != _VERSION:
            raise ProxyError("the proxy's reply is not SOCKS5")
        if len(received) < 2:
            return None
        code = received[1]
        if code != 0:  # the rest of the reply is not needed
            raise ProxyError(f"the proxy cannot connect: {_REPLIES.get(code, f'reply code {code}')}")
        # The address that the proxy connects from is not used, but has to be skipped.
        if len(received) < 5:
            return None
        kind = received[3]
        if kind == _NAME:
            size = 1 + received[4]
        elif kind in (_IPV4, _IPV6):
            size = 4 if kind == _IPV4 else 16
        else:
            raise ProxyError(f"the proxy's reply has an address of an unknown type ({kind})")
        end = 4 + size + 2
        if len(received) < end:
            return None
        self.rest = bytes(received[end:])
        received.clear()
        return b""


def _address(host: str) -> bytes:
    """Encode a host as address type and address (RFC 1928 section 5). Raises ValueError when it is too long."""
    try:
        address = ip_address(host)
    except ValueError:
        return bytes([_NAME]) + _counted(host.encode("ascii" if host.isascii() else "idna"), "host name")
    return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed


def _login(login: Login) -> bytes:
    """Encode the request with user name and password (RFC 1929 section 2). Raises ValueError when one is too long."""
    username = _counted(login.username.encode(), "user name")
    return bytes([_LOGIN_VERSION]) + username + _counted(login.password.encode(), "password")


def _counted(value: bytes, what: str) -> bytes:
    if len(value) > LONGEST:
        raise ValueError(f"the {what} is longer than {LONGEST} bytes")
    return bytes([len(value)]) + value
