"""Runs commands without a terminal. Instances are played by urllib handlers in memory."""

from __future__ import annotations

import email.message
import io
import json
import os
import sys
import urllib.error
import urllib.request
import urllib.response
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.surfaces.cli import main
from ccmproxy.surfaces.cli.terminal import Terminal

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
        terminal = Terminal(
            out,
            err,
            {"HOME": "/home/alice"} if environ is None else environ,
            lambda: NOW,
            lambda size: f"random-{size}",
            [self.instance],
        )
        return main(argv, terminal), out.getvalue(), err.getvalue()

    def usage(self, *argv: str) -> tuple[object, str, str]:
        """Exit status and output of what argparse answers itself."""
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        with self.assertRaises(SystemExit) as caught:
            main(argv)
        return caught.exception.code, out.getvalue(), err.getvalue()

    def file(self, content: str, mode: int = 0o600) -> str:
        """A file, as its path."""
        path: str = self.mktemp()
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(path, mode)
        return path


def statuses(*objects: object) -> tuple[int, dict[str, str], bytes]:
    """The answer of an instance: 200, with one line for each status."""
    return (
        200,
        {"Content-Type": "application/json"},
        b"".join(json.dumps(each).encode() + b"\n" for each in objects),
    )
