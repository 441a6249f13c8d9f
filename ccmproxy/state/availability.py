"""The state of one credential, and its availability (spec 5). :mod:`ccmproxy.state.transitions` changes the state.

Pure: ``now`` (Unix seconds) is an argument. It may jump forwards and backwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal, NamedTuple

from ccmproxy.state.durations import format_duration
from ccmproxy.state.holds import NOTHING_HELD, Holds
from ccmproxy.state.limits import (
    LATEST_TIME,
    SHORT_WINDOW,
    WEEKLY_WINDOW,
    Limits,
    Window,
    current_utilization,
)
from ccmproxy.state.model_names import is_of_family, name_words
from ccmproxy.state.refused import LastRefused, Refused

#: The states that the status endpoint names (spec 8.1).
AvailabilityState = Literal["usable", "rate_limited", "temporarily_blocked", "unavailable"]


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a credential (or a whole pool) can take a request now.

    ``reason``: a stable word, empty if usable: ``unavailable``, ``rate_limited``, ``rejected``, ``refused``,
    ``poll_failed``, ``short_window``, ``weekly_window``, ``model_window``. ``message``: a sentence for people.
    ``reset_at``: when the state may change without an input (Unix seconds, 0 = unknown). ``lets_one_through``: the
    provider refuses the account, but its last poll was good: one request may find out (spec 12.3).
    ``is_last_resort``: a request may find out where no other credential can serve. ``is_passing``: the cause is a
    passing one of this machine, which is tried again by itself, at ``reset_at`` (spec 12.4).
    """

    state: AvailabilityState
    reason: str = ""
    message: str = ""
    reset_at: float = 0.0
    lets_one_through: bool = False
    is_last_resort: bool = False
    is_passing: bool = False

    @property
    def worth_trying(self) -> bool:
        """Whether the credential is usable, or unusable for a reason that need not affect the next request (spec 5.1).

        Failed polls are a problem of the usage endpoint (compare F6). A request uses another credential if there is
        one, and else this one.
        """
        return (
            self.state == "usable"
            or self.reason == "poll_failed"
            or self.lets_one_through
            or self.is_last_resort
        )

    @property
    def usable(self) -> bool:
        """True if a request may be sent."""
        return self.state == "usable"

    def left(self, now: float) -> float:
        """Return the seconds from ``now`` (Unix seconds) to ``reset_at``, 0 if it is unknown or has passed."""
        return max(self.reset_at - now, 0.0)


@dataclass(frozen=True, slots=True)
class Caps:
    """The utilization (percent) of each window at which the credential pauses (spec 1: reserve and limit)."""

    short: float = 99.0
    weekly: float = 99.0


#: The message of a remote instance that has said that it cannot serve. What ails it is in its own answer to a request.
REMOTE_CANNOT_SERVE = "the remote instance says that it cannot serve now"
#: Caps of a remote instance, which applies its own reserves (spec 5.1).
EXTERNAL_CAPS = Caps(100.0, 100.0)


@dataclass(frozen=True, slots=True)
class Shown:
    """The part of a credential's state that a status shows. Compared in order to detect changes (spec 5.4).

    Utilizations in percent, None = never reported; times in Unix seconds, 0 = unknown or passed.
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


#: So long after no file holds a login any more, what is known of its identity is dropped (seconds, spec 12.5).
GONE_TIME = 86400.0


class Refusal(NamedTuple):
    """A model request that was refused without known words. ``is_busy``: by a 429; ``sentence``: the provider's."""

    caller: str
    model: str
    is_busy: bool
    sentence: str = ""


class ModelBlock(NamedTuple):
    """The window of a model family is used up until ``until``, as an answer said at ``since`` (Unix seconds).

    ``low_polls``: polls in a row since then that show it below 95 %.
    """

    until: float
    since: float
    low_polls: int = 0


@dataclass(frozen=True, slots=True)
class CredentialState:
    """Everything that is remembered about one credential. It starts as unavailable, as nothing has been read yet.

    What was learnt from refusals (``holds``, ``refused``, ``refusals``) belongs to the identity of the login, as do the
    windows: another identity starts with a clean slate (spec 12.5).

    Times in Unix seconds, 0 = none. ``unavailable``: why there is no usable token; None if there is one;
    ``unavailable_until``: when it is looked for again, if the cause is a passing one.
    ``model_rejections``: model family -> its block. ``organization``: id of the organization
    that the account belongs to, empty = unknown. ``is_leaving``: the credential is unavailable for new requests only.
    ``cannot_serve``: a remote instance has said that it cannot serve, for another reason than used-up windows.
    ``delayed``: why the token cannot be refreshed for now, empty if it can be or need not be; ``delayed_until``: when
    that is tried again.
    ``armed``: the credential was usable since the last interrupt, so requests may be waiting that the next interrupt
    must cancel. ``shown``: the values that were last reported to subscribers and to the log.
    ``rate_limited_at``: when the present rate limit was last reported. ``low_polls``: polls in a row since then that
    show its window below 95 %. ``sockets_rest_until``: no new WebSocket is opened there before. ``poll_wanted_at``:
    when figures that were not believed, or a refusal that nothing explains, asked for a poll. ``refusals``: which model
    requests were refused without known words since the account served last; ``refusals_at``: when the last one was.
    ``slate``: how often another identity's login has made a clean slate; ``slate_at``: when the last time.
    ``gone_at``: since when no file holds a login.
    """

    unavailable: str | None = "credential not loaded yet"
    unavailable_until: float = 0.0
    is_leaving: bool = False
    limits: Limits = Limits()
    rate_limited_until: float = 0.0
    rejected_until: float = 0.0
    cannot_serve: bool = False
    rate_limited_at: float = 0.0
    low_polls: int = 0
    sockets_rest_until: float = 0.0
    poll_wanted_at: float = 0.0
    holds: Holds = NOTHING_HELD
    refused: Refused | None = None
    last_refused: LastRefused | None = None
    refusals: tuple[Refusal, ...] = ()
    refusals_at: float = 0.0
    slate: int = 0
    slate_at: float = 0.0
    gone_at: float = 0.0
    model_rejections: Mapping[str, ModelBlock] = field(default_factory=lambda: MappingProxyType({}))
    poll_failures: int = 0
    delayed: str = ""
    delayed_until: float = 0.0
    last_update: float = 0.0
    plan_weight: float = 1.0
    ever_had_data: bool = False
    organization: str = ""
    armed: bool = False
    shown: Shown = Shown()


@dataclass(frozen=True, slots=True)
class CredentialSnapshot:
    """A frozen view of one credential for balancing, aggregation and status.

    ``has_data``: whether there are figures to aggregate. ``ever_had_data`` stays true after a change of account.
    ``organization``: id of the organization that the account belongs to, empty = unknown. ``takes_sockets``: new
    WebSockets may be opened there.
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
    takes_sockets: bool = True


# Usable? ------------------------------------------------------------------------------------------------------


def availability(state: CredentialState, caps: Caps, now: float, model: str | None = None) -> Availability:
    """Return whether the credential can take a request at ``now``, and if not, why; reasons in the order of spec 5.1.

    With a ``model``, the windows of its family count too: they make that model unusable on the account, but not the
    account itself.
    """
    if state.unavailable is not None:
        until = state.unavailable_until
        return Availability(
            "unavailable",
            "unavailable",
            state.unavailable,
            until if until > now else 0.0,
            is_passing=until > 0,
        )
    full = _full_window(state.limits, caps, now)
    if state.rate_limited_until > now:
        # A full window that resets after the end of the rate limit keeps the credential unusable until then.
        until = max(state.rate_limited_until, full.reset_at if full else 0.0)
        return Availability(
            "rate_limited", "rate_limited", f"rate-limited until {_moment(until, now)}", until
        )
    if state.rejected_until > now:
        message = f"rejected by the upstream until {_moment(state.rejected_until, now)}"
        return Availability("temporarily_blocked", "rejected", message, state.rejected_until)
    if state.cannot_serve:
        # The remote answers by itself, and knows best what to tell the client.
        return Availability("temporarily_blocked", "rejected", REMOTE_CANNOT_SERVE, is_last_resort=True)
    if state.refused is not None:
        return _refused(state.refused, now)
    if full is not None:
        return full
    if model is not None and (closed := _closed_model(state, caps, model, now)) is not None:
        return closed
    # This check comes last: a request without another credential uses this one despite it (worth_trying), and must not
    # exceed a reserve that is known to be reached.
    if state.poll_failures > 0 and state.delayed:
        seconds = state.delayed_until - now
        if seconds <= 0:
            return Availability("temporarily_blocked", "poll_failed", state.delayed)
        message = f"{state.delayed}; next try in {format_duration(seconds)}"
        return Availability("temporarily_blocked", "poll_failed", message, state.delayed_until)
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
    """Return the frozen view of ``state`` at ``now``."""
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
        takes_sockets=state.sockets_rest_until <= now,
    )


def next_change(state: CredentialState, caps: Caps, now: float) -> float | None:
    """Return the first time after ``now`` (Unix seconds) at which the availability or the aggregate may change without
    an input; None = never.

    Windows of single models are not considered, as no status shows them.
    """
    moments = (
        state.rate_limited_until,
        state.rejected_until,
        state.sockets_rest_until,
        state.refused.next_at if state.refused is not None else 0.0,
        state.limits.short.resets_at,
        state.limits.weekly.resets_at,
        state.gone_at + GONE_TIME if state.gone_at else 0.0,
    )
    return min((moment for moment in moments if moment > now), default=None)


def _refused(known: Refused, now: float) -> Availability:
    message = f"the provider refuses this account: {known.sentence or 'it gave no reason'}"
    return Availability(
        "temporarily_blocked",
        "refused",
        message,
        known.next_at if known.next_at > now and not known.is_open else 0.0,
        lets_one_through=known.is_open,
        is_last_resort=now >= known.request_at,
    )


def _full_window(limits: Limits, caps: Caps, now: float) -> Availability | None:
    """Return the availability for a window at or above its cap, or None. Of two windows, the later reset counts."""
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
    words = name_words(model)
    for family, (until, _, _) in state.model_rejections.items():
        if until > now and is_of_family(words, family):
            message = f"{family} window used up until {_moment(until, now)}"
            return Availability("rate_limited", "model_window", message, until)
    for family, window in state.limits.models.items():
        # The windows of models are weekly, so the weekly reserve applies to them too.
        if current_utilization(window, now) >= caps.weekly and is_of_family(words, family):
            message = _full(f"{family} window", window, caps.weekly, now)
            return Availability("rate_limited", "model_window", message, window.resets_at)
    for limit in state.limits.named.values():
        # A named limit applies to the models whose names contain its name. A limit without a name, or for a feature,
        # applies to no model.
        if not limit.names_models or not is_of_family(words, limit.name):
            continue
        closed = _full_window(Limits(limit.short, limit.weekly), caps, now)
        if closed is not None:
            return replace(closed, reason="model_window", message=f"{limit.name}: {closed.message}")
    return None


def _window_name(length: float) -> str:
    """Return the name of a window, by its length in seconds and never by its place in a response (F34)."""
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
