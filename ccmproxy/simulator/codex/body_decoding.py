"""Request bodies as clients send them: plain, or compressed by the official client (RFC 9110 section 8.4). Pure."""

from __future__ import annotations

import zlib
from typing import Any

import zstandard

from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import InvalidRequest
from ccmproxy.simulator.request_parts import decode_object

#: Largest body after decompression, in bytes.
MAX_DECODED = 64 * 1024 * 1024


def read_body(request: ReceivedRequest) -> dict[str, Any]:
    """The JSON object in the body of ``request``. Raises InvalidRequest."""
    return decode_document(decompressed(request.body, request.items(b"content-encoding")))


def decode_document(body: bytes | str) -> dict[str, Any]:
    """A JSON object. Raises InvalidRequest."""
    return decode_object(
        body,
        "We could not parse the JSON body of your request.",
        "The body of your request is not a JSON object.",
    )


def decompressed(body: bytes, codings: list[bytes]) -> bytes:
    """``body`` without its content codings; gzip and zstd are understood. Raises InvalidRequest."""
    for coding in reversed(codings):
        match coding.lower():
            case b"zstd":
                body = _unzstd(body)
            case b"gzip" | b"x-gzip":
                body = _gunzip(body)
            case b"identity":
                pass
            case _:
                raise InvalidRequest(f"Unsupported content encoding: {coding.decode('latin-1')}")
    return body


def _unzstd(body: bytes) -> bytes:
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    decoded = bytearray()
    try:
        for start in range(0, len(body), 4096):
            decoded += decompressor.decompress(body[start : start + 4096])
            if len(decoded) > MAX_DECODED:
                raise InvalidRequest("The body of your request is too large.")
    except zstandard.ZstdError:
        raise InvalidRequest("The body of your request is not zstd data.") from None
    if not decompressor.eof:
        raise InvalidRequest("The body of your request ends too early.")
    return bytes(decoded)


def _gunzip(body: bytes) -> bytes:
    decompressor = zlib.decompressobj(wbits=31)
    try:
        decoded = decompressor.decompress(body, MAX_DECODED + 1)
    except zlib.error:
        raise InvalidRequest("The body of your request is not gzip data.") from None
    if len(decoded) > MAX_DECODED:
        raise InvalidRequest("The body of your request is too large.")
    if not decompressor.eof:
        raise InvalidRequest("The body of your request ends too early.")
    return decoded
