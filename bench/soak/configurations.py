"""The configurations of the daemon and of the lender: two services each, and a reverse connection for each. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: Time-outs of both, short enough that each kind of them is met many times in a run.
_TIMEOUTS = """\
      connect_timeout: 5s
      first_byte_timeout: 8s
      idle_timeout: 8s
    head_timeout: 10s
    body_timeout: 10s
    keepalive_timeout: 30s
    client_stall_timeout: 60s
"""


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything is. ``ports``: by name: ``claude``, ``codex``, ``lender claude``, ``lender codex``, ``extra``.

    ``logins``: name of an account → its file. ``upstream``: URL of the simulator. ``tokens``: of each user, and
    ``lender`` for the reverse connections.
    """

    ports: Mapping[str, int]
    logins: Mapping[str, Path]
    upstream: str
    tokens: Mapping[str, str]


def daemon(places: Places, variant: int) -> str:
    """Return the configuration of the daemon. Each variant differs from the one before in several ways.

    A reload to the next one changes time-outs and a pool, adds or removes a user, a member of the pool and a whole
    service.
    """
    odd = variant % 2 == 1
    members = ["own-1", "own-2", *(["own-3"] if odd else []), "lender"]
    tokens = places.tokens
    text = f"""\
log: {{level: {"info" if variant % 4 < 2 else "debug"}}}
shutdown_grace: 5s
services:
  - type: ccm
    tag: claude
    listen_port: {places.ports["claude"]}
    credentials:
{_logins(places, ("own-1", "own-2", "own-3"))}
      - {{tag: lender, type: external, token: {tokens["lender"]}}}
      - tag: pool
        type: balancer
        credentials: [{", ".join(members)}]
        strategy: {("least-used", "round-robin", "random")[variant % 3]}
        patience: {0 if variant % 3 == 1 else 2}s
    users:
      - {{name: alice, token: {tokens["alice"]}, credential: pool, allow_external_usage: true}}
      - {{name: bob, token: {tokens["bob"]}, credential: own-1}}
      - {{name: borrower, token: {tokens["borrower"]}, credential: lender, allow_external_usage: true}}
{_extra_user(odd)}    ping_interval: {2 if odd else 0}
    upstream:
{_urls(places, "claude")}{_TIMEOUTS}
  - type: ocm
    tag: codex
    listen_port: {places.ports["codex"]}
    credentials:
{_logins(places, ("codex-own-1", "codex-own-2"))}
      - {{tag: lender, type: external, token: {tokens["lender"]}}}
      - tag: pool
        type: balancer
        credentials: [codex-own-1, codex-own-2{", lender" if odd else ""}]
    users:
      - {{name: carol, token: {tokens["carol"]}, credential: pool, allow_external_usage: true}}
      - {{name: borrower, token: {tokens["borrower"]}, credential: lender, allow_external_usage: true}}
    ping_interval: {0 if odd else 2}
    upstream:
{_urls(places, "codex")}{_TIMEOUTS}"""
    if odd:
        text += f"""
  - type: ccm
    tag: extra
    listen_port: {places.ports["extra"]}
    credential_path: {places.logins["own-1"]}
    users: [{{name: extra, token: {tokens["extra"]}}}]
    upstream:
{_urls(places, "claude")}"""
    return text


def _extra_user(is_there: bool) -> str:
    return (
        "      - {name: guest, token: the-token-of-a-guest-who-comes-and-goes, credential: own-2}\n"
        if is_there
        else ""
    )


def lender(places: Places) -> str:
    """Return the configuration of the lender, which lends one account of each provider over reverse connections."""
    token = places.tokens["lender"]
    return """\
shutdown_grace: 2s
services:
""" + "".join(
        f"""\
  - type: {kind}
    tag: {service}
    listen_port: {places.ports[f"lender {service}"]}
    credentials:
{_logins(places, (account,))}
      - tag: borrower
        type: external
        url: http://127.0.0.1:{places.ports[service]}
        reverse: true
        token: {token}
    users:
      - {{name: instance, token: {token}, credential: {account}}}
    upstream:
{_urls(places, service)}{_TIMEOUTS}
"""
        for kind, service, account in (("ccm", "claude", "lent"), ("ocm", "codex", "codex-lent"))
    )


def _logins(places: Places, names: tuple[str, ...]) -> str:
    return "\n".join(f"      - {{tag: {name}, credential_path: {places.logins[name]}}}" for name in names)


def _urls(places: Places, service: str) -> str:
    url = places.upstream
    if service == "claude":
        urls = {
            "api_url": url,
            "token_url": f"{url}/v1/oauth/token",
            "usage_url": f"{url}/api/oauth/usage",
            "profile_url": f"{url}/api/oauth/profile",
        }
    else:
        urls = {
            "api_url": f"{url}/backend-api/codex",
            "token_url": f"{url}/oauth/token",
            "usage_url": f"{url}/backend-api/wham/usage",
        }
    return "".join(f"      {name}: {value}\n" for name, value in urls.items())
