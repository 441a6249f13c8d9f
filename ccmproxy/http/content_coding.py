"""Reading bodies that were compressed (RFC 9110 section 8.4): bounded, whatever they hold (F31, F59)."""

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
#: zlib: a window of 32 KiB, with gzip's header.
_GZIP = 16 + zlib.MAX_WBITS
#: zlib: a bare deflate stream, which some servers send as ``deflate`` (RFC 9110 section 8.4.1.2, note).
_RAW_DEFLATE = -zlib.MAX_WBITS


def decompressed(data: bytes, coding: bytes | None, largest: int = LARGEST) -> bytes | None:
    """``data`` without its content coding; None if the coding is unknown, the data broken or larger than ``largest``.

    ``coding``: value of Content-Encoding, None where there is none. Known codings are gzip, deflate, br and zstd. Never
    raises, and never holds much more than ``largest`` bytes. Data that breaks off gives what is there.
    """
    read = _READERS.get((coding or b"identity").strip().lower())
    return read(data, largest) if read is not None else None


def _identity(data: bytes, largest: int) -> bytes | None:
    return data


def _gunzip(data: bytes, largest: int) -> bytes | None:
    pieces: list[bytes] = []
    size = 0
    while data:  # one gzip member after the other (RFC 1952 section 2.2)
        decompressor = zlib.decompressobj(_GZIP)
        try:
            piece = decompressor.decompress(data, largest - size + 1)
        except zlib.error:
            return None
        size += len(piece)
        if size > largest:
            return None
        pieces.append(piece)
        data = decompressor.unused_data
    return b"".join(pieces)


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
