"""Strict parsing of the head of an HTTP/1.1 request."""

from __future__ import annotations

import re
from typing import Final

from ccmproxy.http.framing import FramingError, is_token, parse_content_length, split_head
from ccmproxy.http.message import RequestHead, lower_names

#: The ``body_length`` of a body in the chunked coding.
CHUNKED: Final = -1

_VERSION: Final = re.compile(rb"HTTP/([0-9])\.([0-9])")
#: Visible ASCII without ``#``, as a fragment is never sent (RFC 9112 section 3.2).
_TARGET: Final = re.compile(rb"[!\x22\x24-\x7e]+")
_ABSOLUTE_FORM: Final = re.compile(rb"https?://[^/?]+(.*)", re.IGNORECASE)
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
#: Matches what makes an incomplete head invalid already: a control character, a bare CR or LF.
_BROKEN: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r[^\n]|[^\r]\n|\A\n")

_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)*")

#: The fields that determine the framing of the message and the persistence of the connection.
_DECIDING: Final = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"),
)


class IncomingHead:
    """A request head as received, and what follows from it for the connection.

    ``is_http11``: false for HTTP/1.0. ``body_length``: in bytes, or CHUNKED. ``keep_alive``: the client is willing to
    reuse the connection, and does not ask for another protocol than HTTP on it. ``expects_continue``: the client waits
    for "100 Continue" before it sends the body.
    """

    __slots__ = ("body_length", "expects_continue", "head", "is_http11", "keep_alive")

    def __init__(
        self, head: RequestHead, is_http11: bool, body_length: int, keep_alive: bool, expects_continue: bool
    ) -> None:
        self.head = head
        self.is_http11 = is_http11
        self.body_length = body_length
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue


def check_partial(data: bytes, start: int) -> None:
    """Check the bytes from ``start`` on of an incomplete head. Raises FramingError when they cannot be part of one.

    This saves waiting for an end that never comes, for example after a TLS handshake.
    """
    if _BROKEN.search(data, max(0, start - 1)):
        raise FramingError("not an HTTP request")


def find_head_end(data: bytes, start: int, size_limit: int) -> int:
    """Return the length in bytes of the head with which ``data`` begins, or 0 while it is incomplete.

    ``start``: number of bytes that were searched before. Raises FramingError when the bytes cannot become a head, and
    with status 431 when the head is longer than ``size_limit`` bytes.
    """
    end = data.find(b"\r\n\r\n", max(0, start - 3), size_limit) + 4
    if end >= 4:
        return end
    if len(data) >= size_limit:
        raise FramingError("request head too large", 431)
    if data != b"\r":
        check_partial(data, start)
    return 0


def take_head(data: bytes, searched: int, size_limit: int) -> tuple[IncomingHead | None, bytes]:
    """Return the request head with which ``data`` begins, None while it is incomplete, and the bytes that follow it.

    Empty lines before a head are dropped (RFC 9112 section 2.2). ``searched``: number of bytes of ``data`` that were
    searched for the end of the head before. Raises FramingError as :func:`find_head_end` and
    :func:`parse_request_head` do.
    """
    if data[:2] == b"\r\n":
        # All of them at once: one by one, the rest would be copied for every two bytes (F63).
        found = _EMPTY_LINES.match(data)
        data = data[found.end() if found is not None else 0 :]
        searched = 0
    if not data:
        return None, data
    end = find_head_end(data, searched, size_limit)
    return (parse_request_head(data[:end]), data[end:]) if end else (None, data)


# All fields that determine the framing are read in one pass; separate functions would each walk over the fields.
def parse_request_head(raw: bytes) -> IncomingHead:
    """Parse a complete head, including the empty line that ends it.

    Header fields stay as received, in names, values, order and number. A target in absolute form is replaced by its
    path and query (RFC 9112 section 3.2.2). Raises FramingError with the status to answer with: 501 for CONNECT and for
    transfer codings other than chunked, 505 for other HTTP versions, 417 for unknown expectations, else 400.
    """
    line, headers = split_head(raw)
    method, target, is_http11 = _parse_request_line(line)
    host: bytes | None = None
    length: int | None = None
    coding: bytes | None = None
    keep_alive = is_http11
    expects_continue = leaves_http = False
    for (_, value), key in zip(headers, lower_names(headers), strict=True):
        if key not in _DECIDING:
            continue
        if key == b"host":
            if host is not None:
                raise FramingError("more than one Host")
            host = value
        elif key == b"content-length":
            if length is not None:
                raise FramingError("more than one Content-Length")
            length = parse_content_length(value)
        elif key == b"transfer-encoding":
            if coding is not None:
                raise FramingError("more than one Transfer-Encoding")
            coding = value.lower()
        elif key == b"connection":
            for option in value.lower().split(b","):
                option = option.strip(b" \t")
                if option == b"close":
                    keep_alive = False
                elif option == b"keep-alive" and not is_http11:
                    keep_alive = True
        elif key == b"upgrade":
            # Handshakes are made with GET. Clients that offer another version of HTTP go on in HTTP/1.1 as well.
            leaves_http = leaves_http or (
                method == b"GET" and value != b"" and not value.lower().startswith(b"h2")
            )
        elif value.lower() != b"100-continue":
            raise FramingError("unknown expectation", 417)
        else:
            expects_continue = is_http11

    if host is None:
        if is_http11:
            raise FramingError("missing Host")
    elif not _HOST.fullmatch(host):
        raise FramingError("invalid Host")
    if coding is not None:
        if length is not None:
            raise FramingError("both Content-Length and Transfer-Encoding")
        if not is_http11:
            raise FramingError("Transfer-Encoding in HTTP/1.0")  # RFC 9112 section 6.1
        if coding != b"chunked":
            raise FramingError("unsupported Transfer-Encoding", 501)
        length = CHUNKED
    # A client that asked for a WebSocket may read the refusal until the connection ends (spec 10).
    keep_alive = keep_alive and not leaves_http
    return IncomingHead(
        RequestHead(method, target, headers), is_http11, length or 0, keep_alive, expects_continue
    )


def _parse_request_line(line: bytes) -> tuple[bytes, bytes, bool]:
    """Return the method, the target in origin form, and whether the version is 1.1 and not 1.0 (RFC 9112 section 3).

    Raises FramingError when it is no request line of these versions.
    """
    parts = line.split(b" ")
    if len(parts) != 3:
        raise FramingError("invalid request line")
    method, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        if _VERSION.fullmatch(version):
            raise FramingError("this server speaks HTTP/1.1", 505)
        raise FramingError("invalid protocol version")
    if not is_token(method):
        raise FramingError("invalid method")
    return method, _check_target(method, target), version == b"HTTP/1.1"


def _check_target(method: bytes, target: bytes) -> bytes:
    """Return the target in origin form, or ``*``. Raises FramingError when the target is invalid."""
    if method == b"CONNECT":
        raise FramingError("CONNECT is not supported", 501)
    if not _TARGET.fullmatch(target):
        raise FramingError("invalid request target")
    if target[0] == 0x2F:
        return target
    if target == b"*" and method == b"OPTIONS":
        return target
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    if absolute is None:
        raise FramingError("invalid request target")
    path = absolute[1]
    return path if path.startswith(b"/") else b"/" + path
