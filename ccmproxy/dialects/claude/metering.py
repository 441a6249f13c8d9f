"""Claude's limits: read from response headers, and rewritten for clients to the pool's aggregate (spec 4.7, 8.3)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from zope.interface import implementer

from ccmproxy.dialects.account_fields import replace_account_fields
from ccmproxy.dialects.claude.usage_meters import StreamMeter, read_message
from ccmproxy.dialects.claude.windows import FAMILY, ORGANIZATION, PLAN_WEIGHT, read_headers
from ccmproxy.dialects.event_rewriter import EventRewriter
from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.json_values import moment
from ccmproxy.dialects.meters import fitting_meter
from ccmproxy.dialects.usage import UsageMeter
from ccmproxy.dialects.verdicts import used_up_resets
from ccmproxy.http.message import Headers, ResponseHead, lower_names
from ccmproxy.interfaces.facets import IMetering
from ccmproxy.state.aggregate import Aggregate
from ccmproxy.state.limits import NOTHING_SAID, LimitsUpdate

#: Fields that are read besides those of the family, and that often come without them.
_BESIDE = frozenset({ORGANIZATION, PLAN_WEIGHT})
_KEY_LIMIT = re.compile(
    rb"anthropic-ratelimit-(?P<limit>requests|tokens|input-tokens|output-tokens)-(?P<fact>reset|remaining)"
)


def api_key_reset(headers: Headers) -> float:
    """Unix seconds at which the last used-up limit of an API key renews; 0 = unknown.

    Read from ``anthropic-ratelimit-tokens-reset`` and the like (RFC 3339).
    """
    times = (moment(reset) or 0.0 for reset in used_up_resets(headers, _KEY_LIMIT))
    return max(times, default=0.0)


def aggregate_headers(aggregate: Aggregate, now: float) -> Headers:
    """The state of the whole pool as the header fields of a single account (spec 8.3), as of ``now``."""
    return list(_aggregate_fields(aggregate, int(now)))


@lru_cache(maxsize=128)
def _aggregate_fields(aggregate: Aggregate, now: int) -> tuple[tuple[bytes, bytes], ...]:
    view = aggregate.view(now)
    fields: list[tuple[str, str]] = [
        ("status", view.status),
        ("5h-utilization", f"{aggregate.short_utilization / 100:.6f}"),
        ("7d-utilization", f"{aggregate.weekly_utilization / 100:.6f}"),
    ]
    resets = {"5h": aggregate.short_reset, "7d": aggregate.weekly_reset}
    fields += [(f"{window}-reset", str(int(at))) for window, at in resets.items() if at]
    claim = "5h" if view.claim == "short" else "7d"
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


def _tells_of_account(name: bytes) -> bool:
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
        return replace_account_fields(headers, _tells_of_account, shown)

    def rewriter(
        self,
        head: ResponseHead,
        observe: Callable[[LimitsUpdate], None],
        aggregate: Callable[[], Aggregate | None],
        now: Callable[[], float],
    ) -> EventRewriter | None:
        """None: the events of a message carry no state of the account."""
        return None

    def meter(self, facts: RequestFacts, head: ResponseHead) -> UsageMeter:
        """A meter that fits the media type of the response."""
        return fitting_meter(facts, head, StreamMeter, read_message)
