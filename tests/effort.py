"""How much work a piece of code does, counted and never timed: lines of ccmproxy that run, and memory at its peak.

A count is the same in every run and on every machine. What takes time in the square of its input shows as lines that
are more than so many per byte, or as memory.
"""

from __future__ import annotations

import os
import sys
import tracemalloc
from types import FrameType
from typing import Any, Final

import ccmproxy

_FOLDER: Final = os.path.dirname(ccmproxy.__file__) + os.sep


class Effort:
    """Counts while it is entered.

    ``lines``: lines of ccmproxy's own code that ran, in this thread. ``peak``: most bytes allocated at the same time by
    what began meanwhile; counted only with ``memory``.
    """

    def __init__(self, memory: bool = False) -> None:
        self.lines = 0
        self.peak = 0
        self._memory = memory
        self._before: Any = None

    def __enter__(self) -> Effort:
        if self._memory:
            tracemalloc.start()
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)
        if self._memory:
            self.peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()

    def _called(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._line if frame.f_code.co_filename.startswith(_FOLDER) else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            self.lines += 1
        return self._line
