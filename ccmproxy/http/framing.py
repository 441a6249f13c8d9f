"""The rules of HTTP/1.1 message framing (RFC 9112), applied strictly by both the server and the client.

Sans I/O: functions take bytes and return values, and raise :class:`FramingError` for a message that is broken or
ambiguous. A lenient proxy can be made to disagree with its neighbour about where a message ends (request smuggling), so
nothing is repaired: a bare LF, a folded field, a space before the colon, a second Content-Length and any transfer
coding other than ``chunked`` are errors.
"""

from __future__ import annotations

import re
from operator import itemgetter
from typing import Final

from ccmproxy.http.message import Headers, ParsedHeaders, lower_names

_TOKEN_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#: Bytes that are allowed in a head (RFC 9110 section 5.5); deleting them leaves the forbidden ones: DEL and the control
#: characters other than tab. CR and LF are checked separately, by counting them.
_HEAD_BYTES: Final = bytes(b for b in range(256) if (b >= 0x20 and b != 0x7F) or b in b"\t\r\n")
#: A field as a line, and its name: without a step of the interpreter for each field.
_FIELD: Final = b"%b: %b".__mod__
_NAME: Final = itemgetter(0)
_DIGITS: Final = re.compile(rb"[0-9]{1,18}")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")
#: A whole size line without extensions, as nearly all are.
_PLAIN_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")

#: Most fields of a head. Programs send 10 to 40; each costs some microseconds, and may take as few as 4 bytes.
MOST_FIELDS: Final = 500
#: Longest size line of a chunk, its extensions included (bytes). Extensions are not used in practice, so a longer line
#: is taken for an attack.
_CHUNK_LINE_LIMIT: Final = 1024
#: Largest trailer section (bytes). It is checked and dropped (spec 4.5).
_TRAILER_LIMIT: Final = 16 * 1024

#: The last chunk and an empty trailer section.
LAST_CHUNK: Final = b"0\r\n\r\n"


class FramingError(Exception):
    """The received bytes are not HTTP/1.1, or are ambiguous.

    ``status`` is the status with which a server answers. ``str()`` says what is wrong without repeating any received
    bytes.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def is_token(name: bytes) -> bool:
    """Return whether ``name`` is a token (RFC 9110 section 5.6.2), which methods and field names must be."""
    return bool(name) and not name.translate(None, _TOKEN_BYTES)


def split_head(raw: bytes) -> tuple[bytes, Headers]:
    """Split a complete head, including the empty line that ends it, into its start line and its fields.

    Names and values are as received, except that the white space around values is removed. Bytes from 0x80 on are
    allowed in values (obs-text). Raises FramingError when the head is malformed, and with status 431 when it has more
    than ``MOST_FIELDS`` fields (RFC 6585 section 5).
    """
    lines = raw.split(b"\r\n")
    breaks = len(lines) - 1
    if raw.count(b"\n") != breaks or raw.count(b"\r") != breaks:
        raise FramingError("bare CR or LF in the head")
    if raw.translate(None, _HEAD_BYTES):
        raise FramingError("control character in the head")
    if breaks < 2 or lines[-1] or lines[-2]:
        raise FramingError("incomplete head")
    if breaks > MOST_FIELDS + 2:
        raise FramingError("too many header fields", 431)
    headers = ParsedHeaders()
    names = bytearray()
    for line in lines[1:-2]:
        name, colon, value = line.partition(b":")
        if not colon or not name:
            raise FramingError("header line without a name")
        names += name
        headers.append((name, value.strip(b" \t")))
    # Checking all names at once is faster. This also catches folded lines and spaces before the colon.
    if names.translate(None, _TOKEN_BYTES):
        raise FramingError("invalid character in a header name")
    return lines[0], headers


def join_head(start_line: bytes, headers: Headers) -> bytes:
    """Return the bytes of a head, including the empty line that ends it.

    Raises FramingError when a field would be read differently from the wire: when a name is not a token, or when a
    value or the start line contains CR, LF or NUL (response splitting).
    """
    raw = b"\r\n".join([start_line, *map(_FIELD, headers), b"", b""])
    breaks = len(headers) + 2
    if raw.count(b"\n") != breaks or raw.count(b"\r") != breaks or b"\0" in raw:
        raise FramingError("line break or NUL in a header field")
    if b"".join(map(_NAME, headers)).translate(None, _TOKEN_BYTES):
        raise FramingError("invalid character in a header name")
    return raw


def parse_content_length(value: bytes) -> int:
    """Return the value of a Content-Length field. Raises FramingError when it is not 1 to 18 digits."""
    if not _DIGITS.fullmatch(value):
        raise FramingError("invalid Content-Length")
    return int(value)


def body_length(headers: Headers) -> int | None:
    """Return the length of the body according to its header fields: bytes, None if not stated, or -1 if chunked.

    Raises FramingError for more than one Content-Length (even if they agree), for Content-Length together with
    Transfer-Encoding, for a Transfer-Encoding other than exactly ``chunked`` (status 501), and for a repeated
    Transfer-Encoding.
    """
    length: int | None = None
    coding: bytes | None = None
    names = lower_names(headers)
    if b"content-length" in names:
        if names.count(b"content-length") > 1:
            raise FramingError("more than one Content-Length")
        length = parse_content_length(headers[names.index(b"content-length")][1])
    if b"transfer-encoding" in names:
        if names.count(b"transfer-encoding") > 1:
            raise FramingError("more than one Transfer-Encoding")
        coding = headers[names.index(b"transfer-encoding")][1]
    if coding is None:
        return length
    if length is not None:
        raise FramingError("both Content-Length and Transfer-Encoding")
    if coding.lower() != b"chunked":
        raise FramingError("unsupported Transfer-Encoding", 501)
    return -1


def response_has_body(method: bytes, status: int) -> bool:
    """Return whether a response to ``method`` with ``status`` has a body at all (RFC 9112 section 6.3, rule 1)."""
    return method != b"HEAD" and status >= 200 and status != 204 and status != 304


def chunk(data: bytes) -> bytes:
    """Frame ``data``, which must not be empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class ChunkedDecoder:
    """Decodes a body in the chunked coding (RFC 9112 section 7.1). Extensions and trailers are checked and dropped.

    After the end of the body, ``finished`` is true and ``rest`` holds the bytes received after it.
    """

    __slots__ = ("_buffer", "_remaining", "_trailer", "finished", "rest")

    #: Values of ``_remaining`` up to zero, which say what is expected next. A value from 1 on is the number of bytes
    #: missing from the current chunk.
    _SIZE_LINE: Final = 0
    _CHUNK_END: Final = -1
    _TRAILER: Final = -2

    def __init__(self) -> None:
        self._buffer = b""
        self._remaining = self._SIZE_LINE
        self._trailer = 0
        self.finished = False
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the pieces of payload in ``data``.

        Raises FramingError when the coding is broken; the decoder must not be used after that.
        """
        if self.finished:
            self.rest += data
            return []
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        pieces: list[bytes] = []
        position, end = 0, len(data)
        while position < end:
            remaining = self._remaining
            if remaining > 0:
                piece = data[position : position + remaining]
                pieces.append(piece)
                position += len(piece)
                self._remaining = remaining - len(piece) or self._CHUNK_END
            elif remaining == self._CHUNK_END:
                if data[position : position + 2] == b"\r\n":
                    position += 2
                    self._remaining = self._SIZE_LINE
                elif end - position == 1 and data[position] == 0x0D:
                    break
                else:
                    raise FramingError("chunk longer than its size")
            elif remaining == self._SIZE_LINE and (plain := _PLAIN_SIZE_LINE.match(data, position)):
                position = plain.end()
                size = int(plain[1], 16)
                after = position + size
                if size and data[after : after + 2] == b"\r\n":
                    # A whole chunk is taken in one step: a hostile body has one for every six bytes.
                    pieces.append(data[position:after])
                    position = after + 2
                else:
                    self._remaining = size or self._TRAILER
            else:
                stop = data.find(b"\n", position, position + _CHUNK_LINE_LIMIT)
                if stop < 0:
                    if end - position >= _CHUNK_LINE_LIMIT:
                        raise FramingError("line too long in a chunked body")
                    break
                line = data[position : stop + 1]
                position = stop + 1
                if line[-2:] != b"\r\n":
                    raise FramingError("bare LF in a chunked body")
                if remaining == self._SIZE_LINE:
                    self._take_size(line[:-2])
                elif self._take_trailer(line[:-2]):
                    self.finished = True
                    self.rest = data[position:]
                    return pieces
        self._buffer = data[position:]
        return pieces

    def _take_size(self, line: bytes) -> None:
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise FramingError("invalid chunk size")
        self._remaining = int(match[1], 16) or self._TRAILER

    def _take_trailer(self, line: bytes) -> bool:
        """Check one line of the trailer section. Returns True for the empty line that ends it."""
        if not line:
            return True
        self._trailer += len(line)
        if self._trailer > _TRAILER_LIMIT:
            raise FramingError("trailers too long")
        name, colon, value = line.partition(b":")
        if not colon or not is_token(name) or value.translate(None, _HEAD_BYTES) or b"\r" in value:
            raise FramingError("invalid trailer")
        return False
