"""Tests of the daemon's settings, in a separate process because they are permanent."""

from __future__ import annotations

import platform
import subprocess
import sys
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

BEGIN = """
import gc, sys
from twisted.internet.task import Clock
from ccmproxy.root.tuning import GC_THRESHOLD, TRIM_INTERVAL, tune_process

clock = Clock()
tuned = tune_process(clock)
"""
SETTINGS = """
assert gc.get_freeze_count() > 0
assert gc.get_threshold()[0] == GC_THRESHOLD
print(tuned)
"""
#: Large bodies come and go between small objects that stay.
HOLES = """
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

assert tuned
before = resident()
stays, goes = [], []
for _ in range(100):
    goes.append(bytearray(1024 * 1024))
    stays.append(bytearray(64 * 1024))
peak = resident()
del goes[SPARED:]
clock.advance(TRIM_INTERVAL - 1)
after = resident()
clock.advance(1)
print(peak - before > 100 * 1024**2, after - before > 100 * 1024**2, resident() - before > 100 * 1024**2)
"""


class TuneProcessTests(SynchronousTestCase):
    """The settings take effect, and unsupported systems cause no error."""

    def said(self, program: str) -> str:
        """What a process of its own prints."""
        done = subprocess.run(
            [sys.executable, "-c", BEGIN + program], capture_output=True, text=True, timeout=60
        )
        self.assertEqual(done.stderr, "")
        return done.stdout.strip()

    def test_settings(self) -> None:
        self.assertEqual(self.said(SETTINGS), str(platform.libc_ver()[0] == "glibc"))

    def test_free_memory_is_returned(self) -> None:
        """What is free between small objects goes back, if it is much."""
        if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
            raise SkipTest("needs Linux and glibc")
        self.assertEqual(self.said(HOLES.replace("SPARED", "0")), "True True False")
        self.assertEqual(self.said(HOLES.replace("SPARED", "90")), "True True True")

    def test_the_old_generation_is_collected(self) -> None:
        """Garbage that has become old does not wait for a quarter of all that was there at the start."""
        program = """
import weakref

class Cycle:
    def __init__(self):
        self.itself = self

old = Cycle()
gc.collect(1)
gc.set_threshold(10, 1, 1)
known = weakref.ref(old)
del old
kept = [[] for _ in range(3000)]
print(known() is None)
"""
        self.assertEqual(self.said(program), "True")
