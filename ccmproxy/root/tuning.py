"""Settings for a process that only runs ccmproxy. The daemon applies them; a program that embeds ccmproxy does not."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

#: Allocations between garbage collections of the young generation. It is raised because a single request allocates 700
#: objects, and requests leave few reference cycles.
GC_THRESHOLD = 10_000
#: Largest allocation that malloc takes from the heap instead of mapping new pages (bytes). A 1 MB body in new pages
#: costs 250 page faults, which took a fifth of the CPU time of such a request. glibc's maximum is 32 MiB.
MMAP_THRESHOLD = 32 * 1024 * 1024
#: Free memory at the end of the heap that malloc keeps before it returns memory to the system (bytes).
TRIM_THRESHOLD = 64 * 1024 * 1024

#: Seconds between two looks at how much memory malloc holds that is free.
TRIM_INTERVAL = 60.0
#: From so much on (bytes) it is returned. Large bodies that come and go between small objects leave holes in the heap,
#: which only grow in number: 15 MiB in an hour of mixed load. To return 20 MiB takes 3 ms, and some page faults later;
#: 512 MiB, after a peak, 30 to 50 ms once. What was returned still counts as free, so that after a peak the look is
#: made in vain every minute, in 1 to 5 ms.
WORTH_TRIMMING = 16 * 1024 * 1024

# malloc.h of glibc
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


class _MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc (mallinfo(3)). ``fordblks``: bytes that are free."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def tune_process(clock: IReactorTime) -> bool:
    """Tune the garbage collector and the allocator. Call it when all modules are loaded. Returns False if the allocator
    is not glibc's and lacks these settings.

    ``clock``: for the rest of the process, free memory is returned to the system every TRIM_INTERVAL seconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])
    # The old generation is collected when a quarter has been added to what was left in it the last time: without this
    # that would be a quarter of everything that is frozen.
    gc.collect()
    try:
        malloc = ctypes.CDLL(None)
        mallopt = malloc.mallopt
        malloc.malloc_trim  # noqa: B018  # raises where there is none
    except (OSError, AttributeError, TypeError):
        return False
    trimming = LoopingCall(return_free_memory, malloc)
    trimming.clock = clock
    trimming.start(TRIM_INTERVAL, now=False)
    return all(
        mallopt(parameter, size) == 1
        for parameter, size in ((_M_MMAP_THRESHOLD, MMAP_THRESHOLD), (_M_TRIM_THRESHOLD, TRIM_THRESHOLD))
    )


def return_free_memory(malloc: Any) -> None:
    """Return free memory to the system, if there is much of it. ``malloc``: the C library, which is glibc."""
    try:
        look = malloc.mallinfo2
    except AttributeError:
        pass  # before glibc 2.33
    else:
        look.restype = _MallocInfo
        if look().fordblks <= WORTH_TRIMMING:
            return
    malloc.malloc_trim(0)
