"""Reading bodies that were compressed (RFC 9110 section 8.4): bounded, whatever they hold (F31, F59, F63).

The bound is on three things: on what comes out, on what goes in, and on the number of pieces (the members of gzip), so
that the time is proportional to the bytes that came, whichever they are. Nothing is copied once per piece.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import brotli
import zstandard

#: More than any conversation needs; what would be larger is not looked into (bytes, decompressed).
LARGEST = 16 * 1024 * 1024
#: Decoders must support windows of 8 MiB, and may refuse larger ones (RFC 9659 section 3; bytes).
LARGEST_WINDOW = 8 * 1024 * 1024
_STEP = 256 * 1024
#: Most members of a gzip body. Clients send one; programs that compress in parallel write one per 128 KiB or so.
MOST_MEMBERS = 1000
#: What did not shrink is larger by its framing: a few bytes per block of some KiB, and a head (bytes).
_FRAMING = 64 * 1024
#: So much is given to a gzip decompressor at once, because it copies what is left behind each member (bytes).
_GZIP_STEP = 16 * 1024
#: zlib: a window of 32 KiB, with gzip's header.
_GZIP = 16 + zlib.MAX_WBITS
#: zlib: a bare deflate stream, which some servers send as ``deflate`` (RFC 9110 section 8.4.1.2, note).
_RAW_DEFLATE = -zlib.MAX_WBITS


def decompressed(data: bytes, coding: bytes | None, largest: int = LARGEST) -> bytes | None:
    """Return ``data`` without its content coding; None if the coding is unknown, or the data broken or too much.

    ``coding``: value of Content-Encoding, None where there is none. Known codings are gzip, deflate, br and zstd.
    Too much are more than ``largest`` bytes inflated, compressed data that is clearly longer than that, and more than
    ``MOST_MEMBERS`` members of gzip. Never raises, and never holds much more than ``largest`` bytes. Data that breaks
    off gives what is there. The time is linear in ``len(data)`` and ``largest``; the interpreter lock is released
    while the data is inflated.
    """
    name = (coding or b"identity").strip().lower()
    read = _READERS.get(name)
    if read is None or (read is not _identity and len(data) > largest + largest // 8 + _FRAMING):
        return None
    return read(data, largest)


def _identity(data: bytes, largest: int) -> bytes | None:
    return data


def _gunzip(data: bytes, largest: int) -> bytes | None:
    pieces: list[bytes] = []
    size = position = members = 0
    decompressor = zlib.decompressobj(_GZIP)
    given: bytes | memoryview = b""
    view = memoryview(data)
    while given or position < len(data):
        if decompressor.eof:  # one gzip member after the other (RFC 1952 section 2.2)
            members += 1
            if members >= MOST_MEMBERS:
                return None
            decompressor = zlib.decompressobj(_GZIP)
        if not given:
            given = view[position : position + _GZIP_STEP]
            position += len(given)
        try:
            piece = decompressor.decompress(given, min(largest - size + 1, _STEP))
        except zlib.error:
            return None
        size += len(piece)
        if size > largest:
            return None
        if piece:
            pieces.append(piece)
        given = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
    try:
        pieces.append(decompressor.flush())  # the end of a match that the last step cut off
    except zlib.error:
        return None
    return b"".join(pieces) if size + len(pieces[-1]) <= largest else None


def _inflate(data: bytes, largest: int) -> bytes | None:
    for window in (zlib.MAX_WBITS, _RAW_DEFLATE):
        try:
            found = zlib.decompressobj(window).decompress(data, largest + 1)
        except zlib.error:
            continue
        return found if len(found) <= largest else None
    return None


def _unbrotli(data: bytes, largest: int) -> bytes | None:
    decompressor = brotli.Decompressor()
    pieces: list[bytes] = []
    size = 0
    try:
        while piece := decompressor.process(data, output_buffer_limit=largest + 1 - size):
            data = b""  # it keeps what it could not put out yet
            size += len(piece)
            if size > largest:
                return None
            pieces.append(piece)
    except brotli.error:
        return None
    return b"".join(pieces)


def _unzstd(data: bytes, largest: int) -> bytes | None:
    pieces: list[bytes] = []
    size = 0
    try:
        decompressor = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
        with decompressor.stream_reader(data, read_across_frames=True) as reader:
            while piece := reader.read(_STEP):
                size += len(piece)
                if size > largest:
                    return None
                pieces.append(piece)
    except zstandard.ZstdError:
        return None
    return b"".join(pieces)


_READERS: dict[bytes, Callable[[bytes, int], bytes | None]] = {
    b"identity": _identity,
    b"gzip": _gunzip,
    b"x-gzip": _gunzip,
    b"deflate": _inflate,
    b"br": _unbrotli,
    b"zstd": _unzstd,
}
