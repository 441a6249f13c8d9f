"""What changes the state of one credential: an input gives a new state, and what is to be done about it (spec 5).

Pure: ``now`` (Unix seconds) is an argument, effects are values that :mod:`ccmproxy.credentials.credential` carries out.
``now`` may jump, also backwards: nothing here relies on time passing evenly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import assert_never

from ccmproxy.state.availability import Availability, Caps, CredentialState, Shown, availability
from ccmproxy.state.limits import (
    LARGEST_WEIGHT,
    LATEST_TIME,
    MOST_MODELS,
    Limits,
    LimitsUpdate,
    current_reset,
    current_utilization,
    finite_number,
    merge_observed,
    merge_polled,
    without_full,
)

#: How long a 429 counts whose reset is nonsense (seconds; spec 4.6).
DEFAULT_RATE_LIMIT = 300.0
#: How long a 429 counts whose reset has passed already (seconds): clocks differ, and a limit that is over is not
#: answered with 429. Long enough that not every request runs into it.
SHORTEST_RATE_LIMIT = 10.0
#: No 429 counts longer (seconds): the longest windows are a month, and a wrong reset must not lock an account away.
LONGEST_RATE_LIMIT = 32 * 86400.0
#: How long a block counts whose end is nonsense (seconds).
DEFAULT_BLOCK = 60.0

# Inputs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenAvailable:
    """A valid credential file (or key) was read, or a refresh succeeded. ``organization`` empty = not said."""

    plan_weight: float
    organization: str = ""


@dataclass(frozen=True, slots=True)
class TokenUnavailable:
    """No usable token, and why (a sentence without secrets). ``ends_requests``: nor have those under way a chance."""

    message: str
    ends_requests: bool = True


@dataclass(frozen=True, slots=True)
class HeadersObserved:
    """A proxied answer (or an in-stream event) told something of the limits.

    ``is_aggregate``: the answer is a remote instance's, whose values are taken as they are, also downwards (spec 4.7):
    a pool grows when an account is added to it. ``plan_weight``: the remote's, None where not said.
    """

    update: LimitsUpdate
    is_aggregate: bool = False
    plan_weight: float | None = None


@dataclass(frozen=True, slots=True)
class PollSucceeded:
    """The usage endpoint answered: replaces the windows, also downwards (spec 3.5).

    ``usable``: a remote instance's own word on whether it can serve; None where there is none.
    """

    update: LimitsUpdate
    plan_weight: float | None = None
    usable: bool | None = None


@dataclass(frozen=True, slots=True)
class PollFailed:
    """A poll failed in a way that counts (spec 3.5)."""


@dataclass(frozen=True, slots=True)
class RateLimited:
    """The upstream refused a request with 429 on account of the whole credential, until then.

    ``explicit``: the upstream named that time, so it replaces what is known; a default of ours only ever extends it
    (F46).
    """

    until: float
    explicit: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """A remote refused requests for its own reasons (spec 4.4)."""

    until: float


@dataclass(frozen=True, slots=True)
class Blocked:
    """Temporarily not to be used, e.g. ``connection_limit``."""

    reason: str
    until: float


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing happened but the clock: lifts what has expired."""


Input = (
    TokenAvailable
    | TokenUnavailable
    | HeadersObserved
    | PollSucceeded
    | PollFailed
    | RateLimited
    | Rejected
    | Blocked
    | TimePassed
)

# Effects ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Cancel the requests that have no response byte yet; once per transition to unusable (spec 5.3)."""

    availability: Availability


@dataclass(frozen=True, slots=True)
class Notify:
    """Something that the aggregate depends on changed (spec 5.4)."""


@dataclass(frozen=True, slots=True)
class Log:
    """A change worth a line: crossed a whole percent, became usable or unusable."""

    message: str


Effect = Interrupt | Notify | Log

# What happens -------------------------------------------------------------------------------------------------


def transition(
    state: CredentialState, event: Input, now: float, caps: Caps
) -> tuple[CredentialState, tuple[Effect, ...]]:
    """The state after ``event``, and what is to be done about it, in order: log, interrupt, notify.

    Changes that time made by itself since the last event are told with this one: a caller that wants them told at once
    passes :class:`TimePassed` at :func:`next_change`; also after the caps were changed.
    """
    # Where a limit has passed by itself, requests have been let in since.
    armed = state.armed or availability(state, caps, now).usable
    state = _lift(_apply(state, event, now), now)
    present = availability(state, caps, now)
    armed = armed or present.usable
    effects: list[Effect] = []
    shown = _shown(state, present, now)
    effects.extend(_log(state.shown, shown, present))
    # Failed polls are left out on purpose, although they make the credential unusable: a usage endpoint in trouble
    # says nothing of the requests in flight, and cancelling them all would turn its failure into theirs (compare F6).
    # Nor does a remote that takes nothing new, but serves what it has. The arm stays up, so that a real reason that
    # comes later still interrupts.
    cause = present
    if state.poll_failures or state.is_leaving:
        unavailable = None if state.is_leaving else state.unavailable
        cause = availability(replace(state, poll_failures=0, unavailable=unavailable), caps, now)
    if armed and not cause.usable:
        armed = False
        effects.append(Interrupt(cause))
    if shown != state.shown:
        effects.append(Notify())
    if armed is not state.armed or shown != state.shown:
        state = replace(state, armed=armed, shown=shown)
    return state, tuple(effects)


def _apply(state: CredentialState, event: Input, now: float) -> CredentialState:
    match event:
        case TokenAvailable(plan_weight, organization):
            return replace(
                state,
                unavailable=None,
                is_leaving=False,
                plan_weight=_weight(plan_weight, state),
                organization=organization or state.organization,
            )
        case TokenUnavailable(message, ends_requests):
            return replace(state, unavailable=message, is_leaving=not ends_requests)
        case HeadersObserved(update, is_aggregate, plan_weight):
            merged = (
                merge_polled(state.limits, update)
                if is_aggregate
                else merge_observed(state.limits, update, now)
            )
            return _learn(state, update, merged, plan_weight, now, has_data=update.has_data)
        case PollSucceeded(update, plan_weight, usable):
            # A hard rate limit that has not passed stays: the endpoint may lag behind the 429. A remote instance that
            # says it is usable knows better.
            state = replace(state, poll_failures=0, rejected_until=0.0)
            if usable:
                state = replace(state, rate_limited_until=0.0)
            merged = merge_polled(state.limits, update)
            if usable:
                merged = without_full(merged)
            return _learn(state, update, merged, plan_weight, now, has_data=True)
        case PollFailed():
            return replace(state, poll_failures=state.poll_failures + 1)
        case RateLimited(until, explicit):
            return replace(state, rate_limited_until=_limit(state.rate_limited_until, until, explicit, now))
        case Rejected(until):
            return replace(state, rejected_until=max(state.rejected_until, _end(until, now, DEFAULT_BLOCK)))
        case Blocked(reason, until):
            end = _end(until, now, DEFAULT_BLOCK)
            if end <= state.blocked_until:
                return state
            return replace(state, blocked_reason=reason, blocked_until=end)
        case TimePassed():
            return state
        case _:
            assert_never(event)


def _learn(
    state: CredentialState,
    update: LimitsUpdate,
    merged: Limits,
    plan_weight: float | None,
    now: float,
    *,
    has_data: bool,
) -> CredentialState:
    """Take over what an answer said of windows, of being used up, and of the weight."""
    rejections = state.model_rejections
    if update.model_rejections:
        merged_rejections = dict(rejections)
        for family, until in update.model_rejections.items():
            merged_rejections[family] = _limit(0.0, until, True, now)
        while len(merged_rejections) > MOST_MODELS:
            del merged_rejections[min(merged_rejections, key=merged_rejections.__getitem__)]
        rejections = MappingProxyType(merged_rejections)
    limited = state.rate_limited_until
    if finite_number(update.rejected_until, LATEST_TIME) and update.rejected_until > now:
        limited = _limit(limited, update.rejected_until, True, now)
    return replace(
        state,
        limits=merged,
        rate_limited_until=limited,
        model_rejections=rejections,
        plan_weight=state.plan_weight if plan_weight is None else _weight(plan_weight, state),
        last_update=now if has_data else state.last_update,
        ever_had_data=state.ever_had_data or has_data,
        organization=update.organization or state.organization,
    )


def _limit(known: float, until: float, explicit: bool, now: float) -> float:
    """End of a rate limit: an explicit one replaces, a default one only extends (F46)."""
    end = finite_number(until, LATEST_TIME)
    if end is None:
        return max(known, now + DEFAULT_RATE_LIMIT)
    if end <= now:
        return max(known, now + SHORTEST_RATE_LIMIT)
    end = min(end, now + LONGEST_RATE_LIMIT)
    return end if explicit else max(known, end)


def _end(until: float, now: float, default: float) -> float:
    end = finite_number(until, LATEST_TIME)
    return now + default if end is None else end


def _weight(weight: float, state: CredentialState) -> float:
    """A weight of zero, or none at all, says nothing: the known one stays."""
    return finite_number(weight, LARGEST_WEIGHT) or state.plan_weight


def _lift(state: CredentialState, now: float) -> CredentialState:
    """Forget what has ended, for good: a clock that is set back does not bring it back."""
    if 0 < state.blocked_until <= now:
        state = replace(state, blocked_until=0.0, blocked_reason="")
    if 0 < state.rate_limited_until <= now:
        state = replace(state, rate_limited_until=0.0)
    if 0 < state.rejected_until <= now:
        state = replace(state, rejected_until=0.0)
    if any(until <= now for until in state.model_rejections.values()):
        lasting = {family: until for family, until in state.model_rejections.items() if until > now}
        state = replace(state, model_rejections=MappingProxyType(lasting))
    return state


def _shown(state: CredentialState, present: Availability, now: float) -> Shown:
    short, weekly = state.limits.short, state.limits.weekly
    return Shown(
        present.state,
        present.reason,
        present.reset_at,
        None if short.utilization is None else current_utilization(short, now),
        current_reset(short, now),
        None if weekly.utilization is None else current_utilization(weekly, now),
        current_reset(weekly, now),
        state.plan_weight,
        state.ever_had_data,
    )


def _log(before: Shown, after: Shown, present: Availability) -> list[Log]:
    lines = []
    if _percents(before) != _percents(after):
        windows = zip(("short window", "weekly window"), _percents(after), strict=True)
        lines.append(
            Log(", ".join(f"{name} {percent} %" for name, percent in windows if percent is not None))
        )
    if (before.state, before.reason) != (after.state, after.reason):
        lines.append(Log("usable" if present.usable else f"not usable: {present.message}"))
    return lines


def _percents(shown: Shown) -> tuple[int | None, int | None]:
    """Whole percents of both windows."""
    short, weekly = shown.short_utilization, shown.weekly_utilization
    return None if short is None else int(short), None if weekly is None else int(weekly)
