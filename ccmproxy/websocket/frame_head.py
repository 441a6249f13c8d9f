"""What stands before the payload of a frame that is sent (RFC 6455 section 5.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

#: Largest payload of a frame that is sent (bytes): some peers refuse frames of a size that they take as a message.
LONGEST_FRAME: Final = 1024 * 1024


def frame_head(first: int, length: int, is_masked: bool) -> bytes:
    """The head of a frame, up to the masking key. ``first``: its first byte; ``length``: of its payload, in bytes."""
    mask_bit = 0x80 if is_masked else 0
    if length < 126:
        return bytes((first, mask_bit | length))
    if length < 0x10000:
        return bytes((first, mask_bit | 126)) + length.to_bytes(2, "big")
    return bytes((first, mask_bit | 127)) + length.to_bytes(8, "big")


def fragments(first: int, payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the first byte and the payload of each frame of a message (section 5.4).

    ``first``: of a message that is one frame. ``payload``: of the whole message, bytes before masking.
    """
    if len(payload) <= LONGEST_FRAME:
        yield first, payload
        return
    yield first & 0x7F, payload[:LONGEST_FRAME]
    for at in range(LONGEST_FRAME, len(payload), LONGEST_FRAME):
        is_last = at + LONGEST_FRAME >= len(payload)
        yield (0x80 if is_last else 0), payload[at : at + LONGEST_FRAME]
