"""``ccmproxy check``."""

from __future__ import annotations

import os

from tests.surfaces.cli.commanding import TOKEN, CommandTestCase


class CheckTests(CommandTestCase):
    """ccmproxy check"""

    def test_valid(self) -> None:
        path = self.file(
            """
            services:
              - type: ccm
                credentials:
                  - {tag: work}
                  - {tag: home, credential_path: x}
                  - {tag: friend, type: external, token: t3}
                  - {tag: all, type: balancer, credentials: [work, friend]}
                users: [{name: alice, token: t1, credential: all}, {name: bob, token: t2, credential: home}]
              - {type: ccm, listen: "::1", credential_path: x}
            """
        )
        code, out, err = self.run_command("check", path)
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(
            out.splitlines(),
            [
                f"{path}: ok",
                "  ccm on 127.0.0.1:8080: credentials work, home, friend, all; users alice, bob",
                "  ccm on [::1]:8080: credential default; no users: everybody who reaches this address may use it",
            ],
        )

    def test_problems(self) -> None:
        path = self.file(f"services:\n- type: ccm\n  lisen: x\n  users:\n  - {{name: a, token: [{TOKEN}]}}\n")
        code, out, err = self.run_command("check", path)
        self.assertEqual((code, out), (1, ""))
        self.assertEqual(
            err.splitlines(),
            [
                f'{path}:3: services[0].lisen: unknown option; did you mean "listen"?',
                f"{path}:5: services[0].users[0].token: must be text, is a list",
            ],
        )

    def test_missing(self) -> None:
        code, out, err = self.run_command("check", "/does/not/exist")
        self.assertEqual((code, out), (1, ""))
        self.assertEqual(err, "/does/not/exist: cannot be read: No such file or directory\n")

    def test_warnings(self) -> None:
        token = os.path.abspath(self.file(TOKEN, 0o644))
        login = os.path.abspath(self.file("{}", 0o604))
        path = self.file(
            f"services: [{{type: ccm, credential_path: {login}, users: [{{name: a, token_file: {token}}}]}}]",
            0o644,
        )
        code, out, err = self.run_command("check", path)
        self.assertEqual(code, 0)
        self.assertIn(": ok\n", out)
        expected = [
            f"warning: {each} can be read by every user of this machine: chmod 600 it"
            for each in (os.path.abspath(path), token, login)
        ]
        self.assertEqual(err.splitlines(), expected)

    def test_environment(self) -> None:
        path = self.file("services: [{type: ccm, users: [{name: a, token_env: T}]}]")
        self.assertEqual(self.run_command("check", path, environ={"T": TOKEN})[0], 0)
        code, _, err = self.run_command("check", path, environ={})
        self.assertEqual(code, 1)
        self.assertIn("this environment variable is not set", err)
