"""The command."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bench.pool.__main__ import main, run_all
from bench.pool.accounts import known_plan
from bench.pool.policies import CONTENDERS


class CommandTests(SynchronousTestCase):
    """``python -m bench.pool``."""

    def command(self, *arguments: str) -> tuple[int, str]:
        """Exit status and standard output."""
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
            status = main(arguments)
        return status, output.getvalue()

    def test_quick(self) -> None:
        path = self.mktemp()
        arguments = (
            "--quick",
            "--loads",
            "60,120",
            "--policy",
            "least-used",
            "--policy",
            "first until exhausted",
        )
        status, output = self.command(*arguments, "--markdown", "--json", path)
        self.assertEqual(status, 0)
        self.assertEqual(output.count("### Load"), 2)
        self.assertEqual(output.count("\n| least-used "), 2)
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        self.assertEqual(len(document["runs"]), 4)
        self.assertEqual(self.command(*arguments, "--markdown"), (0, output))

    def test_more_load_is_refused_more(self) -> None:
        contenders = [contender for contender in CONTENDERS if contender.name == "least-used"]
        low, high = run_all([known_plan("pro"), known_plan("team")], contenders, (20.0, 200.0), 1, 1)
        self.assertLess(low.figures.refused, high.figures.refused)
        self.assertGreater(low.figures.lapsed, high.figures.lapsed)

    def test_what_makes_no_sense(self) -> None:
        for arguments in (
            ("--loads", "much"),
            ("--loads", "0"),
            ("--seeds", "0"),
            ("--pool", "pro,gold"),
            ("--policy", "best"),
        ):
            with self.subTest(arguments), self.assertRaises(SystemExit) as caught:
                self.command(*arguments)
            self.assertEqual(caught.exception.code, 2)
