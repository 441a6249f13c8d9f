"""``ccmproxy status``: asking, and what may go wrong."""

from __future__ import annotations

import io
import os
import ssl
import urllib.error
import urllib.request
import urllib.response
from http.client import BadStatusLine, RemoteDisconnected
from typing import Any

from ccmproxy._version import __version__
from ccmproxy.surfaces.cli import main
from ccmproxy.surfaces.cli.show_status import status_url
from ccmproxy.surfaces.cli.terminal import Terminal
from tests.surfaces.cli.commanding import STATUS, TOKEN, CommandTestCase, Instance, statuses


class StatusTests(CommandTestCase):
    """ccmproxy status"""

    def test_request(self) -> None:
        self.run_command("status", answer=statuses(STATUS))
        (request,) = self.instance.requests
        self.assertEqual(request.full_url, "http://127.0.0.1:8080/ccm/v1/status")
        self.assertEqual(self.instance.sent()["user-agent"], f"ccmproxy/{__version__}")
        self.assertNotIn("authorization", self.instance.sent())

    def test_urls(self) -> None:
        for url, watch, expected in (
            ("http://h:1", False, "http://h:1/ccm/v1/status"),
            ("https://h/", False, "https://h/ccm/v1/status"),
            ("https://h/prefix/", True, "https://h/prefix/ccm/v1/status?watch=true"),
            ("http://h:8081/ocm/v1/status", False, "http://h:8081/ocm/v1/status"),
        ):
            self.assertEqual(status_url(url, watch), expected)
        for url in ("h", "ftp://h", "http://", "http://u:p4ss@h", "http://h?x"):
            code, out, err = self.run_command("status", "--url", url)
            self.assertEqual((code, out), (1, ""))
            self.assertTrue(err.startswith("ccmproxy: --url "), err)
            self.assertNotIn("p4ss", err)

    def test_tokens(self) -> None:
        path = self.file(f" {TOKEN}\n")
        for arguments in (("--token-env", "T"), ("--token-file", path)):
            code, out, err = self.run_command(
                "status", *arguments, answer=statuses(STATUS), environ={"T": TOKEN}
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
        code, out, err = self.run_command("status", "--watch", answer=statuses(STATUS, later))
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
        terminal = Terminal(io.StringIO(), io.StringIO(), {"T": TOKEN}, handlers=[instance])
        main(["status", "--token-env", "T"], terminal)
        first, second = instance.requests
        self.assertIn(("Authorization", f"Bearer {TOKEN}"), first.header_items())
        self.assertNotIn(TOKEN, str(second.header_items()))

    def test_no_proxy_to_ourselves(self) -> None:
        self.patch(os, "environ", {**os.environ, "http_proxy": "http://proxy.example:3128", "no_proxy": ""})
        for url, host in (("http://127.0.0.1:1", "127.0.0.1:1"), ("http://h", "proxy.example:3128")):
            self.run_command("status", "--url", url, answer=statuses(STATUS))
            self.assertEqual(self.instance.requests[0].host, host)
