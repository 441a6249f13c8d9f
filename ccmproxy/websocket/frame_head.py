"""What stands before the payload of a frame that is sent (RFC 6455 section 5.2)."""

from __future__ import annotations


def frame_head(first: int, length: int, is_masked: bool) -> bytes:
    """The head of a frame, up to the masking key. ``first``: its first byte; ``length``: of its payload, in bytes."""
    mask_bit = 0x80 if is_masked else 0
    if length < 126:
        return bytes((first, mask_bit | length))
    if length < 0x10000:
        return bytes((first, mask_bit | 126)) + length.to_bytes(2, "big")
    return bytes((first, mask_bit | 127)) + length.to_bytes(8, "big")
