"""``ccmproxy demo`` as a program: its script is an end-to-end test of both dialects over real sockets."""

from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.demo.script import SCRIPT

PROGRAM = "import sys; from ccmproxy.surfaces.cli import main; sys.exit(main(['demo', '--once']))"


class DemoTests(SynchronousTestCase):
    """``ccmproxy demo --once``."""

    def test_everything_goes_as_it_should(self) -> None:
        done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn(f"{len(SCRIPT)} requests, 0 not as they should be", done.stdout)
