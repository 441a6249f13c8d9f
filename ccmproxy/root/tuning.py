"""Settings for a process that only runs ccmproxy. The daemon applies them; a program that embeds ccmproxy does not."""

from __future__ import annotations

import ctypes
import gc

#: Allocations between garbage collections of the young generation. It is raised because a single request allocates 700
#: objects, and requests leave few reference cycles.
GC_THRESHOLD = 10_000
#: Largest allocation that malloc takes from the heap instead of mapping new pages (bytes). A 1 MB body in new pages
#: costs 250 page faults, which took a fifth of the CPU time of such a request. glibc's maximum is 32 MiB.
MMAP_THRESHOLD = 32 * 1024 * 1024
#: Free memory at the end of the heap that malloc keeps before it returns memory to the system (bytes).
TRIM_THRESHOLD = 64 * 1024 * 1024

# malloc.h of glibc
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def tune_process() -> bool:
    """Tune the garbage collector and the allocator. Call it when all modules are loaded. Returns False if the allocator
    is not glibc's and lacks these settings.
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
