"""Reading the heads of a response, strictly: what the upstream says, or why that is not HTTP/1. Sans I/O."""

from __future__ import annotations

import re
from typing import Final

from ccmproxy.http.failures import UpstreamProtocolError
from ccmproxy.http.framing import FramingError, body_length, split_head
from ccmproxy.http.message import Headers, ResponseHead, list_items

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: (.*))?")
_VERSION: Final = b"HTTP/1."
#: Most interim responses (1xx) to one request, unless the reader is told otherwise.
MOST_INTERIM_RESPONSES: Final = 100
#: Stands for "nothing buffered"; never written to.
_EMPTY: Final = bytearray()


class IncomingResponse:
    """One head of a response as received, and what follows from it.

    ``body_length``: of the body in bytes, -1 for the chunked coding, None until the end of the connection; not looked
    at in an interim response (1xx). ``is_persistent``: the connection may be used again, as far as the head tells.
    ``rest``: the bytes that came behind the head.
    """

    __slots__ = ("body_length", "head", "is_persistent", "rest")

    def __init__(self, head: ResponseHead, body_length: int | None, is_persistent: bool, rest: bytes) -> None:
        self.head = head
        self.body_length = body_length
        self.is_persistent = is_persistent
        self.rest = rest


class ResponseHeadReader:
    """Puts the heads of one response together, from pieces of any size.

    ``limit``: bytes of all heads of the response, the interim ones included. ``interim_limit``: number of interim
    responses (F64).
    """

    __slots__ = ("_buffer", "_interim_left", "_limit", "_size")

    def __init__(self, limit: int, interim_limit: int = MOST_INTERIM_RESPONSES) -> None:
        self._limit = limit
        self._interim_left = interim_limit
        self._buffer = _EMPTY
        self._size = 0

    def feed(self, data: bytes) -> IncomingResponse | None:
        """Take the next bytes; the head that they complete, None if it goes on.

        Raises UpstreamProtocolError, as early as it shows, for what is no head of HTTP/1, is malformed (RFC 9112), is
        too large or has too many fields, and for one interim response too many.
        """
        joined: bytes | bytearray = data
        seen = len(self._buffer)
        after_cr = seen and self._buffer[-1] == 13
        if seen:
            joined = self._buffer
            joined += data
        end = joined.find(b"\r\n\r\n", max(0, seen - 3))
        if end < 0:
            if not seen:
                self._buffer = bytearray(data)
            if not _VERSION.startswith(joined[:7]):
                raise UpstreamProtocolError("what the upstream sent is not an HTTP/1 response")
            if self._size + len(joined) > self._limit:
                raise UpstreamProtocolError("the head of the upstream's response is too large")
            if data.count(b"\n") - data.count(b"\r\n") != (after_cr and data[0] == 10):
                # No empty line would ever end it.
                raise UpstreamProtocolError("bare LF in the head of the upstream's response")
            return None
        self._buffer = _EMPTY
        self._size += end + 4
        if self._size > self._limit:
            raise UpstreamProtocolError("the head of the upstream's response is too large")
        raw = bytes(joined[: end + 4])
        try:
            found = _parse(raw, bytes(joined[end + 4 :]))
        except FramingError as error:
            raise UpstreamProtocolError(f"malformed response from the upstream: {error}") from error
        if found.head.status < 200:
            self._interim_left -= 1
            if self._interim_left < 0:
                raise UpstreamProtocolError("too many interim responses from the upstream")
        return found


def _parse(raw: bytes, rest: bytes) -> IncomingResponse:
    """Read a complete head. Raises FramingError."""
    start_line, headers = split_head(raw)
    match = _STATUS_LINE.fullmatch(start_line)
    if match is None:
        raise FramingError("invalid status line")
    status = int(match[2])
    head = ResponseHead(status, match[3] or b"", headers)
    if status < 200:
        return IncomingResponse(head, None, True, rest)
    length = body_length(headers)
    if length == -1 and match[1] == b"0":
        raise FramingError("Transfer-Encoding in an HTTP/1.0 response")
    return IncomingResponse(head, length, is_persistent(match[1], headers), rest)


def is_persistent(minor: bytes, headers: Headers) -> bool:
    """Whether the connection may be used again (RFC 9112 section 9.3). ``minor``: version of HTTP/1, as a digit."""
    options = {option.lower() for option in list_items(headers, b"connection")}
    if b"close" in options:
        return False
    return minor == b"1" or b"keep-alive" in options
