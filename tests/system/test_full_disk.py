"""Disks that are really full or read-only for a while (spec 12.4, F66)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.source import ROOT


class FullDiskTests(SynchronousTestCase):
    """Small file systems in a mount namespace, which ends with the process."""

    def test_a_token_stays_in_service_and_its_successor_is_saved(self) -> None:
        directory = os.path.realpath(self.mktemp())
        os.mkdir(directory)
        command = ["unshare", "--user", "--map-root-user", "--mount"]
        try:
            done = subprocess.run(
                [*command, sys.executable, "-m", "tests.system.full_disk", directory],
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        except FileNotFoundError:
            raise self.skipTest("no unshare(1)") from None
        if not done.stdout.startswith("["):
            self.assertNotIn("Traceback", done.stderr)
            raise self.skipTest(f"no file system may be mounted here: {done.stdout or done.stderr}".strip())
        words = {
            "full": "No space left",
            "full at the save": "No space left",
            "read-only": "Read-only file system",
        }
        facts = json.loads(done.stdout)
        self.assertEqual([each["name"] for each in facts], list(words))
        for each in facts:
            self.assertEqual((each["meanwhile"], each["redeemed"]), ("a1", 1), each)
            self.assertIn(words[each["name"]], each["problem"])
            self.assertIsNotNone(each["healed_after"], each)
            self.assertEqual(each["folder"], ["login.json"])
