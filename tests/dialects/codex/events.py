"""Events of Codex's streams, as the upstream writes them."""

from __future__ import annotations

import json

from ccmproxy.dialects.usage import Tokens

NOW = 1_795_000_000.0
SHORT_RESET = int(NOW) + 3600
WEEKLY_RESET = int(NOW) + 3 * 86400


def rate_limits(**changes: object) -> dict[str, object]:
    """The upstream's event (client-observed shape)."""
    return {
        "type": "codex.rate_limits",
        "plan_type": "team",
        "metered_limit_name": "codex",
        "limit_name": None,
        "rate_limits": {
            "primary": {"used_percent": 13.5, "window_minutes": 300, "reset_at": SHORT_RESET},
            "secondary": {"used_percent": 35.0, "window_minutes": 10080, "reset_at": WEEKLY_RESET},
        },
        "credits": {"has_credits": True, "unlimited": False, "balance": "5.00"},
        **changes,
    }


def event(kind: str, named: bool = True, **data: object) -> bytes:
    """One event as the upstream writes it; ``named``: with an ``event`` field."""
    line = f"event: {kind}\n" if named else ""
    return f"{line}data: {json.dumps({'type': kind, **data}, ensure_ascii=False)}\n\n".encode()


USAGE = {
    "input_tokens": 1000,
    "input_tokens_details": {"cached_tokens": 900},
    "output_tokens": 55,
    "output_tokens_details": {"reasoning_tokens": 30},
    "total_tokens": 1055,
}
CREATED = event("response.created", response={"id": "r", "model": "gpt-5.4", "usage": None, "error": None})
TEXT = event("response.output_text.delta", delta="»error« response.completed ✓\n\nevent: error")
LIMITS = b"event: codex.rate_limits\ndata: " + json.dumps(rate_limits()).encode() + b"\n\n"
COMPLETED = event(
    "response.completed",
    response={"model": "gpt-5.4-2026", "service_tier": "default", "usage": USAGE, "status": "completed"},
)
STREAM = CREATED + LIMITS + TEXT + COMPLETED
TOKENS = Tokens(input=100, output=55, cache_read=900, reasoning=30)
CHAT_USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 55,
    "prompt_tokens_details": {"cached_tokens": 900},
    "completion_tokens_details": {"reasoning_tokens": 30},
}
