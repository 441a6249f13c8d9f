"""``ccmproxy`` as a program: what a shell sees of it."""

from __future__ import annotations

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.source import ROOT

#: The command without its script, which need not be installed where the tests run.
COMMAND = "import sys; from ccmproxy.surfaces.cli import main; sys.exit(main())"


class CommandTests(SynchronousTestCase):
    """Exit status and streams."""

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The running command."""
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            # Buffered, as it is in a shell: what is left in a buffer may still fail when the interpreter ends.
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run_command(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def file(self, content: str) -> str:
        """A file, as its path."""
        path: str = self.mktemp()
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(path, 0o600)
        return path

    def test_a_good_configuration(self) -> None:
        path = self.file("services: [{type: ccm, credential_path: x}]")
        status, out, err = self.run_command("check", path)
        self.assertEqual((status, err), (0, ""))
        self.assertTrue(out.startswith(f"{path}: ok\n"), out)

    def test_a_bad_configuration(self) -> None:
        path = self.file("services: [{type: ccm, lisen: x}]")
        status, out, err = self.run_command("check", path)
        self.assertEqual((status, out), (1, ""))
        self.assertIn("lisen", err)
        self.assertNotIn("Traceback", err)

    def test_wrong_usage(self) -> None:
        status, out, err = self.run_command("bogus")
        self.assertEqual((status, out), (2, ""))
        self.assertIn("usage: ccmproxy", err)

    def test_nobody_reads_on(self) -> None:
        """``ccmproxy schema | head -1``: it ends without a word, nor does the interpreter have one at its end."""
        for arguments in (("schema",), ("token", "alice")):
            process = self.start(*arguments)
            assert process.stdout is not None
            process.stdout.close()
            process.stdout = None
            _, err = process.communicate(timeout=60)
            self.assertEqual((process.returncode, err), (1, ""), arguments)
