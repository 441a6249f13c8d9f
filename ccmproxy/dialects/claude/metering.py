"""Claude's limits: read from response headers, and rewritten for clients to the pool's aggregate (spec 4.7, 8.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from math import ceil
from typing import Any

from zope.interface import implementer

from ccmproxy.dialects.account_fields import replace_account_fields
from ccmproxy.dialects.claude.usage_meters import StreamMeter, read_message
from ccmproxy.dialects.claude.windows import FAMILY, ORGANIZATION, PLAN_WEIGHT, read_headers
from ccmproxy.dialects.event_rewriter import EventRewriter
from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.meters import fitting_meter
from ccmproxy.dialects.usage import UsageMeter
from ccmproxy.http.message import Headers, ResponseHead, lower_names
from ccmproxy.interfaces.facets import IMetering
from ccmproxy.policy.waits import LONGEST_SHORT_WAIT
from ccmproxy.state.aggregate import Aggregate
from ccmproxy.state.availability import Availability
from ccmproxy.state.limits import NOTHING_SAID, SHORT_WINDOW, LimitsUpdate
from ccmproxy.state.window_status import WindowKind

#: Fields that are read besides those of the family, and that often come without them.
_BESIDE = frozenset({ORGANIZATION, PLAN_WEIGHT})
#: Of an aggregate that is shown to a client only the windows count.
_USABLE = Availability("usable")


def aggregate_headers(aggregate: Aggregate, now: float) -> Headers:
    """The state of the whole pool as the header fields of a single account (spec 8.3), as of ``now``."""
    return list(_aggregate_fields(aggregate, int(now)))


def exhausted_headers(aggregate: Aggregate, availability: Availability, now: float) -> Headers:
    """The same for a client that is to stop, because everything is used up (spec 12.2).

    Status, claim and reset are those of the window that closes the account that is free first, and that window is shown
    as used up. Empty where that account is free within a minute, or nobody knows when.
    """
    resets_at = ceil(availability.reset_at)
    if resets_at - now <= LONGEST_SHORT_WAIT:
        return []
    if availability.reason in ("short_window", "weekly_window"):
        is_short = availability.reason == "short_window"
    else:
        # The provider named a time, and not the window: a short one ends within its length.
        is_short = resets_at - now <= SHORT_WINDOW
    if is_short:
        shown = replace(aggregate, short_utilization=100.0, short_reset=resets_at)
    else:
        shown = replace(aggregate, weekly_utilization=100.0, weekly_reset=resets_at)
    return list(_fields(shown, now, "short" if is_short else "weekly"))


@lru_cache(maxsize=128)
def _aggregate_fields(aggregate: Aggregate, now: int) -> tuple[tuple[bytes, bytes], ...]:
    return _fields(aggregate, now)


def _fields(
    aggregate: Aggregate, now: float, claimed: WindowKind | None = None
) -> tuple[tuple[bytes, bytes], ...]:
    """``rejected`` only where a window that is shown is used up: claim and reset are of that window then (spec 12.2).

    ``claimed``: the window that closes, where that is known.
    """
    view = replace(aggregate, availability=_USABLE).view(now)
    fields: list[tuple[str, str]] = [
        ("status", view.status),
        ("5h-utilization", f"{aggregate.short_utilization / 100:.6f}"),
        ("7d-utilization", f"{aggregate.weekly_utilization / 100:.6f}"),
    ]
    resets = {"5h": aggregate.short_reset, "7d": aggregate.weekly_reset}
    fields += [(f"{window}-reset", str(int(at))) for window, at in resets.items() if at]
    claim = "5h" if (claimed or view.claim) == "short" else "7d"
    fields.append(("representative-claim", {"5h": "five_hour", "7d": "seven_day"}[claim]))
    if resets[claim]:
        fields.append(("reset", str(int(resets[claim]))))
    if view.short_surpassed:
        fields.append(("5h-surpassed-threshold", "true"))
    if view.weekly_surpassed:
        fields.append(("7d-surpassed-threshold", "true"))
    headers = [(FAMILY + name.encode(), value.encode()) for name, value in fields]
    headers.append((b"X-CCM-Plan-Weight", f"{aggregate.plan_weight:g}".encode()))
    return tuple(headers)


def client_usage(aggregate: Aggregate) -> dict[str, Any]:
    """The state of the whole pool as the answer to ``GET /api/oauth/usage``: percent, and resets in RFC 3339 or null.

    A window of which nothing is known is null, as the provider has it for windows that a plan lacks.
    """
    windows: dict[str, dict[str, Any] | None] = {}
    for name, utilization, resets_at in (
        ("five_hour", aggregate.short_utilization, aggregate.short_reset),
        ("seven_day", aggregate.weekly_utilization, aggregate.weekly_reset),
    ):
        reset = datetime.fromtimestamp(resets_at, UTC).isoformat() if resets_at else None
        window = {"utilization": round(utilization, 1), "resets_at": reset}
        windows[name] = window if aggregate.is_known else None
    extra = {"is_enabled": False, "monthly_limit": None, "used_credits": None, "utilization": None}
    return {**windows, "seven_day_oauth_apps": None, "seven_day_opus": None, "extra_usage": extra}


def tells_of_account(name: bytes) -> bool:
    """Return whether a header field with this name (lower case) tells of one account (spec 8.3)."""
    return name.startswith(FAMILY) or name == PLAN_WEIGHT


@implementer(IMetering)
class ClaudeMetering:
    """Metering facet of the Claude dialect. Stateless; the meters it makes are not."""

    def limits_from_headers(self, headers: Headers, now: float) -> LimitsUpdate:
        """All windows of the family that the response mentions; a malformed window is ignored."""
        said = tuple(
            pair
            for pair, name in zip(headers, lower_names(headers), strict=True)
            if name.startswith(FAMILY) or name in _BESIDE
        )
        if all(pair[0].lower() in _BESIDE for pair in said):
            return NOTHING_SAID
        update = read_headers(said)
        if not (update.rejected_until or update.model_rejections):
            return update
        return replace(
            update,
            rejected_until=update.rejected_until if update.rejected_until > now else 0.0,
            model_rejections={
                family: until for family, until in update.model_rejections.items() if until > now
            },
        )

    def public_headers(self, headers: Headers, aggregate: Aggregate | None, now: float) -> Headers:
        """The upstream's fields without its account's state, plus the pool's (spec 8.3)."""
        shown = aggregate_headers(aggregate, now) if aggregate is not None else []
        return replace_account_fields(headers, tells_of_account, shown)

    def rewriter(
        self,
        head: ResponseHead,
        observe: Callable[[LimitsUpdate], None],
        aggregate: Callable[[], Aggregate | None],
        now: Callable[[], float],
    ) -> EventRewriter | None:
        """None: the events of a message carry no state of the account."""
        return None

    def client_usage(self, aggregate: Aggregate, now: float) -> dict[str, Any]:
        return client_usage(aggregate)

    def meter(self, facts: RequestFacts, head: ResponseHead, now: Callable[[], float]) -> UsageMeter:
        """A meter that fits the answer's media type."""
        return fitting_meter(facts, head, partial(StreamMeter, head.headers, now, facts.model), read_message)
