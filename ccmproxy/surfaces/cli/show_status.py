"""``ccmproxy status``: shows the status that a running instance reports to its users."""

from __future__ import annotations

import argparse
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.client import HTTPException, RemoteDisconnected
from typing import Any
from urllib.parse import urlsplit

from ccmproxy._version import __version__
from ccmproxy.config.addresses import is_loopback, parse_url
from ccmproxy.surfaces.cli.status_table import format_status
from ccmproxy.surfaces.cli.terminal import CommandError, Commands, Terminal

#: Default address of an instance (spec 1).
DEFAULT_URL = "http://127.0.0.1:8080"
STATUS_PATH = "/ccm/v1/status"
#: Longest line of a status (bytes); anything longer is not a status.
LONGEST_STATUS = 64 * 1024
#: Seconds to wait for a status. A watched instance may be silent for as long as nothing changes.
STATUS_TIMEOUT = 10.0


def add_command(commands: Commands) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "status",
        help="show the state of a running instance",
        description="Show what a running instance tells its users: how much of the pool is used, and when that resets.",
    )
    parser.add_argument("--url", default=DEFAULT_URL, help=f"where the instance is (default: {DEFAULT_URL})")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--token-env", metavar="NAME", help="the environment variable with the token to show")
    source.add_argument("--token-file", metavar="FILE", help="the file with the token to show")
    parser.add_argument("--watch", action="store_true", help="go on, and show every change")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """``ccmproxy status``: print a table of the aggregate, once or at every change.

    Raises CommandError if there is no token, if no status can be read, and when a watched instance closes the
    connection.
    """
    request = urllib.request.Request(status_url(args.url, args.watch))
    request.add_header("User-Agent", f"ccmproxy/{__version__}")
    request.add_header("Accept", "application/json")
    token = _read_token(args, terminal.environ)
    if token:
        # Not one of the ordinary headers, because a redirect to another host must not carry the token along.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    first = True
    for status in _statuses(request, args.watch, terminal):
        if not first:
            terminal.say("")
        first = False
        for line in format_status(status, terminal.now()):
            terminal.say(line)
    if first:
        raise CommandError("the instance answered without a status")
    if args.watch:
        raise CommandError("the instance ended the connection")
    return 0


def status_url(base: str, watch: bool) -> str:
    """The status URL of the instance at ``base``, which may already be the status URL.

    Raises CommandError if ``base`` is not an HTTP URL.
    """
    try:
        parts = parse_url(base)
    except ValueError as error:
        raise CommandError(f"--url {error}") from None
    path = parts.path.rstrip("/")
    if not path.endswith("/status"):
        path += STATUS_PATH
    return parts._replace(path=path, query="watch=true" if watch else "").geturl()


def _statuses(
    request: urllib.request.Request, watch: bool, terminal: Terminal
) -> Iterator[Mapping[str, Any]]:
    handlers = list(terminal.handlers)
    if is_loopback(urlsplit(request.full_url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))  # no proxy for an instance on this machine
    opener = urllib.request.build_opener(*handlers)
    try:
        with closing(opener.open(request, timeout=None if watch else STATUS_TIMEOUT)) as response:
            while line := response.readline(LONGEST_STATUS + 1):
                if line.strip():
                    yield _parse_status(line)
    except urllib.error.HTTPError as error:
        with closing(error):
            raise CommandError(_refusal(error.code)) from None
    except (OSError, ValueError) as error:
        raise CommandError(f"the instance at {request.host} cannot be reached: {_reason(error)}") from None
    except HTTPException:
        raise CommandError(f"what answers at {request.host} does not speak HTTP, or broke off") from None


def _parse_status(line: bytes) -> Mapping[str, Any]:
    try:
        status = json.loads(line) if len(line) <= LONGEST_STATUS else None
    except (ValueError, RecursionError):
        status = None
    if not isinstance(status, Mapping) or "five_hour_utilization" not in status:
        raise CommandError("what answered is not ccmproxy: it did not send a status")
    return status


def _refusal(code: int) -> str:
    if code in (401, 403):
        return "the instance did not accept the token (give one with --token-env or --token-file)"
    if code == 404:
        return "what answered is not ccmproxy, or not the service that was meant: there is no status at this address"
    return f"the instance answered with status {code}"


def _reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({reason.verify_message})"
    if isinstance(reason, RemoteDisconnected):
        return "it closed the connection without an answer"
    if isinstance(reason, TimeoutError):
        return "it did not answer in time"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return type(reason).__name__


def _read_token(args: argparse.Namespace, environ: Mapping[str, str]) -> str | None:
    if args.token_env is not None:
        token = environ.get(args.token_env)
        if token is None:
            raise CommandError("the environment variable of --token-env is not set")
    elif args.token_file is not None:
        try:
            with open(args.token_file, encoding="ascii") as file:
                token = file.read(LONGEST_STATUS)
        except (OSError, ValueError) as error:
            raise CommandError(f"the file of --token-file cannot be read: {_reason(error)}") from None
    else:
        return None
    token = token.strip()
    if not token or any(not "!" <= character <= "~" for character in token):
        raise CommandError("what was given as the token is not one: it must be printable ASCII characters")
    return token
