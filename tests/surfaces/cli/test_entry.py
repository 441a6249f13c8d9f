"""The command as a whole."""

from __future__ import annotations

import io
import sys

from ccmproxy._version import __version__
from ccmproxy.surfaces.cli import main
from ccmproxy.surfaces.cli.terminal import Terminal
from tests.surfaces.cli.commanding import CommandTestCase


class MainTests(CommandTestCase):
    """The command as a whole."""

    def test_help(self) -> None:
        code, out, _ = self.usage("--help")
        self.assertEqual(code, 0)
        for command in ("check", "schema", "token", "status", "demo"):
            self.assertRegex(out, rf"(?m)^    {command} ")
        self.assertEqual(self.usage("--version")[:2], (0, f"ccmproxy {__version__}\n"))

    def test_wrong_usage(self) -> None:
        for argv in ((), ("frobnicate",), ("check",), ("status", "--token-env", "A", "--token-file", "b")):
            code, out, err = self.usage(*argv)
            self.assertEqual((code, out), (2, ""))
            self.assertIn("usage: ccmproxy", err)

    def test_arguments_of_the_process(self) -> None:
        self.patch(sys, "argv", ["ccmproxy", "token", "bob"])
        out = io.StringIO()
        self.assertEqual(main(terminal=Terminal(out)), 0)
        self.assertIn('name: "bob"', out.getvalue())

    def interrupted(self, error: BaseException) -> int:
        """Exit status when printing raises ``error``."""

        class Broken(io.StringIO):
            def write(self, text: str) -> int:
                raise error

        return main(["token"], Terminal(Broken()))

    def test_interrupted(self) -> None:
        self.assertEqual(self.interrupted(KeyboardInterrupt()), 130)
        self.assertEqual(self.interrupted(BrokenPipeError()), 1)
