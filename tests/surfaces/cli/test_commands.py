"""The command: what it prints, where, and its exit status. Instances are played by urllib handlers in memory."""

from __future__ import annotations

import email.message
import io
import json
import os
import ssl
import sys
import textwrap
import urllib.error
import urllib.request
import urllib.response
from http.client import BadStatusLine, RemoteDisconnected
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy._version import __version__
from ccmproxy.config import json_schema, load_text
from ccmproxy.config.reference import markdown
from ccmproxy.demo import show as demo
from ccmproxy.surfaces.cli import commands as cli

NOW = 1_800_000_000.0
TOKEN = "the-token-of-alice"
STATUS = {
    "five_hour_utilization": 12.5,
    "five_hour_reset": int(NOW) + 2 * 3600 + 13 * 60,
    "weekly_utilization": 80,
    "weekly_reset": 0,
    "plan_weight": 25.0,
    "availability": {"state": "rate_limited", "reason": "short_window", "reset_at": int(NOW) + 60},
}


class Instance(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Answers every request with ``answer``: (status, headers, body), or an exception to be raised."""

    def __init__(self, answer: tuple[int, dict[str, str], bytes] | Exception) -> None:
        super().__init__()
        self.answer = answer
        self.requests: list[urllib.request.Request] = []

    def http_open(self, req: urllib.request.Request) -> Any:
        """Stand in for the network."""
        self.requests.append(req)
        if isinstance(self.answer, Exception):
            raise self.answer
        status, headers, body = self.answer
        message = email.message.Message()
        for name, value in headers.items():
            message[name] = value
        response = urllib.response.addinfourl(io.BytesIO(body), message, req.full_url, status)
        response.msg = "reason"  # type: ignore[attr-defined]
        return response

    https_open = http_open

    def sent(self) -> dict[str, str]:
        """The headers of the only request, names in lower case."""
        (request,) = self.requests
        return {name.lower(): value for name, value in request.header_items()}


class CommandTestCase(SynchronousTestCase):
    """Runs commands."""

    def run_command(
        self,
        *argv: str,
        answer: tuple[int, dict[str, str], bytes] | Exception | None = None,
        environ: dict[str, str] | None = None,
    ) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        out, err = io.StringIO(), io.StringIO()
        self.instance = Instance(answer if answer is not None else AssertionError("no request was expected"))
        terminal = cli.Terminal(
            out,
            err,
            {"HOME": "/home/alice"} if environ is None else environ,
            lambda: NOW,
            lambda size: f"random-{size}",
            [self.instance],
        )
        return cli.main(argv, terminal), out.getvalue(), err.getvalue()

    def file(self, content: str, mode: int = 0o600) -> str:
        """A file, as its path."""
        path: str = self.mktemp()
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(path, mode)
        return path


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


class TokenTests(CommandTestCase):
    """ccmproxy token"""

    def test_lines_are_configuration(self) -> None:
        for name in ("bob", "NAME", 'Bob O\'Neil: "x"', "true", "5", "ü"):
            code, out, err = self.run_command("token", name)
            self.assertEqual((code, err), (0, ""))
            config = load_text(
                "services:\n- type: ccm\n  users:\n" + textwrap.indent(out, "  "), "x", environ={}, home="/h"
            )
            (user,) = config.services[0].users
            self.assertEqual((user.name, user.token.get_secret_value()), (name, "random-32"))

    def test_without_a_name(self) -> None:
        self.assertIn('- name: "NAME"\n', self.run_command("token")[1])

    def test_not_a_name(self) -> None:
        for name in ("", " ", "a\nb"):
            self.assertEqual(self.run_command("token", name)[:2], (1, ""))

    def test_is_random(self) -> None:
        tokens = {cli.Terminal().make_token(cli.TOKEN_SIZE) for _ in range(3)}
        self.assertEqual({len(token) for token in tokens}, {43})  # 256 bits in base64
        self.assertEqual(len(tokens), 3)


class SchemaTests(CommandTestCase):
    """ccmproxy schema"""

    def test_json(self) -> None:
        code, out, err = self.run_command("schema")
        self.assertEqual((code, json.loads(out), err), (0, json_schema(), ""))

    def test_markdown(self) -> None:
        self.assertEqual(self.run_command("schema", "--markdown")[1].strip(), markdown().strip())


class StatusTests(CommandTestCase):
    """ccmproxy status"""

    def answer(self, *statuses: object) -> tuple[int, dict[str, str], bytes]:
        """200, with one line for each status."""
        return (
            200,
            {"Content-Type": "application/json"},
            b"".join(json.dumps(each).encode() + b"\n" for each in statuses),
        )

    def test_table(self) -> None:
        code, out, err = self.run_command("status", answer=self.answer(STATUS))
        self.assertEqual((code, err), (0, ""))
        lines = out.splitlines()
        self.assertEqual(lines[0], "window      used  resets")
        self.assertRegex(lines[1], r"^5 hours   12\.5 %  in 2h13m \(\w+ \d\d:\d\d\)$")
        self.assertEqual(lines[2], "week      80.0 %  unknown")
        self.assertEqual(lines[3], "weight        25")
        self.assertRegex(lines[4], r"^state     rate limited \(short window\), in 1m \(\w+ \d\d:\d\d\)$")
        self.assertEqual(len(lines), 5)

    def test_request(self) -> None:
        self.run_command("status", answer=self.answer(STATUS))
        (request,) = self.instance.requests
        self.assertEqual(request.full_url, "http://127.0.0.1:8080/ccm/v1/status")
        self.assertEqual(self.instance.sent()["user-agent"], f"ccmproxy/{__version__}")
        self.assertNotIn("authorization", self.instance.sent())

    def test_sing_box_and_odd_answers(self) -> None:
        for status, expected in (
            (
                {"five_hour_utilization": 1},
                ["5 hours    1.0 %  unknown", "week           ?  unknown", "weight         ?"],
            ),
            (
                {
                    "five_hour_utilization": "x",
                    "weekly_utilization": True,
                    "weekly_reset": NOW - 5,
                    "plan_weight": 1e300,
                },
                ["5 hours        ?  unknown", "week           ?  due", "weight         ?"],
            ),
            (
                {"five_hour_utilization": 0, "five_hour_reset": NOW * 1000, "availability": 5},
                ["5 hours    0.0 %  unknown", "week           ?  unknown", "weight         ?"],
            ),
            (
                {"five_hour_utilization": 0, "availability": {"state": "us\x1b[2Jable"}},
                [
                    "5 hours    0.0 %  unknown",
                    "week           ?  unknown",
                    "weight         ?",
                    "state     us?[2Jable",
                ],
            ),
            (
                {"five_hour_utilization": 0, "availability": {"state": "usable", "reason": ""}},
                [
                    "5 hours    0.0 %  unknown",
                    "week           ?  unknown",
                    "weight         ?",
                    "state     usable",
                ],
            ),
        ):
            code, out, err = self.run_command("status", answer=self.answer(status))
            self.assertEqual((code, out.splitlines()[1:], err), (0, expected, ""))

    def test_urls(self) -> None:
        for url, watch, expected in (
            ("http://h:1", False, "http://h:1/ccm/v1/status"),
            ("https://h/", False, "https://h/ccm/v1/status"),
            ("https://h/prefix/", True, "https://h/prefix/ccm/v1/status?watch=true"),
            ("http://h:8081/ocm/v1/status", False, "http://h:8081/ocm/v1/status"),
        ):
            self.assertEqual(cli.status_url(url, watch), expected)
        for url in ("h", "ftp://h", "http://", "http://u:p4ss@h", "http://h?x"):
            code, out, err = self.run_command("status", "--url", url)
            self.assertEqual((code, out), (1, ""))
            self.assertTrue(err.startswith("ccmproxy: --url "), err)
            self.assertNotIn("p4ss", err)

    def test_tokens(self) -> None:
        path = self.file(f" {TOKEN}\n")
        for arguments in (("--token-env", "T"), ("--token-file", path)):
            code, out, err = self.run_command(
                "status", *arguments, answer=self.answer(STATUS), environ={"T": TOKEN}
            )
            self.assertEqual((code, err), (0, ""))
            self.assertEqual(self.instance.sent()["authorization"], f"Bearer {TOKEN}")
            self.assertNotIn(TOKEN, out)

    def test_wrong_tokens(self) -> None:
        bad, binary = self.file(f"{TOKEN} {TOKEN}"), self.file("ä")
        for arguments, expected in (
            (("--token-env", "GONE"), "the environment variable of --token-env is not set"),
            (("--token-env", "EMPTY"), "what was given as the token is not one"),
            (("--token-file", bad), "what was given as the token is not one"),
            (("--token-file", binary), "the file of --token-file cannot be read"),
            (("--token-file", "/does/not/exist"), "cannot be read: No such file or directory"),
        ):
            code, out, err = self.run_command("status", *arguments, environ={"EMPTY": ""})
            self.assertEqual((code, out), (1, ""))
            self.assertIn(expected, err)
            self.assertNotIn(TOKEN, err)

    def test_refusals(self) -> None:
        for status, expected in (
            (401, "did not accept the token"),
            (404, "there is no status at this address"),
            (500, "answered with status 500"),
        ):
            code, out, err = self.run_command("status", answer=(status, {}, b"{}"))
            self.assertEqual((code, out), (1, ""))
            self.assertIn(expected, err)

    def test_failures(self) -> None:
        untrusted = ssl.SSLCertVerificationError(1, "x")
        untrusted.verify_message = "self-signed certificate"
        for error, expected in (
            (urllib.error.URLError(ConnectionRefusedError(111, "Connection refused")), "Connection refused"),
            (urllib.error.URLError(untrusted), "its certificate is not valid (self-signed certificate)"),
            (TimeoutError("timed out"), "it did not answer in time"),
            (RemoteDisconnected("x"), "it closed the connection without an answer"),
            (BadStatusLine("SSH-2.0"), "does not speak HTTP"),
            (OSError("odd"), "cannot be reached: OSError"),
        ):
            code, out, err = self.run_command("status", answer=error)
            self.assertEqual((code, out), (1, ""))
            self.assertIn(expected, err)
            self.assertEqual(len(err.splitlines()), 1)

    def test_something_else_answers(self) -> None:
        for body in (b"<html>", b"[]", b"{}", b"5\n", b"\xff", b"{" * 70000, b"[" * 60000):
            code, _, err = self.run_command("status", answer=(200, {}, body))
            self.assertEqual(
                (code, err), (1, "ccmproxy: what answered is not ccmproxy: it did not send a status\n")
            )
        code, _, err = self.run_command("status", answer=(200, {}, b"\n"))
        self.assertEqual((code, err), (1, "ccmproxy: the instance answered without a status\n"))

    def test_watch(self) -> None:
        later = {**STATUS, "five_hour_utilization": 50}
        code, out, err = self.run_command("status", "--watch", answer=self.answer(STATUS, later))
        self.assertEqual((code, err), (1, "ccmproxy: the instance ended the connection\n"))
        self.assertEqual(
            [line[:16] for line in out.splitlines() if "hours" in line],
            ["5 hours   12.5 %", "5 hours   50.0 %"],
        )
        self.assertEqual(out.count("\n\n"), 1)
        self.assertTrue(self.instance.requests[0].full_url.endswith("?watch=true"))

    def test_redirect_does_not_take_the_token_along(self) -> None:
        class Redirect(Instance):
            def http_open(self, req: urllib.request.Request) -> Any:
                self.answer = (
                    (302, {"Location": "http://elsewhere.example/x"}, b"")
                    if not self.requests
                    else (200, {}, b"{}")
                )
                return super().http_open(req)

        instance = Redirect(AssertionError())
        terminal = cli.Terminal(io.StringIO(), io.StringIO(), {"T": TOKEN}, handlers=[instance])
        cli.main(["status", "--token-env", "T"], terminal)
        first, second = instance.requests
        self.assertIn(("Authorization", f"Bearer {TOKEN}"), first.header_items())
        self.assertNotIn(TOKEN, str(second.header_items()))

    def test_no_proxy_to_ourselves(self) -> None:
        self.patch(os, "environ", {**os.environ, "http_proxy": "http://proxy.example:3128", "no_proxy": ""})
        for url, host in (("http://127.0.0.1:1", "127.0.0.1:1"), ("http://h", "proxy.example:3128")):
            self.run_command("status", "--url", url, answer=self.answer(STATUS))
            self.assertEqual(self.instance.requests[0].host, host)


class MainTests(CommandTestCase):
    """The command as a whole."""

    def usage(self, *argv: str) -> tuple[object, str, str]:
        """Exit status and output of what argparse answers itself."""
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        with self.assertRaises(SystemExit) as caught:
            cli.main(argv)
        return caught.exception.code, out.getvalue(), err.getvalue()

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
        self.assertEqual(cli.main(terminal=cli.Terminal(out)), 0)
        self.assertIn('name: "bob"', out.getvalue())

    def interrupted(self, error: BaseException) -> int:
        """Exit status when printing raises ``error``."""

        class Broken(io.StringIO):
            def write(self, text: str) -> int:
                raise error

        return cli.main(["token"], cli.Terminal(Broken()))

    def test_interrupted(self) -> None:
        self.assertEqual(self.interrupted(KeyboardInterrupt()), 130)
        self.assertEqual(self.interrupted(BrokenPipeError()), 1)

    def test_demo(self) -> None:
        self.patch(demo, "add_arguments", lambda parser: parser.add_argument("--speed", type=int))
        self.patch(demo, "run", lambda args: args.speed)
        self.assertEqual(self.run_command("demo", "--speed", "5"), (5, "", ""))

    def test_demo_is_there(self) -> None:
        code, out, _ = self.usage("demo", "--help")
        self.assertEqual(code, 0)
        self.assertIn("usage: ccmproxy demo", out)
