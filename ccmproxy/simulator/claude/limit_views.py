"""An account's windows as seen from outside: rate-limit headers, usage and profile documents. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ccmproxy.http.message import Headers
from ccmproxy.simulator.claude.simulated_account import ApiKeyAccount, ClaudeAccount

_PREFIX = b"anthropic-ratelimit-unified-"

#: Window name → its name in headers.
ABBREVIATIONS = {
    "five_hour": b"5h",
    "seven_day": b"7d",
    "seven_day_opus": b"7d_opus",
    "seven_day_sonnet": b"7d_sonnet",
}

#: Fraction at which the upstream begins to warn.
_THRESHOLDS = {"five_hour": 0.9}
_WEEKLY_THRESHOLD = 0.75

#: Status below the threshold, above it, and when used up.
_STATUS = (b"allowed", b"allowed_warning", b"rejected")


def unified_headers(account: ClaudeAccount, model: str, now: float, full: str | None = None) -> Headers:
    """The ``anthropic-ratelimit-unified-*`` headers of a response about ``model``, and the organization's id.

    ``full``: name of a window that is reported as used up, whatever its real state. Utilization is a fraction, resets
    are Unix seconds.
    """
    headers: Headers = []
    highest, claim, reset = 0, "five_hour", 0.0
    for name in account.windows_for(model):
        utilization, resets_at = account.shown_window(name, now, full)
        threshold = _THRESHOLDS.get(name, _WEEKLY_THRESHOLD)
        part = _PREFIX + ABBREVIATIONS[name]
        rank = 2 if utilization >= 1.0 else int(utilization >= threshold)
        # Of two used-up windows, the one with the later reset determines when the account is usable again.
        if not reset or rank > highest or (rank == highest == 2 and resets_at > reset):
            highest, claim, reset = rank, name, resets_at
        headers += [
            (part + b"-status", _STATUS[rank]),
            (part + b"-reset", b"%d" % round(resets_at)),
            (part + b"-utilization", f"{round(utilization, 4):g}".encode()),
        ]
        if rank:
            surpassed = b"1" if rank == 2 else f"{threshold:g}".encode()
            headers.append((part + b"-surpassed-threshold", surpassed))
    return [
        (_PREFIX + b"status", _STATUS[highest]),
        *headers,
        (_PREFIX + b"representative-claim", claim.encode()),
        (_PREFIX + b"reset", b"%d" % round(reset)),
        (_PREFIX + b"fallback-percentage", b"0.5"),
        (_PREFIX + b"overage-status", b"rejected"),
        (_PREFIX + b"overage-disabled-reason", b"org_level_disabled"),
        (b"anthropic-organization-id", account.organization_uuid.encode()),
    ]


def key_headers(account: ApiKeyAccount) -> Headers:
    """The rate-limit headers of the commercial API: requests and tokens per minute, resets in RFC 3339."""
    reset = _rfc3339(account.allowance()[1]).encode()
    headers: Headers = []
    for kind, limit, left in account.quotas():
        part = f"anthropic-ratelimit-{kind}".encode()
        headers += [
            (part + b"-limit", b"%d" % limit),
            (part + b"-remaining", b"%d" % left),
            (part + b"-reset", reset),
        ]
    return [*headers, (b"anthropic-organization-id", account.organization_uuid.encode())]


def usage_document(account: ClaudeAccount, now: float) -> dict[str, Any]:
    """The response to ``GET /api/oauth/usage``: utilization in percent, resets in RFC 3339 or null."""
    document: dict[str, Any] = {}
    for name in ABBREVIATIONS:
        document[name] = None
        if (window := account.windows.get(name)) is not None:
            utilization = round(window.utilization(now) * 100, 1)
            reset = None if window.resets_at is None else _rfc3339(window.resets_at)
            document[name] = {"utilization": utilization, "resets_at": reset}
    document["seven_day_oauth_apps"] = None
    document["extra_usage"] = {
        "is_enabled": False,
        "monthly_limit": None,
        "used_credits": None,
        "utilization": None,
    }
    return document


def profile_document(account: ClaudeAccount) -> dict[str, Any]:
    """The response to ``GET /api/oauth/profile``."""
    plan = account.plan
    return {
        "account": {
            "uuid": account.uuid,
            "full_name": account.name.title(),
            "display_name": account.name.title(),
            "email": account.email,
            "has_claude_max": plan.subscription_type == "max",
            "has_claude_pro": plan.subscription_type == "pro",
            "created_at": "2025-01-01T00:00:00.000000Z",
        },
        "organization": {
            "uuid": account.organization_uuid,
            "name": f"{account.email}'s Organization",
            "organization_type": plan.organization_type,
            "billing_type": "stripe_subscription",
            "rate_limit_tier": plan.rate_limit_tier,
            "has_extra_usage_enabled": False,
            "subscription_status": "active",
        },
        "application": {"name": "Claude Code", "slug": "claude-code"},
    }


def _rfc3339(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).isoformat()
