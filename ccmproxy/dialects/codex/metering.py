"""Codex's limits: read from headers and events, rewritten for clients to the pool's aggregate (spec 4.5, 4.7, 8.3)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import ceil, floor
from typing import Any

from zope.interface import implementer

from ccmproxy.dialects.account_fields import replace_account_fields
from ccmproxy.dialects.codex.usage_meters import ChatMeter, ResponsesMeter, read_completion, read_response
from ccmproxy.dialects.codex.windows import OWN_LIMIT, limits_update, read_credits, read_event, read_headers
from ccmproxy.dialects.event_rewriter import EventRewriter
from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.json_values import json_object
from ccmproxy.dialects.meters import fitting_meter, is_readable, media_type
from ccmproxy.dialects.usage import UsageMeter
from ccmproxy.http.message import Headers, ResponseHead, first_value
from ccmproxy.interfaces.facets import IMetering
from ccmproxy.state.aggregate import Aggregate
from ccmproxy.state.limits import (
    LARGEST_WEIGHT,
    NOTHING_SAID,
    SHORT_WINDOW,
    WEEKLY_WINDOW,
    LimitsUpdate,
    finite_number,
    parse_weight,
)

#: Operations whose responses report usage, as named in :class:`ccmproxy.dialects.facts.RequestFacts`.
RESPONSES = "responses"
COMPACT = "responses/compact"
CHAT = "chat/completions"
#: The event that reports the state of one account.
RATE_LIMITS = b"codex.rate_limits"

#: Named to clients in the place of an account's plan: the sentence that they show for it sends people to their
#: administrator, who runs this proxy, and not to a shop (observed).
TOLD_PLAN = "team"

#: Fields that describe one account (spec 8.3), including its plan and the reason for its refusals.
_ACCOUNT_FIELD = re.compile(
    rb"x-codex-(?:active-limit|plan-type|promo-message|rate-limit-reached-type|credits-.*)"
    rb"|x-.*-(?:primary|secondary)-.*|x-.*-limit-name|x-ocm-plan-weight"
)
#: The header field in which another instance reports its plan weight.
PLAN_WEIGHT = b"x-ocm-plan-weight"


def aggregate_headers(aggregate: Aggregate) -> Headers:
    """The state of the whole pool as the header fields of a single account (spec 8.3)."""
    fields: Headers = []
    for place, window in _windows(aggregate).items():
        prefix = f"x-codex-{place}-"
        fields.append((f"{prefix}used-percent".encode(), f"{window['used_percent']:.2f}".encode()))
        fields.append((f"{prefix}window-minutes".encode(), str(window["window_minutes"]).encode()))
        if "reset_at" in window:
            fields.append((f"{prefix}reset-at".encode(), str(window["reset_at"]).encode()))
    fields.append((b"X-OCM-Plan-Weight", f"{aggregate.plan_weight:g}".encode()))
    return fields


def aggregate_event(aggregate: Aggregate) -> bytes:
    """The same as the JSON of a ``codex.rate_limits`` event, without a line end: event data or a WebSocket message."""
    event = {
        "type": RATE_LIMITS.decode(),
        "metered_limit_name": OWN_LIMIT,
        "limit_name": None,
        "rate_limits": _windows(aggregate),
        "plan_weight": aggregate.plan_weight,
    }
    return json.dumps(event, separators=(",", ":")).encode()


def client_usage(aggregate: Aggregate, now: float) -> dict[str, Any]:
    """The same as the answer to ``GET /backend-api/wham/usage``, whose numbers are whole (docs/clients/codex.md,
    section 3). ``rate_limit`` is null where nothing is known. The pool has no credits that a client could buy."""
    is_reached = aggregate.availability.state == "rate_limited"
    windows: dict[str, Any] = {}
    for place, window in _windows(aggregate).items():
        resets_at = int(window.get("reset_at", 0))
        windows[f"{place}_window"] = {
            "used_percent": floor(window["used_percent"]),
            "limit_window_seconds": int(window["window_minutes"]) * 60,
            "reset_after_seconds": max(0, ceil(resets_at - now)) if resets_at else 0,
            "reset_at": resets_at,
        }
    limit = {"allowed": not is_reached, "limit_reached": is_reached, **windows}
    return {
        "plan_type": TOLD_PLAN,
        "rate_limit": limit if aggregate.is_known else None,
        "additional_rate_limits": None,
        "credits": None,
        "spend_control": None,
        "rate_limit_reached_type": {"type": "rate_limit_reached"} if is_reached else None,
    }


def _windows(aggregate: Aggregate) -> dict[str, dict[str, float]]:
    windows = {}
    for place, used, seconds, resets_at in (
        ("primary", aggregate.short_utilization, SHORT_WINDOW, aggregate.short_reset),
        ("secondary", aggregate.weekly_utilization, WEEKLY_WINDOW, aggregate.weekly_reset),
    ):
        windows[place] = {"used_percent": round(used, 2), "window_minutes": int(seconds // 60)}
        if resets_at:
            windows[place]["reset_at"] = resets_at
    return windows


def limits_from_event(data: bytes, now: float) -> LimitsUpdate | None:
    """The limits in a ``codex.rate_limits`` event; None if ``data`` is no such event. Never raises."""
    event = json_object(data)
    if event is None or event.get("type") != RATE_LIMITS.decode():
        return None
    update = read_event(event, now)
    weight = finite_number(event.get("plan_weight"), LARGEST_WEIGHT)
    return replace(update, plan_weight=weight) if weight else update


def tells_of_account(name: bytes) -> bool:
    """Return whether a header field with this name (lower case) tells of one account (spec 8.3)."""
    return name[:2] == b"x-" and _ACCOUNT_FIELD.fullmatch(name) is not None


@implementer(IMetering)
class CodexMetering:
    """Metering facet of the Codex dialect. Stateless; the meters and rewriters it makes are not."""

    def limits_from_headers(self, headers: Headers, now: float) -> LimitsUpdate:
        """All limits and the credits that the response mentions; malformed ones are ignored."""
        found = read_headers(headers, now)
        credits = read_credits(headers)
        if not found.limits and credits is None:
            return NOTHING_SAID
        update = limits_update(found.limits, found.own, credits)
        weight = parse_weight(first_value(headers, PLAN_WEIGHT))
        return update if weight is None else replace(update, plan_weight=weight)

    def public_headers(self, headers: Headers, aggregate: Aggregate | None, now: float) -> Headers:
        """The upstream's fields without its account's state, plus the pool's (spec 8.3)."""
        shown = aggregate_headers(aggregate) if aggregate is not None else []
        return replace_account_fields(headers, tells_of_account, shown)

    def rewriter(
        self,
        head: ResponseHead,
        observe: Callable[[LimitsUpdate], None],
        aggregate: Callable[[], Aggregate | None],
        now: Callable[[], float],
    ) -> EventRewriter | None:
        """A rewriter that replaces ``codex.rate_limits`` events by the aggregate, if there is one (F36)."""
        if media_type(head) != b"text/event-stream" or not is_readable(head):
            return None

        def replace(data: bytes) -> bytes | None:
            update = limits_from_event(data, now())
            if update is None:
                return None
            observe(update)
            pool = aggregate()
            if pool is None:
                return b""
            return b"event: " + RATE_LIMITS + b"\ndata: " + aggregate_event(pool) + b"\n\n"

        return EventRewriter(RATE_LIMITS, replace)

    def client_usage(self, aggregate: Aggregate, now: float) -> dict[str, Any]:
        return client_usage(aggregate, now)

    def meter(self, facts: RequestFacts, head: ResponseHead, now: Callable[[], float]) -> UsageMeter:
        """A meter that fits the answer's media type and operation."""
        if facts.operation == CHAT:
            chat = partial(ChatMeter, head.headers, now, facts.model)
            return fitting_meter(facts, head, chat, read_completion)
        responses = partial(ResponsesMeter, head.headers, now, facts.model)
        return fitting_meter(facts, head, responses, read_response)
