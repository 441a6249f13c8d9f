"""The simulator as a program: writes the credential files of its accounts, and serves on a port until it is stopped."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint

from ccmproxy.simulator.claude.simulated_account import PLANS
from ccmproxy.simulator.claude.upstream import upstream_settings
from ccmproxy.simulator.codex.simulated_account import PLANS as CODEX_PLANS
from ccmproxy.simulator.codex.simulated_account import CodexAccount, OpenAIKey
from ccmproxy.simulator.codex.upstream import upstream_settings as codex_upstream_settings
from ccmproxy.simulator.faults import SCENARIOS
from ccmproxy.simulator.record import Record
from ccmproxy.simulator.server import Simulator
from ccmproxy.simulator.steps import Pace


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Exits with a message where it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m ccmproxy.simulator",
        description="Believable upstreams with accounts that fill up, for tests, demonstrations and benchmarks.",
    )
    parser.add_argument("--port", type=int, default=0, help="TCP port; 0 takes a free one (default)")
    parser.add_argument("--interface", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument(
        "--credentials-dir",
        type=Path,
        required=True,
        help="where to put each account's files: DIR/NAME/.credentials.json (Claude), DIR/NAME/auth.json (Codex),"
        " DIR/NAME/api-key",
    )
    parser.add_argument("--accounts", type=int, default=1, help="how many subscription accounts (default 1)")
    parser.add_argument(
        "--api-keys", type=int, default=0, help="how many keys of the commercial API (default 0)"
    )
    parser.add_argument("--plan", choices=sorted(PLANS), default="max_20x", help="plan of the accounts")
    parser.add_argument(
        "--codex-accounts", type=int, default=0, help="how many ChatGPT accounts for Codex (default 0)"
    )
    parser.add_argument(
        "--codex-plan", choices=sorted(CODEX_PLANS), default="pro", help="plan of the ChatGPT accounts"
    )
    parser.add_argument(
        "--openai-keys", type=int, default=0, help="how many keys of the OpenAI API (default 0)"
    )
    parser.add_argument(
        "--scenario", choices=sorted(SCENARIOS), default="calm", help="what goes wrong by itself"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides tokens, answers and faults (default 0)")
    parser.add_argument("--speed", type=float, default=1.0, help="how many times faster windows pass")
    parser.add_argument(
        "--first-token", type=float, default=0.0, metavar="SECONDS", help="before a stream's first event"
    )
    parser.add_argument(
        "--per-event", type=float, default=0.0, metavar="SECONDS", help="before each further event"
    )
    parser.add_argument(
        "--token-lifetime", type=float, default=28800.0, metavar="SECONDS", help="of access tokens"
    )
    return parser.parse_args(arguments)


def build(options: argparse.Namespace, reactor: Any) -> Simulator:
    """A simulator with its accounts, according to the options. It keeps no record, because nothing could read it."""
    simulator = Simulator(
        reactor,
        random.Random(options.seed),
        scenario=SCENARIOS[options.scenario],
        speed=options.speed,
        pace=Pace(options.first_token, options.per_event),
        record=Record(max_requests=0),
    )
    for _ in range(options.accounts):
        simulator.add_account(plan=options.plan, token_lifetime=options.token_lifetime)
    for _ in range(options.api_keys):
        simulator.add_api_key()
    for _ in range(options.codex_accounts):
        simulator.add_codex_account(plan=options.codex_plan, token_lifetime=options.token_lifetime)
    for _ in range(options.openai_keys):
        simulator.add_openai_key()
    return simulator


def write_credentials(simulator: Simulator, directory: Path) -> dict[str, str]:
    """Write every account's file, readable by its owner only; returns name → path. Raises OSError."""
    paths = {}
    for account in simulator.claude.accounts:
        path = directory / account.name / ".credentials.json"
        _write_secret(path, account.credentials_document())
        paths[account.name] = str(path)
    logins: list[CodexAccount | OpenAIKey] = [*simulator.codex.accounts, *simulator.codex.keys]
    for login in logins:
        path = directory / login.name / "auth.json"
        _write_secret(path, login.auth_document())
        paths[login.name] = str(path)
    for key in simulator.claude.keys:
        path = directory / key.name / "api-key"
        _write_secret(path, key.key.encode())
        paths[key.name] = str(path)
    return paths


def _write_secret(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


async def run(reactor: Any, *arguments: str) -> None:
    """Serve until the reactor stops. Prints the address and the credential files as one line of JSON."""
    options = parse_arguments(arguments)
    simulator = build(options, reactor)
    paths = write_credentials(simulator, options.credentials_dir)
    endpoint = TCP4ServerEndpoint(reactor, options.port, interface=options.interface)
    port = await endpoint.listen(simulator.factory)
    url = f"http://{port.getHost().host}:{port.getHost().port}"
    told = {
        "url": url,
        "upstream": upstream_settings(url),
        "codex_upstream": codex_upstream_settings(url),
        "credentials": paths,
    }
    print(json.dumps(told))
    sys.stdout.flush()
    await Deferred()
