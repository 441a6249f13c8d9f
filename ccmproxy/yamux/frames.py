"""Wire format of frames: version 0 of hashicorp/yamux's protocol.

A header is 12 bytes, big endian: version (8 bits, 0), type (8), flags (16), stream id (32), length (32). Only DATA has
a payload, of ``length`` bytes; in frames of other types the length field has a meaning of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from ccmproxy.yamux.errors import ProtocolError

# Types.
DATA: Final = 0
WINDOW_UPDATE: Final = 1  # length: additional bytes that the receiver of this frame may send
PING: Final = 2  # length: an opaque number, echoed
GO_AWAY: Final = 3  # length: a code

# Flags. They may be combined; unknown bits are ignored. On a PING, SYN marks a request and ACK an answer.
SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8

HEADER_SIZE: Final = 12
_HEADER: Final = Struct(">BBHII")


class Header(NamedTuple):
    """The header of one frame. ``kind``: the type."""

    kind: int
    flags: int
    stream_id: int
    length: int


def encode(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """Return the bytes of a header. Raises struct.error for a number that does not fit its field."""
    return _HEADER.pack(0, kind, flags, stream_id, length)


def decode(data: bytes, at: int = 0) -> Header:
    """Return the header at offset ``at`` of ``data``, which must have 12 bytes there.

    Raises ProtocolError for an unknown version or type.
    """
    version, kind, flags, stream_id, length = _HEADER.unpack_from(data, at)
    if version != 0:
        raise ProtocolError(f"version {version} of the protocol is not known")
    if kind > GO_AWAY:
        raise ProtocolError(f"frames of type {kind} are not known")
    return Header(kind, flags, stream_id, length)


class FrameReader:
    """Splits received bytes into headers and pieces of payload.

    A payload is returned in the pieces in which it arrives, because the peer may send a whole window in one frame; at
    most part of a header is buffered. ``remaining``: bytes of the current payload that are still to come.
    """

    __slots__ = ("_partial", "remaining")

    def __init__(self) -> None:
        self._partial = b""
        self.remaining = 0

    @property
    def is_between_frames(self) -> bool:
        """Whether the next byte begins a frame."""
        return not self._partial and not self.remaining

    def feed(self, data: bytes) -> Iterator[Header | bytes]:
        """Yield, in order, the headers that ``data`` completes, and each piece (never empty) of a header's payload.

        Must be iterated to its end. Raises ProtocolError for an invalid header; the reader must not be used after that.
        """
        if self._partial:
            data = self._partial + data
            self._partial = b""
        at, size = 0, len(data)
        while at < size:
            if self.remaining:
                end = min(at + self.remaining, size)
                self.remaining -= end - at
                yield data[at:end]  # CPython does not copy if this is all of data
                at = end
            elif size - at < HEADER_SIZE:
                self._partial = data[at:]
                return
            else:
                header = decode(data, at)
                at += HEADER_SIZE
                if header.kind == DATA:
                    self.remaining = header.length
                yield header
