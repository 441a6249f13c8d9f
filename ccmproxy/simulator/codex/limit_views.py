"""An account's windows as seen from outside: headers, the event in streams, the usage document. Pure."""

from __future__ import annotations

import math
from typing import Any

from ccmproxy.http.message import Headers
from ccmproxy.simulator.codex.simulated_account import USUAL_LIMIT, CodexAccount, OpenAIKey

#: Names of the windows in headers and events.
KINDS = ("primary", "secondary")


def window_states(
    account: CodexAccount, limit: str, now: float, full: str | None = None
) -> dict[str, dict[str, Any]]:
    """``primary`` and ``secondary`` of a limit: percent used, length in minutes, reset in Unix seconds.

    ``full``: name of a window that is reported as used up, whatever its real state.
    """
    states = {}
    for kind, name in zip(KINDS, account.windows_of(limit), strict=True):
        utilization, resets_at = account.shown_window(name, now, full)
        states[kind] = {
            "used_percent": round(utilization * 100.0, 1),
            "window_minutes": math.ceil(account.windows[name].length / 60),
            "reset_at": round(resets_at),
        }
    return states


def limit_headers(account: CodexAccount, model: str, now: float, full: str | None = None) -> Headers:
    """The rate-limit headers of a response about ``model``: the usual limit, the named ones, the credits."""
    headers: Headers = [
        (b"x-codex-plan-type", account.plan.encode()),
        (b"x-codex-active-limit", account.limit_for(model).encode()),
    ]
    for limit in (USUAL_LIMIT, *account.named_limits):
        prefix = "x-" + limit.replace("_", "-")
        for kind, state in window_states(account, limit, now, full).items():
            reset_after = max(0, round(state["reset_at"] - now))
            headers += [
                (f"{prefix}-{kind}-used-percent".encode(), f"{state['used_percent']:g}".encode()),
                (f"{prefix}-{kind}-window-minutes".encode(), b"%d" % state["window_minutes"]),
                (f"{prefix}-{kind}-reset-at".encode(), b"%d" % state["reset_at"]),
                (f"{prefix}-{kind}-reset-after-seconds".encode(), b"%d" % reset_after),
            ]
        if limit != USUAL_LIMIT:
            name = account.named_limits[limit].name
            headers.append((f"{prefix}-limit-name".encode(), name.encode()))
    credits = account.credits
    return [
        *headers,
        (b"x-codex-credits-has-credits", str(credits.has_credits).encode()),
        (b"x-codex-credits-unlimited", str(credits.unlimited).encode()),
        (b"x-codex-credits-balance", _balance(account).encode()),
    ]


def limits_event(account: CodexAccount, model: str, now: float) -> dict[str, Any]:
    """The ``codex.rate_limits`` event about the limit that ``model`` draws on."""
    limit = account.limit_for(model)
    named = account.named_limits.get(limit)
    states = window_states(account, limit, now)
    reached = any(state["used_percent"] >= 100.0 for state in states.values())
    return {
        "type": "codex.rate_limits",
        "plan_type": account.plan,
        "metered_limit_name": limit,
        "limit_name": None if named is None else named.name,
        "rate_limits": {"allowed": not reached, "limit_reached": reached, **states},
        "credits": _credits(account),
    }


def usage_document(account: CodexAccount, now: float) -> dict[str, Any]:
    """The response to ``GET /backend-api/wham/usage``."""
    additional = [
        {
            "limit_name": limit.name,
            "metered_feature": limit.identity,
            "rate_limit": _rate_limit(account, limit.identity, now),
        }
        for limit in account.named_limits.values()
    ]
    usual = _rate_limit(account, USUAL_LIMIT, now)
    return {
        "user_id": f"user-{account.uuid}",
        "account_id": account.account_id,
        "email": account.email,
        "plan_type": account.plan,
        "rate_limit": usual,
        "additional_rate_limits": additional or None,
        "credits": {**_credits(account), "approx_local_messages": [0, 0], "approx_cloud_messages": [0, 0]},
        "spend_control": None,
        "rate_limit_reached_type": {"type": "rate_limit_reached"} if usual["limit_reached"] else None,
    }


def key_headers(key: OpenAIKey, now: float) -> Headers:
    """The rate-limit headers of the OpenAI API: requests and tokens per minute, durations until the reset."""
    reset = f"{max(0.0, key.allowance()[1] - now):.3g}s".encode()
    headers: Headers = []
    for kind, limit, left in key.quotas():
        headers += [
            (f"x-ratelimit-limit-{kind}".encode(), b"%d" % limit),
            (f"x-ratelimit-remaining-{kind}".encode(), b"%d" % left),
            (f"x-ratelimit-reset-{kind}".encode(), reset),
        ]
    return [*headers, (b"openai-organization", f"org-{key.organization_uuid}".encode())]


def _rate_limit(account: CodexAccount, limit: str, now: float) -> dict[str, Any]:
    states = window_states(account, limit, now)
    reached = any(state["used_percent"] >= 100.0 for state in states.values())
    windows = {
        f"{kind}_window": {
            "used_percent": math.floor(state["used_percent"]),
            "limit_window_seconds": state["window_minutes"] * 60,
            "reset_after_seconds": max(0, round(state["reset_at"] - now)),
            "reset_at": state["reset_at"],
        }
        for kind, state in states.items()
    }
    return {"allowed": not reached, "limit_reached": reached, **windows}


def _credits(account: CodexAccount) -> dict[str, Any]:
    credits = account.credits
    return {
        "has_credits": credits.has_credits,
        "unlimited": credits.unlimited,
        "balance": _balance(account),
    }


def _balance(account: CodexAccount) -> str:
    return f"{account.credits.balance:.2f}"
