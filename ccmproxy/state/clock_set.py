"""What remains of the state of a credential when the system's clock is set (spec 11, F65). Pure."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from ccmproxy.state.availability import CredentialState
from ccmproxy.state.limits import RESET_JITTER, Limits


def moved(state: CredentialState, by: float) -> CredentialState:
    """Return ``state`` after the clock was set by ``by`` seconds (negative: back).

    The resets of windows are the upstream's Unix times, and stay. Everything else was counted from a moment on our own
    clock, and moves with it, so that a rest of a minute remains one. The end of a rate limit stays if it is the reset
    of a known window, and moves if it is not: then it came from a number of seconds, as in Retry-After.
    """
    resets = _resets(state.limits)

    def limit(until: float) -> float:
        is_reset = any(abs(reset - until) <= RESET_JITTER for reset in resets)
        return until if is_reset else moment(until, by)

    rejections = {
        family: block._replace(until=limit(block.until), since=moment(block.since, by))
        for family, block in state.model_rejections.items()
    }
    refused, last = state.refused, state.last_refused
    return replace(
        state,
        rate_limited_until=limit(state.rate_limited_until),
        rate_limited_at=moment(state.rate_limited_at, by),
        rejected_until=moment(state.rejected_until, by),
        sockets_rest_until=moment(state.sockets_rest_until, by),
        poll_wanted_at=moment(state.poll_wanted_at, by),
        holds=state.holds.moved(by),
        refused=refused and refused.moved(by),
        last_refused=last and replace(last, served_at=last.served_at + by),
        refusals_at=moment(state.refusals_at, by),
        model_rejections=MappingProxyType(rejections),
        delayed_until=moment(state.delayed_until, by),
        unavailable_until=moment(state.unavailable_until, by),
        slate_at=moment(state.slate_at, by),
        gone_at=moment(state.gone_at, by),
        last_update=moment(state.last_update, by),
    )


def moment(at: float, by: float) -> float:
    """Return ``at`` (Unix seconds) moved by ``by`` seconds; 0 stands for no time, and stays."""
    return at + by if at else at


def _resets(limits: Limits) -> list[float]:
    """Return all known resets of windows (Unix seconds)."""
    windows = [limits.short, limits.weekly, *limits.models.values()]
    for limit in limits.named.values():
        windows += limit.short, limit.weekly
    return [window.resets_at for window in windows if window.resets_at]
