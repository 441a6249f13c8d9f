"""Disks that are really full or read-only for a while (spec 12.4, F66)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.source import ROOT


class FullDiskTests(SynchronousTestCase):
    """Small file systems in a mount namespace, which ends with the process."""

    def run_there(self, module: str) -> Any:
        """What ``module`` prints when it is run there with a directory of its own. Skips the test if that is not
        possible."""
        directory = os.path.realpath(self.mktemp())
        os.mkdir(directory)
        command = ["unshare", "--user", "--map-root-user", "--mount"]
        try:
            done = subprocess.run(
                [*command, sys.executable, "-m", module, directory],
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        except FileNotFoundError:
            raise self.skipTest("no unshare(1)") from None
        if not done.stdout.startswith(("[", "{")):
            self.assertNotIn("Traceback", done.stderr)
            raise self.skipTest(f"no file system may be mounted here: {done.stdout or done.stderr}".strip())
        return json.loads(done.stdout)

    def test_a_token_stays_in_service_and_its_successor_is_saved(self) -> None:
        words = {
            "full": "No space left",
            "full at the save": "No space left",
            "read-only": "Read-only file system",
        }
        facts = self.run_there("tests.system.full_disk")
        self.assertEqual([each["name"] for each in facts], list(words))
        for each in facts:
            self.assertEqual((each["meanwhile"], each["redeemed"]), ("a1", 1), each)
            self.assertIn(words[each["name"]], each["problem"])
            self.assertIsNotNone(each["healed_after"], each)
            self.assertEqual(each["folder"], ["login.json"])

    def test_a_journal_takes_what_it_has_room_for(self) -> None:
        """Some 920 KiB are free."""
        facts = self.run_there("tests.system.full_journal")
        self.assertEqual(facts["first"], 256 * 1024, "there must be room for the database")
        self.assertGreater(facts["taken"], 2000)
        self.assertIn("cannot grow: No space left on device", facts["problem"])
        self.assertEqual((facts["again"], facts["problem_again"], facts["lost"]), (True, None, 1))
        self.assertEqual(facts["left"], [True])
