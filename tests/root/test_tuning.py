"""Tests of the daemon's settings, in a separate process because they are permanent."""

from __future__ import annotations

import platform
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

PROGRAM = """
import gc
from ccmproxy.root.tuning import GC_THRESHOLD, tune_process
tuned = tune_process()
assert gc.get_freeze_count() > 0
assert gc.get_threshold()[0] == GC_THRESHOLD
print(tuned)
"""


class TuneProcessTests(SynchronousTestCase):
    """The settings take effect, and unsupported systems cause no error."""

    def test_in_a_process_of_its_own(self) -> None:
        done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.stderr, "")
        expected = "True" if platform.libc_ver()[0] == "glibc" else "False"
        self.assertEqual(done.stdout.strip(), expected)
