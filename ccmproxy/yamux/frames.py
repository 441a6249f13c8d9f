"""Frames as they stand on the wire: version 0 of hashicorp/yamux's protocol.

A header is 12 bytes, big endian: version (8 bits, 0), type (8), flags (16), stream id (32), length (32). Only DATA has
a payload, of ``length`` bytes; elsewhere the length is a number with a meaning of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from ccmproxy.yamux.errors import ProtocolError

# Types.
DATA: Final = 0
WINDOW_UPDATE: Final = 1  # length: bytes that the receiver of it may send in addition
PING: Final = 2  # length: an opaque number, echoed
GO_AWAY: Final = 3  # length: a code

# Flags. They may stand together; bits that are not known are ignored. On a PING, SYN asks and ACK answers.
SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8

HEADER_SIZE: Final = 12
_HEADER: Final = Struct(">BBHII")


class Header(NamedTuple):
    """One frame, without its payload. ``kind``: the type."""

    kind: int
    flags: int
    stream_id: int
    length: int


def encode(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """A header. Raises struct.error for a number that does not fit its field."""
    return _HEADER.pack(0, kind, flags, stream_id, length)


def decode(data: bytes, at: int = 0) -> Header:
    """The header that stands at ``at``; 12 bytes must be there. Raises ProtocolError for another version or type."""
    version, kind, flags, stream_id, length = _HEADER.unpack_from(data, at)
    if version != 0:
        raise ProtocolError(f"version {version} of the protocol is not known")
    if kind > GO_AWAY:
        raise ProtocolError(f"frames of type {kind} are not known")
    return Header(kind, flags, stream_id, length)


class FrameReader:
    """Bytes to headers and pieces of payload.

    A payload is given in the pieces in which it comes: the peer may send a whole window in one frame, and nothing is
    kept here but part of a header. ``remaining``: bytes of the payload that are still to come; 0 between two frames.
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
        """What ``data`` completes, in order: a header, or a piece (never empty) of the payload of the last one.

        Must be iterated to its end. Raises ProtocolError, after which the reader is of no more use.
        """
        if self._partial:
            data = self._partial + data
            self._partial = b""
        at, size = 0, len(data)
        while at < size:
            if self.remaining:
                end = min(at + self.remaining, size)
                self.remaining -= end - at
                yield data[at:end]  # where that is all of it, Python copies nothing
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
