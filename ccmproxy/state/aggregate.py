"""The aggregate of many credentials: one status for a user, over all credentials that may serve it (spec 8.1, 8.2).

Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ccmproxy.state.availability import Availability, AvailabilityState, CredentialSnapshot
from ccmproxy.state.durations import format_duration
from ccmproxy.state.limits import RESET_JITTER, Window, current_reset, current_utilization, remaining
from ccmproxy.state.window_status import (
    OverallStatus,
    WindowKind,
    overall_status,
    representative_claim,
    window_status,
)


@dataclass(frozen=True, slots=True)
class LimitsView:
    """An aggregate in the terms in which the upstream reports the state of one account (spec 8.3).

    ``claim``: the representative window of the two.
    """

    status: OverallStatus
    claim: WindowKind
    short_surpassed: bool
    weekly_surpassed: bool


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The state of many credentials, summarized as that of one.

    Utilizations in percent (0-100); resets in whole Unix seconds, 0 = unknown; ``plan_weight`` is the sum over the
    credentials that count. ``is_known`` is false while there is a credential to send requests to, but no figures of
    any (spec 14); utilizations and resets are 0 then, and mean nothing.
    """

    short_utilization: float
    short_reset: int
    weekly_utilization: float
    weekly_reset: int
    plan_weight: float
    availability: Availability
    is_known: bool = True

    def view(self, now: float) -> LimitsView:
        """Return status, claim and surpassed thresholds at ``now`` (Unix seconds; spec 8.3)."""
        short = window_status("short", self.short_utilization, self.short_reset, now)
        weekly = window_status("weekly", self.weekly_utilization, self.weekly_reset, now)
        return LimitsView(
            overall_status(short, weekly, self.availability.state == "rate_limited"),
            representative_claim(short, weekly).kind,
            short.surpassed,
            weekly.surpassed,
        )


def counts(snapshot: CredentialSnapshot) -> bool:
    """Return whether a credential's figures enter the aggregate.

    They do if there are any, and the credential is not unavailable, rejected or blocked. After failed polls they still
    count: such figures are old, but not wrong.
    """
    availability = snapshot.availability
    in_reach = availability.state in ("usable", "rate_limited") or availability.reason == "poll_failed"
    return snapshot.has_data and in_reach


def share_windows(one: CredentialSnapshot, other: CredentialSnapshot, now: float) -> bool:
    """Return whether two accounts share the same windows (F33): the same login twice, or an organization's allowance.

    Belonging to the same organization is not enough, because most organizations give each member separate windows. The
    resets must agree as well, because a window begins with the first request of a user: they must be equal (within
    :data:`RESET_JITTER`) for every window of which both resets are known, and there must be at least one such window. A
    reset that has passed counts as unknown.
    """
    if not one.organization or one.organization != other.organization:
        return False
    agree = False
    for ours, theirs in ((one.limits.short, other.limits.short), (one.limits.weekly, other.limits.weekly)):
        reset, other_reset = current_reset(ours, now), current_reset(theirs, now)
        if reset and other_reset:
            if abs(reset - other_reset) > RESET_JITTER:
                return False
            agree = True
    return agree


def distinct(snapshots: Iterable[CredentialSnapshot], now: float) -> list[CredentialSnapshot]:
    """Return one credential per set of shared windows (F33): the one with the highest utilization.

    Utilization only grows within a window, so the higher figure is the more recent one. Of equals, the earlier in the
    list is returned.
    """
    found: list[CredentialSnapshot] = []
    for snapshot in snapshots:
        for index, known in enumerate(found):
            if share_windows(known, snapshot, now):
                if _used(snapshot, now) > _used(known, now):
                    found[index] = snapshot
                break
        else:
            found.append(snapshot)
    return found


def _used(snapshot: CredentialSnapshot, now: float) -> tuple[float, float]:
    limits = snapshot.limits
    return current_utilization(limits.weekly, now), current_utilization(limits.short, now)


def aggregate(snapshots: Iterable[CredentialSnapshot], now: float) -> Aggregate:
    """Compute the aggregate of spec 8.1 over ``snapshots``, the credentials that the user may see.

    Accounts that share their windows are counted once.

    If no credential :func:`counts`, but some would be sent a request, the state is unknown: their first poll has not
    been answered yet, or, like API keys, they have nothing to be asked for. If there is none of these, both windows are
    full, and the weight is the sum over the credentials that ever had data: capacity that exists but cannot be used now
    (0 if there never was any).
    """
    everyone = tuple(snapshots)
    counted = distinct(filter(counts, everyone), now)
    availability = overall_availability(everyone, now)
    if not counted:
        unknown = [s for s in everyone if s.availability.usable or s.availability.reason == "poll_failed"]
        if unknown:
            weight = sum(s.plan_weight for s in unknown)
            return Aggregate(0.0, 0, 0.0, 0, _rounded(weight), availability, is_known=False)
        weight = sum(s.plan_weight for s in everyone if s.ever_had_data)
        return Aggregate(100.0, 0, 100.0, 0, _rounded(weight), availability)
    short = [(s.limits.short, s.caps.short, s.plan_weight) for s in counted]
    weekly = [(s.limits.weekly, s.caps.weekly, s.plan_weight) for s in counted]
    return Aggregate(
        _utilization(short, now),
        _reset(short, now),
        _utilization(weekly, now),
        _reset(weekly, now),
        _rounded(sum(s.plan_weight for s in counted)),
        availability,
    )


def status_object(aggregate: Aggregate, reads_null: bool = False) -> dict[str, Any]:
    """Return the JSON object of the status endpoint (spec 8.2). Percent and whole Unix seconds; 0 = unknown.

    ``reads_null``: the reader takes null for an unknown figure. For others, figures that are all unknown are 0, and
    ``known`` is false.
    """
    availability = aggregate.availability
    figures: dict[str, Any] = {
        "five_hour_utilization": aggregate.short_utilization,
        "five_hour_reset": aggregate.short_reset,
        "weekly_utilization": aggregate.weekly_utilization,
        "weekly_reset": aggregate.weekly_reset,
    }
    if not aggregate.is_known:
        if reads_null:
            figures = dict.fromkeys(figures)
        figures["known"] = False
    return {
        **figures,
        "plan_weight": aggregate.plan_weight,
        "availability": {
            "state": availability.state,
            "reason": availability.reason,
            "reset_at": math.ceil(availability.reset_at),
        },
    }


def with_countdown(status: dict[str, Any], now: float) -> dict[str, Any]:
    """Return the object of :func:`status_object` with ``availability.reset_in``: whole seconds from ``now`` to its
    ``reset_at``, 0 = unknown or passed.

    Other instances go by it, as their clocks may differ from ours. It is added last, because it differs from second to
    second although the state is still the same. ``now``: Unix seconds.
    """
    availability = status["availability"]
    left = max(math.ceil(availability["reset_at"] - now), 0)
    return status | {"availability": availability | {"reset_in": left}}


#: A window, the cap of its credential, and the credential's weight.
_Weighted = tuple[Window, float, float]


def _rounded(value: float) -> float:
    """Round away the last digits of a sum of floats, so that they do not look like a change of state."""
    return round(value, 6)


def _utilization(windows: Sequence[_Weighted], now: float) -> float:
    total = sum(weight for _, _, weight in windows)
    if total <= 0:
        return 100.0
    left = sum(remaining(window, cap, now) * weight for window, cap, weight in windows) / total
    return _rounded(min(100.0, max(0.0, 100.0 - left)))


def _reset(windows: Sequence[_Weighted], now: float) -> int:
    """Return the weighted mean of the future resets (whole Unix seconds, 0 = unknown).

    Averaging the points in time is equivalent to averaging the time until them (spec 8.1), but the result does not
    fluctuate with ``now``.
    """
    known = [(reset, weight) for window, _, weight in windows if (reset := current_reset(window, now))]
    total = sum(weight for _, weight in known)
    if total <= 0:
        return 0
    return math.ceil(_rounded(sum(reset * weight for reset, weight in known) / total))


def overall_availability(snapshots: Sequence[CredentialSnapshot], now: float) -> Availability:
    """Return the availability of all credentials together: the best state that any of them has (spec 8.1)."""
    states: dict[AvailabilityState, list[CredentialSnapshot]] = {}
    for snapshot in snapshots:
        states.setdefault(snapshot.availability.state, []).append(snapshot)
    if "usable" in states:
        return Availability("usable")
    if limited := states.get("rate_limited"):
        first = min(limited, key=lambda s: s.availability.reset_at or math.inf).availability
        message = "all credentials rate-limited"
        if first.reset_at > now:
            message += f", earliest reset in {format_duration(first.reset_at - now)}"
        return Availability("rate_limited", first.reason, message, first.reset_at)
    if blocked := states.get("temporarily_blocked"):
        resets = [s.availability.reset_at for s in blocked if s.availability.reset_at]
        return Availability(
            "temporarily_blocked",
            blocked[0].availability.reason,
            _sentence(blocked, "temporarily blocked"),
            min(resets, default=0.0),
        )
    if unavailable := states.get("unavailable"):
        # A login that is back within a minute matters more than one that somebody has to make.
        unavailable.sort(key=lambda s: not s.availability.is_passing)
        resets = [s.availability.reset_at for s in unavailable if s.availability.reset_at]
        return Availability(
            "unavailable",
            unavailable[0].availability.reason,
            _sentence(unavailable, "unavailable"),
            min(resets, default=0.0),
            is_passing=unavailable[0].availability.is_passing,
        )
    return Availability("unavailable", "unavailable", "no credential may serve this user")


def _sentence(snapshots: Sequence[CredentialSnapshot], state: str) -> str:
    """Return a sentence with the first credential's reason; a list of all would be long and repetitive."""
    first, others = snapshots[0], len(snapshots) - 1
    more = f" (and {others} more)" if others else ""
    return f"credential {first.tag} is {state}: {first.availability.message}{more}"
