"""Settings of a process that does nothing but proxy: for the daemon, never for whoever embeds ccmproxy."""

from __future__ import annotations

import ctypes
import gc

#: Fewer garbage collections of the young generation: requests leave few cycles, and 700 objects are one request.
GC_THRESHOLD = 10_000
#: Up to this size (bytes) memory is taken from the heap, not mapped anew: a 1 MB body in fresh pages costs 250 page
#: faults, which were a fifth of the CPU of such a request. glibc takes no more than 32 MiB.
MMAP_THRESHOLD = 32 * 1024 * 1024
#: The heap keeps so much free memory at its end before it gives it back (bytes).
TRIM_THRESHOLD = 64 * 1024 * 1024

# malloc.h of glibc
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def tune_process() -> bool:
    """Tune collector and allocator. Call it when everything has been loaded; False where the allocator has no such
    settings (they are glibc's).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return all(
        mallopt(parameter, size) == 1
        for parameter, size in ((_M_MMAP_THRESHOLD, MMAP_THRESHOLD), (_M_TRIM_THRESHOLD, TRIM_THRESHOLD))
    )
