"""The state of one credential: an input gives a new state and effects; and: is it usable, and if not, why (spec 5).

Pure: ``now`` (Unix seconds) is an argument, effects are values that :mod:`ccmproxy.credentials.account` carries out.
``now`` may jump, also backwards: nothing here relies on time passing evenly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal, assert_never

from ccmproxy.durations import format_duration
from ccmproxy.limits import (
    LARGEST_WEIGHT,
    LATEST_TIME,
    MOST_MODELS,
    SHORT_WINDOW,
    WEEKLY_WINDOW,
    Limits,
    LimitsUpdate,
    Window,
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

#: The states that the status endpoint names (spec 8.1).
AvailabilityState = Literal["usable", "rate_limited", "temporarily_blocked", "unavailable"]


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a credential (or a whole pool) can take a request now.

    ``reason``: a stable word, empty where usable: ``unavailable``, ``connection_limit``, ``rate_limited``,
    ``rejected``, ``poll_failed``, ``short_window``, ``weekly_window``, ``model_window``. ``message``: a sentence for
    people. ``reset_at``: Unix seconds when it may change by itself, 0 = unknown.
    """

    state: AvailabilityState
    reason: str = ""
    message: str = ""
    reset_at: float = 0.0

    @property
    def worth_trying(self) -> bool:
        """Usable, or not to be preferred for a reason that need not concern the next request (spec 5.1).

        Failed polls are the usage endpoint's trouble (compare F6), and a connection limit is that of the connections
        that there are. Who has another credential takes that one; who has none is served all the same.
        """
        return self.state == "usable" or self.reason in ("poll_failed", "connection_limit")

    @property
    def usable(self) -> bool:
        """True if a request may be sent."""
        return self.state == "usable"


@dataclass(frozen=True, slots=True)
class Caps:
    """At which utilization (percent) each window makes the credential pause (spec 1: reserve and limit)."""

    short: float = 99.0
    weekly: float = 99.0


#: A remote instance keeps its own reserves (spec 5.1).
EXTERNAL_CAPS = Caps(100.0, 100.0)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a status shows of one credential. Compared to tell whether it changed (spec 5.4).

    Utilizations in percent, None = never heard of; times in Unix seconds, 0 = unknown or passed.
    """

    state: AvailabilityState = "unavailable"
    reason: str = "unavailable"
    reset_at: float = 0.0
    short_utilization: float | None = None
    short_reset: float = 0.0
    weekly_utilization: float | None = None
    weekly_reset: float = 0.0
    plan_weight: float = 1.0
    ever_had_data: bool = False


@dataclass(frozen=True, slots=True)
class CredentialState:
    """Everything remembered of one credential. Starts unavailable: nothing has been read yet.

    Times in Unix seconds, 0 = none. ``model_rejections``: model family -> until when its window is used up.
    ``organization``: id of the one that the account belongs to, empty = unknown.
    ``is_leaving``: unavailable for new requests only.
    ``armed``: it was usable since the last interrupt, so requests may be waiting that the next one has to cancel.
    ``shown``: what was last told to subscribers and to the log.
    """

    unavailable: str | None = "credential not loaded yet"
    is_leaving: bool = False
    limits: Limits = Limits()
    rate_limited_until: float = 0.0
    rejected_until: float = 0.0
    blocked_until: float = 0.0
    blocked_reason: str = ""
    model_rejections: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    poll_failures: int = 0
    last_update: float = 0.0
    plan_weight: float = 1.0
    ever_had_data: bool = False
    organization: str = ""
    armed: bool = False
    shown: Shown = Shown()


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


@dataclass(frozen=True, slots=True)
class CredentialSnapshot:
    """A frozen view of one credential for balancing, aggregation and status.

    ``has_data``: there is something to aggregate. ``ever_had_data`` outlives a change of account. ``organization``: id
    of the one that the account belongs to, empty = unknown.
    """

    tag: str
    is_external: bool
    availability: Availability
    limits: Limits
    caps: Caps
    plan_weight: float
    has_data: bool
    ever_had_data: bool
    organization: str = ""


# Usable? ------------------------------------------------------------------------------------------------------


def availability(state: CredentialState, caps: Caps, now: float, model: str | None = None) -> Availability:
    """Whether the credential can take a request, and if not, why, in the order of spec 5.1 (but for failed polls).

    With a ``model``, the windows of its family count as well: they close that model on this account, not the account.
    """
    if state.unavailable is not None:
        return Availability("unavailable", "unavailable", state.unavailable)
    full = _full_window(state.limits, caps, now)
    if state.rate_limited_until > now:
        # A window that is full beyond the end of the limit goes on closing the credential: tell the truth at once.
        until = max(state.rate_limited_until, full.reset_at if full else 0.0)
        return Availability(
            "rate_limited", "rate_limited", f"rate-limited until {_moment(until, now)}", until
        )
    if state.rejected_until > now:
        message = f"rejected by the upstream until {_moment(state.rejected_until, now)}"
        return Availability("temporarily_blocked", "rejected", message, state.rejected_until)
    if full is not None:
        return full
    if model is not None and (closed := _closed_model(state, caps, model, now)) is not None:
        return closed
    # These two last, though spec 5.1 has them before the windows: whoever has no other credential uses this one all
    # the same (worth_trying), and must not pass over a reserve that is known to be reached.
    if state.blocked_until > now:
        reason = state.blocked_reason or "connection_limit"
        wait = format_duration(state.blocked_until - now)
        message = f"{reason.replace('_', ' ')}, free again in {wait}"
        return Availability("temporarily_blocked", reason, message, state.blocked_until)
    if state.poll_failures > 0:
        count = "once" if state.poll_failures == 1 else f"{state.poll_failures} times in a row"
        return Availability("temporarily_blocked", "poll_failed", f"asking for its usage failed {count}")
    return Availability("usable")


def snapshot(
    state: CredentialState,
    caps: Caps,
    now: float,
    *,
    tag: str,
    is_external: bool = False,
    model: str | None = None,
) -> CredentialSnapshot:
    """The frozen view of ``state`` at ``now``."""
    return CredentialSnapshot(
        tag=tag,
        is_external=is_external,
        availability=availability(state, caps, now, model),
        limits=state.limits,
        caps=caps,
        plan_weight=state.plan_weight,
        has_data=state.ever_had_data,
        ever_had_data=state.ever_had_data,
        organization=state.organization,
    )


def next_change(state: CredentialState, caps: Caps, now: float) -> float | None:
    """The first moment after ``now`` at which availability or the aggregate may change without an input; None = never.

    Until then nothing changes by itself. Windows of one model are not considered: no status shows them.
    """
    moments = (
        state.blocked_until,
        state.rate_limited_until,
        state.rejected_until,
        state.limits.short.resets_at,
        state.limits.weekly.resets_at,
    )
    return min((moment for moment in moments if moment > now), default=None)


def _full_window(limits: Limits, caps: Caps, now: float) -> Availability | None:
    """The window at or above its cap; of two, the one that stays so for longer."""
    full = [
        (window, cap, reason, name)
        for window, cap, reason, name in (
            (limits.short, caps.short, "short_window", _window_name(limits.short.length or SHORT_WINDOW)),
            (
                limits.weekly,
                caps.weekly,
                "weekly_window",
                _window_name(limits.weekly.length or WEEKLY_WINDOW),
            ),
        )
        if window.utilization is not None and current_utilization(window, now) >= cap
    ]
    if not full:
        return None
    window, cap, reason, name = max(full, key=lambda entry: entry[0].resets_at or LATEST_TIME)
    return Availability("rate_limited", reason, _full(f"{name} window", window, cap, now), window.resets_at)


def _closed_model(state: CredentialState, caps: Caps, model: str, now: float) -> Availability | None:
    words = _words(model)
    for family, until in state.model_rejections.items():
        if until > now and _is_of_family(words, family):
            message = f"{family} window used up until {_moment(until, now)}"
            return Availability("rate_limited", "model_window", message, until)
    for family, window in state.limits.models.items():
        # The windows of models are weekly ones: the reserve of the week holds for them too.
        if current_utilization(window, now) >= caps.weekly and _is_of_family(words, family):
            message = _full(f"{family} window", window, caps.weekly, now)
            return Availability("rate_limited", "model_window", message, window.resets_at)
    for limit in state.limits.named.values():
        # Of the model that it is called after; one without a name, or of a feature, closes nothing.
        if not _is_of_family(words, limit.name):
            continue
        closed = _full_window(Limits(limit.short, limit.weekly), caps, now)
        if closed is not None:
            return replace(closed, reason="model_window", message=f"{limit.name}: {closed.message}")
    return None


#: Words that stand in the names of many models: a window called so would close all of them.
_VENDOR_WORDS = frozenset({"claude", "anthropic", "gpt", "codex", "openai", "model", "latest"})


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+|[0-9]+", name.lower())


def _is_of_family(model_words: list[str], family: str) -> bool:
    """``opus`` is the family of ``claude-opus-4-5``: its words stand in the model's name, side by side.

    A family that is in no model's name closes nothing; nor does a number alone, or a vendor's name alone.
    """
    words = _words(family)
    if all(word.isdigit() for word in words) or (len(words) == 1 and words[0] in _VENDOR_WORDS):
        return False
    return any(model_words[at : at + len(words)] == words for at in range(len(model_words)))


def _window_name(length: float) -> str:
    """Windows are named by their own length, never by their place in an answer (F34)."""
    if length == WEEKLY_WINDOW:
        return "weekly"
    if length == 30 * 86400.0:
        return "monthly"
    if length >= 86400.0:
        return f"{length / 86400.0:.3g}-day"
    return f"{length / 3600.0:.3g}-hour"


def _full(name: str, window: Window, cap: float, now: float) -> str:
    reset = f", resets in {format_duration(window.resets_at - now)}" if window.resets_at else ""
    return f"{name} at {window.utilization:.4g} % (cap {cap:.4g} %){reset}"


def _moment(at: float, now: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC (in {format_duration(at - now)})"


# Transitions --------------------------------------------------------------------------------------------------


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
