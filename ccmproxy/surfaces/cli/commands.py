"""The ``ccmproxy`` command: check a configuration, make a token, look at a running instance, see it all work.

Each command prints what was asked for to standard output and sentences about what went wrong to standard error, and
ends with 0 or 1 (2: wrong usage; 130: interrupted).
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPException, RemoteDisconnected
from typing import Any, TextIO
from urllib.parse import urlsplit

from ccmproxy._version import __version__
from ccmproxy.config import Config, ConfigurationError, ServiceConfig, json_schema, load, readable_by_others
from ccmproxy.config.addresses import is_loopback, parse_url
from ccmproxy.config.reference import markdown
from ccmproxy.state.durations import format_duration

#: Where an instance is unless it was told otherwise (spec 1).
DEFAULT_URL = "http://127.0.0.1:8080"
STATUS_PATH = "/ccm/v1/status"
#: Bytes of one line of a status; more is not one.
LONGEST_STATUS = 64 * 1024
#: Seconds to wait for a status. A watched one may be silent for as long as nothing changes.
STATUS_TIMEOUT = 10.0
#: Unix seconds; later ones are no dates (and no percentages either).
LAST_SECOND = 1e11
#: Bytes of randomness in a token.
TOKEN_SIZE = 32


class CommandError(Exception):
    """A command cannot do what it was asked. ``str()`` is a sentence for the operator, without secrets."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """What a command uses of the outside, so that it can be run without.

    ``now``: Unix seconds. ``make_token``: bytes of randomness → a URL-safe text. ``handlers``: what urllib opens URLs
    with besides its own.
    """

    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    now: Callable[[], float] = lambda: datetime.now(UTC).timestamp()
    make_token: Callable[[int], str] = secrets.token_urlsafe
    handlers: Sequence[urllib.request.BaseHandler] = ()

    def say(self, line: str) -> None:
        """A line of what was asked for, out at once."""
        print(line, file=self.out, flush=True)

    def complain(self, line: str) -> None:
        """A line about what is wrong."""
        print(line, file=self.err, flush=True)


def main(argv: Sequence[str] | None = None, terminal: Terminal | None = None) -> int:
    """Run the command that ``argv`` (default: the process's) names. The result is the exit status.

    Raises SystemExit for ``--help``, ``--version`` and wrong usage, as argparse does.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    terminal = terminal or Terminal()
    try:
        args = _parser(arguments).parse_args(arguments)
        run: Callable[[argparse.Namespace, Terminal], int] = args.command
        return run(args, terminal)
    except CommandError as error:
        terminal.complain(f"ccmproxy: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has seen enough; leave nothing for the interpreter to flush at exit.
        if terminal.out is sys.stdout:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccmproxy",
        description="One address for a team's Claude Code and Codex clients, over your own accounts.",
        epilog="The proxy itself is run with: twistd -n ccmproxy --config FILE",
    )
    parser.add_argument("--version", action="version", version=f"ccmproxy {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    check = commands.add_parser(
        "check", help="check a configuration file", description="Check a configuration file."
    )
    check.add_argument("file", metavar="FILE")
    check.set_defaults(command=run_check)

    schema = commands.add_parser(
        "schema",
        help="print a JSON schema of the configuration, for editors",
        description="Print a JSON schema of the configuration file.",
    )
    schema.add_argument("--markdown", action="store_true", help="print the reference of all options instead")
    schema.set_defaults(command=run_schema)

    token = commands.add_parser(
        "token",
        help="make a token for a user",
        description="Make a token, and print the lines for the configuration.",
    )
    token.add_argument("name", metavar="NAME", nargs="?", default="NAME", help="the user's name")
    token.set_defaults(command=run_token)

    status = commands.add_parser(
        "status",
        help="show the state of a running instance",
        description="Show what a running instance tells its users: how much of the pool is used, and when that resets.",
    )
    status.add_argument("--url", default=DEFAULT_URL, help=f"where the instance is (default: {DEFAULT_URL})")
    source = status.add_mutually_exclusive_group()
    source.add_argument("--token-env", metavar="NAME", help="the environment variable with the token to show")
    source.add_argument("--token-file", metavar="FILE", help="the file with the token to show")
    status.add_argument("--watch", action="store_true", help="go on, and show every change")
    status.set_defaults(command=run_status)

    demo = commands.add_parser(
        "demo",
        help="run everything against a simulated upstream",
        description="Run the proxy against a simulator.",
    )
    demo.set_defaults(command=run_demo)
    if "demo" in arguments[:1]:  # only then is what it needs loaded
        from ccmproxy.demo.show import add_arguments

        add_arguments(demo)
    return parser


# check ----------------------------------------------------------------------------------------------------


def run_check(args: argparse.Namespace, terminal: Terminal) -> int:
    """``ccmproxy check FILE``: all problems, or a summary."""
    try:
        config = load(args.file, environ=terminal.environ)
    except ConfigurationError as error:
        for problem in error.problems:
            terminal.complain(str(problem))
        return 1
    terminal.say(f"{args.file}: ok")
    for service in config.services:
        terminal.say(f"  {describe_service(service)}")
    for warning in warnings(config):
        terminal.complain(f"warning: {warning}")
    return 0


def describe_service(service: ServiceConfig) -> str:
    """One line for people: type, address, credentials and users."""
    tags = [each.tag for each in service.credentials]
    tags += [each.tag for each in service.externals]
    tags += [each.tag for each in service.pools]
    noun = "credential" if len(tags) == 1 else "credentials"
    users = ", ".join(user.name for user in service.users)
    who = f"users {users}" if users else "no users: everybody who reaches this address may use it"
    return f"{service.type} on {service.address}: {noun} {', '.join(tags)}; {who}"


def warnings(config: Config) -> Iterator[str]:
    """What is not wrong, but not safe either."""
    for path in readable_by_others(config):
        yield f"{path} can be read by every user of this machine: chmod 600 it"


# schema and token -----------------------------------------------------------------------------------------


def run_schema(args: argparse.Namespace, terminal: Terminal) -> int:
    """``ccmproxy schema``: the JSON schema, or the reference in Markdown."""
    terminal.say(
        markdown().rstrip() if args.markdown else json.dumps(json_schema(), indent=2, ensure_ascii=False)
    )
    return 0


def run_token(args: argparse.Namespace, terminal: Terminal) -> int:
    """``ccmproxy token [NAME]``: a new token as lines of YAML."""
    if not args.name.strip() or not args.name.isprintable():
        raise CommandError("the name must be printable characters")
    token = terminal.make_token(TOKEN_SIZE)
    terminal.say('# under "users:" of a service; the user\'s client sends the token as ANTHROPIC_AUTH_TOKEN')
    terminal.say(f"- name: {json.dumps(args.name, ensure_ascii=False)}")
    terminal.say(f'  token: "{token}"')
    return 0


# status ---------------------------------------------------------------------------------------------------


def run_status(args: argparse.Namespace, terminal: Terminal) -> int:
    """``ccmproxy status``: a table of the aggregate, once or at every change."""
    request = urllib.request.Request(status_url(args.url, args.watch))
    request.add_header("User-Agent", f"ccmproxy/{__version__}")
    request.add_header("Accept", "application/json")
    token = _read_token(args, terminal.environ)
    if token:
        # Not among the ordinary headers: a redirect to somewhere else must not take the token with it.
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
    """The address of the status of the instance at ``base``, which may be that address already.

    Raises CommandError.
    """
    try:
        parts = parse_url(base)
    except ValueError as error:
        raise CommandError(f"--url {error}") from None
    path = parts.path.rstrip("/")
    if not path.endswith("/status"):
        path += STATUS_PATH
    return parts._replace(path=path, query="watch=true" if watch else "").geturl()


def format_status(status: Mapping[str, Any], now: float) -> Iterator[str]:
    """Lines for people. ``now`` in Unix seconds."""
    yield f"{'window':8}{'used':>8}  resets"
    for title, name in (("5 hours", "five_hour"), ("week", "weekly")):
        used = _number(status.get(f"{name}_utilization"))
        yield f"{title:8}{f'{used:.1f} %' if used is not None else '?':>8}  {_reset(status.get(f'{name}_reset'), now)}"
    weight = _number(status.get("plan_weight"))
    yield f"{'weight':8}{f'{weight:g}' if weight is not None else '?':>8}"
    availability = status.get("availability")
    if isinstance(availability, Mapping):
        state = str(availability.get("state", "unknown")).replace("_", " ")
        reason = str(availability.get("reason") or "").replace("_", " ")
        reset = _number(availability.get("reset_at"))
        line = f"{'state':10}{state}"
        if reason and reason != state:
            line += f" ({reason})"
        if reset:
            line += f", {_reset(reset, now)}"
        yield _printable(line)


def _statuses(
    request: urllib.request.Request, watch: bool, terminal: Terminal
) -> Iterator[Mapping[str, Any]]:
    handlers = list(terminal.handlers)
    if is_loopback(urlsplit(request.full_url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))  # no proxy stands between us and ourselves
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


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LAST_SECOND:
        return float(value)
    return None


def _reset(value: object, now: float) -> str:
    at = _number(value)
    if not at:
        return "unknown"
    if at <= now:
        return "due"
    when = datetime.fromtimestamp(at).astimezone()
    return f"in {format_duration(at - now)} ({when:%a %H:%M})"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


# demo -----------------------------------------------------------------------------------------------------


def run_demo(args: argparse.Namespace, terminal: Terminal) -> int:
    """``ccmproxy demo``: see :mod:`ccmproxy.demo.show`."""
    from ccmproxy.demo.show import run

    return run(args)
