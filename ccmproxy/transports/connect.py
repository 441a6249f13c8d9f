"""The CONNECT method of HTTP/1.1 (RFC 9110 section 9.3.6): the client's side, without sockets."""

from __future__ import annotations

import re
from base64 import b64encode
from http import HTTPStatus
from typing import Final

from ccmproxy.transports.proxy_dialogue import Login, ProxyError

#: Maximum size in bytes of all response heads of a proxy together, so that an endless head cannot exhaust the memory.
LONGEST_HEAD: Final = 16 * 1024

_START: Final = b"HTTP/1."
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?:[ \t][^\r\n]*)?\r?\n")
#: A lone LF may end a line (RFC 9112 section 2.2).
_END: Final = re.compile(rb"\n\r?\n")


class ConnectHandshake:
    """Asks an HTTP proxy for a tunnel to ``host``:``port``; see :class:`~ccmproxy.transports.proxy_dialogue.Handshake`.

    The proxy resolves host names. ``login`` is sent as Basic authentication (RFC 7617). Raises ValueError when ``host``
    is not a valid host name.
    """

    def __init__(self, host: str, port: int, login: Login | None = None) -> None:
        name = host.encode("ascii" if host.isascii() else "idna")
        authority = b"%b:%d" % (b"[%b]" % name if b":" in name else name, port)
        lines = [b"CONNECT %b HTTP/1.1" % authority, b"Host: " + authority]
        if login is not None:
            encoded = b64encode(f"{login.username}:{login.password}".encode())
            lines.append(b"Proxy-Authorization: Basic " + encoded)
        self._request = b"\r\n".join([*lines, b"", b""])
        self._received = bytearray()
        self._searched = 0
        self._allowed = LONGEST_HEAD
        self.rest: bytes | None = None

    def start(self) -> bytes:
        """Return the CONNECT request."""
        return self._request

    def receive(self, data: bytes) -> bytes:
        """See Handshake. Raises ProxyError when the proxy refuses the tunnel or its answer is not valid HTTP."""
        self._received += data
        while self.rest is None and (head := self._take_head()) is not None:
            found = _STATUS_LINE.match(head)
            if found is None:
                raise ProxyError("the proxy's answer is not HTTP")
            status = int(found[1])
            if 200 <= status < 300:
                # Content-Length and Transfer-Encoding are ignored (RFC 9110 section 9.3.6): the tunnel begins here.
                self.rest = bytes(self._received)
                self._received.clear()
            elif status >= 200 or status == HTTPStatus.SWITCHING_PROTOCOLS:
                raise ProxyError(f"the proxy refuses the tunnel: {status} {_phrase(status)}".rstrip())
            # Any other 1xx response is interim; the final response follows it (RFC 9110 section 15.2).
        return b""

    def _take_head(self) -> bytes | None:
        """Remove and return the next complete head; None while it is incomplete. Raises ProxyError."""
        received = self._received
        if received[: len(_START)] != _START[: len(received)]:
            raise ProxyError("what answers is not an HTTP proxy")
        found = _END.search(received, max(0, self._searched - 2))
        self._searched = len(received)
        size = len(received) if found is None else found.end()
        if size > self._allowed:
            raise ProxyError(f"the proxy's answer has a head of more than {LONGEST_HEAD} bytes")
        if found is None:
            return None
        head = bytes(received[:size])
        del received[:size]
        self._searched = 0
        self._allowed -= size
        return head


def _phrase(status: int) -> str:
    """Return the standard phrase of a status. The proxy's own phrase is not used: it might quote what we sent."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
