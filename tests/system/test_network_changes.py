"""The monitor of the network, in a real network of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.source import ROOT
from tests.system.namespace import STEPS


class NamespaceTests(SynchronousTestCase):
    """A network namespace, which may be made where the system permits it."""

    def test_a_network_of_our_own(self) -> None:
        """Every change is told, and nothing else is."""
        unshare, ip = shutil.which("unshare"), shutil.which("ip")
        if unshare is None or ip is None:
            raise SkipTest("needs the programs unshare and ip")
        enter = [unshare, "--user", "--map-root-user", "--net"]
        tried = subprocess.run([*enter, "true"], capture_output=True, text=True, timeout=20, check=False)
        if tried.returncode:
            raise SkipTest(f"no network namespace: {tried.stderr.strip()}")
        child = subprocess.run(
            [*enter, sys.executable, "-m", "tests.system.namespace"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if not child.stdout.startswith("["):
            if child.stdout.startswith("ip "):
                raise SkipTest(f"this kernel or this ip cannot do it: {child.stdout.strip()}")
            self.fail(child.stderr)
        *steps, (_, together) = json.loads(child.stdout)
        self.assertEqual([(command, told > 0) for command, told in steps], STEPS)
        self.assertEqual(together, 1)
