"""Decompression of request bodies for inspection (RFC 9110 section 8.4), with bounded memory for any input (F31)."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import zstandard

#: Larger bodies are not inspected (bytes, decompressed); no conversation needs this much.
LARGEST = 16 * 1024 * 1024
#: Decoders must support windows of 8 MiB, and may refuse larger ones (RFC 9659 section 3; bytes).
LARGEST_WINDOW = 8 * 1024 * 1024
_STEP = 256 * 1024
#: zlib: a window of 32 KiB, with gzip's header.
_GZIP = 16 + zlib.MAX_WBITS


def decompressed(data: bytes, coding: bytes | None, largest: int = LARGEST) -> bytes | None:
    """``data`` without its content coding; None if the coding is unknown, the data broken or larger than ``largest``.

    ``coding``: value of Content-Encoding, None where there is none. Never raises, and never holds much more than
    ``largest`` bytes. Of truncated data, returns what could be decompressed.
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
    b"zstd": _unzstd,
}
