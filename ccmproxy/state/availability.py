"""The state of one credential: is it usable, and if not, why (spec 5)? :mod:`ccmproxy.state.transitions` changes it.

Pure: ``now`` (Unix seconds) is an argument. It may jump, also backwards: nothing here relies on time passing evenly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

from ccmproxy.state.durations import format_duration
from ccmproxy.state.limits import (
    LATEST_TIME,
    SHORT_WINDOW,
    WEEKLY_WINDOW,
    Limits,
    Window,
    current_utilization,
)
from ccmproxy.state.model_names import is_of_family, name_words

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
    """Whether the credential can take a request, and if not, why, in the order of spec 5.1.

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
    # These two last, though spec 5.1 has a connection limit before the windows: whoever has no other credential uses
    # this one all the same (worth_trying), and must not pass over a reserve that is known to be reached.
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
    words = name_words(model)
    for family, until in state.model_rejections.items():
        if until > now and is_of_family(words, family):
            message = f"{family} window used up until {_moment(until, now)}"
            return Availability("rate_limited", "model_window", message, until)
    for family, window in state.limits.models.items():
        # The windows of models are weekly ones: the reserve of the week holds for them too.
        if current_utilization(window, now) >= caps.weekly and is_of_family(words, family):
            message = _full(f"{family} window", window, caps.weekly, now)
            return Availability("rate_limited", "model_window", message, window.resets_at)
    for limit in state.limits.named.values():
        # Of the models that it is called after; one without a name, or of a feature, closes nothing.
        if not limit.names_models or not is_of_family(words, limit.name):
            continue
        closed = _full_window(Limits(limit.short, limit.weekly), caps, now)
        if closed is not None:
            return replace(closed, reason="model_window", message=f"{limit.name}: {closed.message}")
    return None


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
