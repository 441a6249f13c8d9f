"""Masking of what a WebSocket's client sends (RFC 6455 section 5.3), in machine code where that is to be had.

autobahn's wheels bring a masker in machine code, ``_nvx_xormasker``, and its functions are called directly here:
autobahn's own wrapper of them, ``autobahn.websocket.xormasker``, copies the data twice more, and importing it takes
27 ms and 4.7 MB in every process. Where autobahn was installed without that module, we mask in Python, with one
operation on two large numbers; autobahn itself would go through the bytes in a loop then, at least twenty times as
slowly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

try:
    import _nvx_xormasker
except ImportError:
    _nvx_xormasker = None

#: ``mask(data, key)``: the exclusive or of ``data`` and of ``key``, which is four bytes, over and over. Puts the mask
#: on, and takes it off.
Mask = Callable[[bytes, bytes], bytes | bytearray]

#: Data of this size (bytes) and more goes to the native masker. Its calls take 0.7 µs in all, as masking 128 bytes
#: in Python does; 1 MiB takes 0.06 ms with it and 3 ms without (``python -m bench.websocket`` measures both).
NATIVE_FROM: Final = 128


def mask_in_python(data: bytes, key: bytes) -> bytes:
    """See ``Mask``."""
    size = len(data)
    stretched = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(stretched, "little")).to_bytes(size, "little")


def create_native_mask(module: Any) -> Mask | None:
    """A mask made of ``_nvx_xormasker``; None where it is not there (None), or not what this code was written for."""
    try:
        from_buffer = module.ffi.from_buffer
        new, process, free = (
            module.lib.nvx_xormask_new,
            module.lib.nvx_xormask_process,
            module.lib.nvx_xormask_free,
        )

        def mask(data: bytes, key: bytes) -> bytearray:
            masked = bytearray(data)
            masker = new(key)
            process(masker, from_buffer("uint8_t[]", masked), len(masked))
            free(masker)
            return masked

        works = mask(b"Hello", b"\x37\xfa\x21\x3d") == b"\x7f\x9f\x4d\x51\x58"  # the example of section 5.7
    except (AttributeError, TypeError):
        return None
    return mask if works else None


def create_mask(native: Mask | None, native_from: int = NATIVE_FROM) -> Mask:
    """A mask that leaves ``native_from`` bytes and more to ``native``; with None, one in Python."""
    if native is None:
        return mask_in_python

    def mask(data: bytes, key: bytes) -> bytes | bytearray:
        return native(data, key) if len(data) >= native_from else mask_in_python(data, key)

    return mask


def rotate(key: bytes, size: int) -> bytes:
    """The key for what follows on ``size`` bytes of the same payload."""
    at = size & 3
    return key[at:] + key[:at] if at else key


#: The native mask of this installation, if it has one.
NATIVE_MASK: Final = create_native_mask(_nvx_xormasker)
#: The mask that connections use.
mask: Final = create_mask(NATIVE_MASK)
