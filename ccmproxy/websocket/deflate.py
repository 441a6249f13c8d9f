"""The permessage-deflate extension (RFC 7692): what was agreed, and both directions of it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

NAME: Final = "permessage-deflate"
#: What a sender takes off the end of each message, and a receiver puts back (RFC 7692 section 7.2).
_TAIL: Final = b"\x00\x00\xff\xff"
#: How hard to try: a relay's time is worth more than a few percent of its bandwidth.
_LEVEL: Final = 1
#: The largest window, as a power of two of bytes; and the smallest that zlib makes without a header.
_LARGEST_WINDOW: Final = 15
_SMALLEST_WINDOW: Final = 9
#: As much of what a deflate stream has produced can matter later (bytes).
_WINDOW_SIZE: Final = 1 << _LARGEST_WINDOW


class TooMuch(Exception):
    """A message is longer, inflated, than it may be."""


class Corrupt(Exception):
    """What came is not a deflate stream."""


@dataclass(frozen=True, slots=True)
class DeflateAgreement:
    """What both sides agreed on, as one of them sees it.

    ``window_bits``: of what this side sends; below 9 it cannot compress at all, and sends everything as it is.
    ``keep_context``, ``peer_keeps_context``: whether the window of one message goes on into the next, of what this
    side sends and of what it receives.
    """

    window_bits: int = _LARGEST_WINDOW
    keep_context: bool = True
    peer_keeps_context: bool = True


class Deflater:
    """Compresses the messages that one side sends."""

    __slots__ = ("_agreement", "_stream")

    def __init__(self, agreement: DeflateAgreement) -> None:
        self._agreement = agreement
        self._stream = None if agreement.window_bits < _SMALLEST_WINDOW else self._new()

    def _new(self) -> zlib._Compress:
        return zlib.compressobj(_LEVEL, zlib.DEFLATED, -self._agreement.window_bits)

    def compress(self, data: bytes) -> bytes | None:
        """A whole message's payload; None where this side cannot compress."""
        stream = self._stream
        if stream is None:
            return None
        packed = stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)
        if not self._agreement.keep_context:
            self._stream = self._new()
        return packed[:-4]


class Inflater:
    """Takes the compression off the messages that one side receives, never producing more than it is asked for."""

    __slots__ = ("_ended", "_keep", "_recent", "_stream")

    def __init__(self, agreement: DeflateAgreement) -> None:
        self._keep = agreement.peer_keeps_context
        self._stream = zlib.decompressobj(-_LARGEST_WINDOW)
        self._recent = b""
        self._ended = False

    def inflate(self, data: bytes | bytearray, room: int) -> bytes:
        """A piece of a message, of which more is to come.

        Raises TooMuch where it makes more than ``room`` bytes, and Corrupt.
        """
        pieces: list[bytes] = []
        while True:
            try:
                # One byte more than there is room for tells that there is too much; 0 would mean no limit.
                piece = self._stream.decompress(data, room + 1)
            except zlib.error:
                raise Corrupt from None
            room -= len(piece)
            if room < 0:
                raise TooMuch
            if not self._stream.eof:
                if not pieces:
                    return piece
                pieces.append(piece)
                return b"".join(pieces)
            # A sender may end its deflate stream and begin another one (section 7.2.3.4): once per message, or a
            # few bytes would cost many streams. The window goes on, of which only what is recent is known here.
            if self._ended:
                raise Corrupt
            self._ended = True
            pieces.append(piece)
            self._recent = (self._recent + piece)[-_WINDOW_SIZE:]
            data = self._stream.unused_data
            self._stream = zlib.decompressobj(-_LARGEST_WINDOW, zdict=self._recent)
            if not data:
                return b"".join(pieces)

    def end(self, room: int, data: bytes | bytearray = b"") -> bytes:
        """The rest of a message, ``data`` being what has come of it last. Raises TooMuch and Corrupt."""
        rest = self.inflate(data + _TAIL, room)
        self._ended = False
        if not self._keep:
            self._stream = zlib.decompressobj(-_LARGEST_WINDOW)
            self._recent = b""
        return rest


# Negotiation ----------------------------------------------------------------------------------------------------

Extension = tuple[str, dict[str, str | None]]


def server_agreement(offers: list[Extension]) -> tuple[DeflateAgreement, str] | None:
    """The first offer that a server can take: what it means for the server, and what the answer says of it."""
    for name, parameters in offers:
        if name != NAME:
            continue
        bits = _LARGEST_WINDOW
        answer = [NAME]
        usable = True
        for key, value in parameters.items():
            if key in ("server_no_context_takeover", "client_no_context_takeover") and value is None:
                answer.append(key)
            elif key == "server_max_window_bits" and (asked := _bits(value)) >= _SMALLEST_WINDOW:
                bits = asked
                answer.append(f"{key}={bits}")
            elif key == "client_max_window_bits" and (value is None or _bits(value)):
                pass  # we inflate whatever window the client uses
            else:
                usable = False
        if usable:
            agreement = DeflateAgreement(
                bits,
                keep_context="server_no_context_takeover" not in parameters,
                peer_keeps_context="client_no_context_takeover" not in parameters,
            )
            return agreement, "; ".join(answer)
    return None


#: What a client offers.
CLIENT_OFFER: Final = f"{NAME}; client_max_window_bits"


def client_agreement(parameters: dict[str, str | None]) -> DeflateAgreement | None:
    """What a server's answer to ``CLIENT_OFFER`` means for the client; None where it is no valid answer."""
    bits = _LARGEST_WINDOW
    for key, value in parameters.items():
        if key in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
        elif key == "client_max_window_bits":
            bits = _bits(value)
            if not bits:
                return None
        elif key != "server_max_window_bits" or not _bits(value):
            return None
    return DeflateAgreement(
        bits,
        keep_context="client_no_context_takeover" not in parameters,
        peer_keeps_context="server_no_context_takeover" not in parameters,
    )


def _bits(value: str | None) -> int:
    """8 … 15, or 0 for anything else (RFC 7692 section 7.1.2: no leading zero)."""
    return int(value) if value in ("8", "9", "10", "11", "12", "13", "14", "15") else 0
