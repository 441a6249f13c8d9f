"""Whether text is UTF-8, as a WebSocket's must be (RFC 6455 section 8.1)."""

from __future__ import annotations

from codecs import utf_8_decode
from typing import Final

#: How much is decoded at a time (bytes). Decoded, text is up to four times as long: one piece fits into the processor's
#: cache, and a long message at once would take a multiple of its limit.
PIECE: Final = 0x10000


def is_utf8(data: bytes) -> bool:
    """Whether ``data`` is UTF-8 from its first to its last byte (RFC 3629)."""
    if data.isascii():
        return True
    view = memoryview(data)
    at, size = 0, len(data)
    try:
        while at < size:
            # A character that a piece ends within is left to the next one.
            is_last = at + PIECE >= size
            at += utf_8_decode(view[at : at + PIECE], "strict", is_last)[1]
    except UnicodeDecodeError:
        return False
    return True
