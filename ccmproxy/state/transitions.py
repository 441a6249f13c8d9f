"""The state machine of one credential: an input leads to a new state and to effects (spec 5).

Pure: ``now`` (Unix seconds) is an argument, and effects are values that :mod:`ccmproxy.credentials.credential` carries
out. ``now`` may jump forwards and backwards.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import assert_never

from ccmproxy.state import charging, refused
from ccmproxy.state.availability import (
    GONE_TIME,
    Availability,
    Caps,
    CredentialState,
    ModelBlock,
    Shown,
    availability,
)
from ccmproxy.state.clock_set import moved
from ccmproxy.state.inputs import (
    AccountRefused,
    ClockSet,
    Denied,
    Effect,
    HeadersObserved,
    Input,
    Interrupt,
    Leased,
    Log,
    ModelDenied,
    Notify,
    Poll,
    PollFailed,
    PollRefused,
    PollSucceeded,
    RateLimited,
    Rejected,
    RemoteUnavailable,
    RequestGaveUp,
    RequestRefused,
    RequestSent,
    RequestServed,
    Rests,
    SocketsRest,
    TimePassed,
    TokenAvailable,
    TokenDelayed,
    TokenUnavailable,
)
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

#: Duration of a rate limit after a 429 with an invalid reset (seconds; spec 4.6).
DEFAULT_RATE_LIMIT = 300.0
#: Duration of a rate limit after a 429 whose reset has passed already (seconds). Clocks differ, and the limit is still
#: in force, as otherwise there would be no 429. Long enough that not every request meets the same 429.
SHORTEST_RATE_LIMIT = 10.0
#: Longest duration of a rate limit (seconds). The longest windows last a month, and a wrong reset must not lock an
#: account away.
LONGEST_RATE_LIMIT = 32 * 86400.0
#: Duration of a block with an invalid end (seconds).
DEFAULT_BLOCK = 60.0


def transition(
    state: CredentialState, event: Input, now: float, caps: Caps
) -> tuple[CredentialState, tuple[Effect, ...]]:
    """Return the state after ``event`` at ``now``, and the effects in the order log, interrupt, notify.

    Changes caused by time alone since the last event are reported with this event. To report them promptly, pass
    :class:`TimePassed` at the time that :func:`ccmproxy.state.availability.next_change` returns, and after a change of
    the caps.
    """
    if isinstance(event, ClockSet):
        # First of all, because none of our own times expires by it.
        state = moved(state, event.by)
    # If a limit has expired since the last event, requests have been accepted since.
    armed = state.armed or availability(state, caps, now).usable
    had_login = state.unavailable is None or state.is_leaving
    state, wants_poll = _apply(state, event, now, caps)
    state = _lift(state, now)
    present = availability(state, caps, now)
    armed = armed or present.usable
    effects: list[Effect] = []
    shown = _shown(state, present, now)
    effects.extend(_log(state.shown, shown, present))
    # Failed polls do not interrupt, although they make the credential unusable: a failing usage endpoint says nothing
    # about the requests in flight, and must not make them fail (compare F6). A remote that accepts no new requests but
    # serves those in progress does not interrupt either. The state stays armed, so that a later reason can interrupt.
    cause = present
    if state.poll_failures or state.is_leaving:
        unavailable = None if state.is_leaving else state.unavailable
        cause = availability(replace(state, poll_failures=0, unavailable=unavailable), caps, now)
    # Requests that a full window has left where they are have to leave when the login is gone too (spec 12.3).
    has_lost_login = had_login and cause.state == "unavailable"
    if (armed or has_lost_login) and not cause.usable:
        armed = False
        effects.append(Interrupt(cause))
    if shown != state.shown:
        effects.append(Notify())
    if wants_poll:
        effects.append(Poll())
    if armed is not state.armed or shown != state.shown:
        state = replace(state, armed=armed, shown=shown)
    return state, tuple(effects)


def _apply(state: CredentialState, event: Input, now: float, caps: Caps) -> tuple[CredentialState, bool]:
    """Return the state after ``event``, and whether the usage endpoint is to be asked now."""
    known = state.organization
    match event:
        case PollSucceeded(_, _, None, began) if 0 < began < state.slate_at <= now:
            # It asked about the last identity.
            return state, True
        case (
            TokenAvailable(_, organization)
            | HeadersObserved(LimitsUpdate(organization=organization), False)
            | PollSucceeded(LimitsUpdate(organization=organization), usable=None)
        ) if known and organization and organization != known:
            # Another identity's login is in the file; a login whose file names none is recognized by its answers.
            # Behind a remote instance many identities answer.
            changed = _changed(
                replace(charging.clean_slate(state, now), organization=organization), event, now, caps
            )
            return changed, not isinstance(event, PollSucceeded)
        case HeadersObserved(update, False, plan_weight) if not charging.is_believed(
            state.limits, update, now
        ):
            # Answers overtake one another, so the lower figure may be the older one: only a poll can tell.
            merged = merge_observed(state.limits, update, now)
            return _wanting_poll(_learn(state, update, merged, plan_weight, now, has_data=False), now)
        case RequestRefused(asked, caller, wait, sentence, is_busy):
            state, wants_poll = charging.was_refused(
                state, asked, caller, wait, sentence, now, is_busy=is_busy
            )
            return _wanting_poll(state, now) if wants_poll else (state, False)
        case _:
            return _changed(state, event, now, caps), False


def _wanting_poll(state: CredentialState, now: float) -> tuple[CredentialState, bool]:
    """Ask for a poll, unless that was done within the last 10 min: clients cause such requests (spec 12.5)."""
    if 0 <= now - state.poll_wanted_at < charging.POLL_WANTED_AGAIN:
        return state, False
    return replace(state, poll_wanted_at=now), True


def _changed(state: CredentialState, event: Input, now: float, caps: Caps) -> CredentialState:
    match event:
        case TokenAvailable(plan_weight, organization):
            return replace(
                state,
                unavailable=None,
                unavailable_until=0.0,
                is_leaving=False,
                gone_at=0.0,
                delayed="",
                delayed_until=0.0,
                plan_weight=_weight(plan_weight, state),
                organization=organization or state.organization,
            )
        case TokenUnavailable(message, ends_requests, is_gone, until):
            return replace(
                state,
                unavailable=message,
                unavailable_until=_end(until, now, 0.0),
                is_leaving=not ends_requests,
                gone_at=(state.gone_at or now) if is_gone else 0.0,
            )
        case TokenDelayed(message, until):
            return replace(state, delayed=message, delayed_until=_end(until, now, 0.0))
        case HeadersObserved(update, is_aggregate, plan_weight):
            if is_aggregate:
                merged = merge_polled(state.limits, update)
            else:
                merged = merge_observed(state.limits, update, now)
            is_update = update.has_data and (is_aggregate or charging.are_taken(merged, update))
            return _learn(state, update, merged, plan_weight, now, has_data=is_update)
        case PollSucceeded():
            return _polled(state, event, now, caps)
        case PollFailed():
            return replace(state, poll_failures=state.poll_failures + 1)
        case PollRefused():
            known = state.refused
            return replace(state, refused=known and refused.polled(known, now, is_good=False))
        case RateLimited(until, explicit):
            return replace(
                state,
                rate_limited_until=_limit(state.rate_limited_until, until, explicit, now),
                rate_limited_at=now,
                low_polls=0,
            )
        case Rejected(until):
            return replace(state, rejected_until=max(state.rejected_until, _end(until, now, DEFAULT_BLOCK)))
        case RemoteUnavailable():
            return replace(state, cannot_serve=True)
        case SocketsRest(until):
            end = max(state.sockets_rest_until, _end(until, now, DEFAULT_BLOCK))
            return replace(state, sockets_rest_until=end)
        case Rests(asked, caller, wait):
            return charging.rests(state, asked, caller, wait, now)
        case Denied(asked, caller, sentence):
            return charging.is_denied(state, asked, caller, sentence, now)
        case ModelDenied(model):
            return charging.may_not_use(state, model, now)
        case AccountRefused(sentence):
            return charging.is_refused(state, sentence, now)
        case Leased():
            return charging.leased(state, now)
        case RequestSent(asked):
            return charging.request_sent(state, asked, now)
        case RequestGaveUp(asked):
            return charging.request_gave_up(state, asked)
        case RequestServed(asked, sent_at, is_model_request):
            return charging.request_served(state, asked, sent_at, now, is_model_request=is_model_request)
        case RequestRefused() | TimePassed() | ClockSet():
            return state
        case _:
            assert_never(event)


def _polled(state: CredentialState, poll: PollSucceeded, now: float, caps: Caps) -> CredentialState:
    """Return the state with the figures of a poll.

    A rate limit after a 429 stays until its end, unless a later poll contradicts it, because the endpoint may lag
    behind the 429. But if a remote instance says that it is usable, that is authoritative.
    """
    update, usable = poll.update, poll.usable
    state = replace(
        state,
        poll_failures=0,
        rejected_until=0.0,
        cannot_serve=poll.cannot_serve,
        delayed="",
        delayed_until=0.0,
    )
    state = charging.polled(state, update, poll.began or now, (caps.short, caps.weekly), now)
    if usable:
        state = replace(state, rate_limited_until=0.0)
    merged = merge_polled(state.limits, update, now)
    if usable or poll.cannot_serve:
        merged = without_full(merged)
    # The status of a remote instance tells of it even where it names no window.
    has_data = update.has_data or (poll.is_known and usable is not None)
    learnt = _learn(state, update, merged, poll.plan_weight, now, has_data=has_data)
    if state.rate_limited_until > now and state.rate_limited_at > 0:
        # The same block: the next poll is due as if this one had said nothing.
        learnt = replace(learnt, rate_limited_at=state.rate_limited_at)
    return learnt


def _learn(
    state: CredentialState,
    update: LimitsUpdate,
    merged: Limits,
    plan_weight: float | None,
    now: float,
    *,
    has_data: bool,
) -> CredentialState:
    """Return the state with the windows, rate limits, rejections and weight that a response reported."""
    rejections = state.model_rejections
    if update.model_rejections:
        merged_rejections = dict(rejections)
        for family, until in update.model_rejections.items():
            merged_rejections[family] = ModelBlock(_limit(0.0, until, True, now), now)
        while len(merged_rejections) > MOST_MODELS:
            del merged_rejections[min(merged_rejections, key=merged_rejections.__getitem__)]
        rejections = MappingProxyType(merged_rejections)
    limited, limited_at, low_polls = state.rate_limited_until, state.rate_limited_at, state.low_polls
    if finite_number(update.rejected_until, LATEST_TIME) and update.rejected_until > now:
        limited, limited_at, low_polls = _limit(limited, update.rejected_until, True, now), now, 0
    return replace(
        state,
        limits=merged,
        rate_limited_until=limited,
        rate_limited_at=limited_at,
        low_polls=low_polls,
        model_rejections=rejections,
        plan_weight=state.plan_weight if plan_weight is None else _weight(plan_weight, state),
        last_update=now if has_data else state.last_update,
        ever_had_data=state.ever_had_data or has_data,
        organization=update.organization or state.organization,
    )


def _limit(known: float, until: float, explicit: bool, now: float) -> float:
    """Return the end of a rate limit: an explicit end replaces the known one, a default only extends it (F46)."""
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
    """Return ``weight`` if it is valid and positive, else the known weight."""
    return finite_number(weight, LARGEST_WEIGHT) or state.plan_weight


def _lift(state: CredentialState, now: float) -> CredentialState:
    """Remove what has expired permanently, so that a clock that is set back does not restore it."""
    if 0 < state.gone_at <= now - GONE_TIME:
        state = replace(charging.clean_slate(state, now), organization="", gone_at=0.0)
    if 0 < state.sockets_rest_until <= now:
        state = replace(state, sockets_rest_until=0.0)
    if 0 < state.rate_limited_until <= now:
        state = replace(state, rate_limited_until=0.0)
    if 0 < state.rejected_until <= now:
        state = replace(state, rejected_until=0.0)
    if any(block.until <= now for block in state.model_rejections.values()):
        lasting = {family: block for family, block in state.model_rejections.items() if block.until > now}
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
    """Return the utilizations of both windows, rounded down to whole percents."""
    short, weekly = shown.short_utilization, shown.weekly_utilization
    return None if short is None else int(short), None if weekly is None else int(weekly)
