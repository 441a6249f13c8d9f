"""What clients are told of windows: warnings, and the one that stands for both (spec 8.3). Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ccmproxy.state.limits import SHORT_WINDOW, WEEKLY_WINDOW

WindowKind = Literal["short", "weekly"]
#: The words of ``anthropic-ratelimit-unified-status`` (spec 8.3).
OverallStatus = Literal["allowed", "allowed_warning", "rejected"]

#: Per window: (percent used, fraction elapsed) from which on a client is warned; highest bracket first (spec 8.3).
WARNING_BRACKETS: Mapping[WindowKind, tuple[tuple[float, float], ...]] = {
    "short": ((90.0, 0.72),),
    "weekly": ((75.0, 0.60), (50.0, 0.35), (25.0, 0.15)),
}


def elapsed_fraction(resets_at: float, length: float, now: float) -> float:
    """How much of a window has passed, 0 … 1; 0 where its reset (0) or length is unknown."""
    if resets_at <= 0 or length <= 0 or not math.isfinite(resets_at):
        return 0.0
    return min(1.0, max(0.0, (length - (resets_at - now)) / length))


def warning(kind: WindowKind, utilization: float, elapsed: float) -> bool:
    """Whether a client is to be warned (spec 8.3). ``utilization`` in percent, ``elapsed`` as a fraction.

    The first bracket that the utilization reaches decides: 80 % of a week is judged by the 75 % bracket alone.
    """
    for used, passed in WARNING_BRACKETS[kind]:
        if utilization >= used:
            return elapsed >= passed
    return False


@dataclass(frozen=True, slots=True)
class WindowStatus:
    """One window as a client is told of it. ``utilization`` in percent; ``resets_at`` Unix seconds, 0 = unknown."""

    kind: WindowKind
    utilization: float
    resets_at: float
    warning: bool

    @property
    def exhausted(self) -> bool:
        """Used up."""
        return self.utilization >= 100.0

    @property
    def surpassed(self) -> bool:
        """A threshold is surpassed: warned of, or used up."""
        return self.warning or self.exhausted

    @property
    def priority(self) -> int:
        """2 used up, 1 warned of, 0 neither."""
        return 2 if self.exhausted else int(self.warning)


def window_status(
    kind: WindowKind, utilization: float, resets_at: float, now: float, length: float = 0.0
) -> WindowStatus:
    """Judge one window; ``length`` 0 = that of its kind (seconds)."""
    length = length or (SHORT_WINDOW if kind == "short" else WEEKLY_WINDOW)
    warned = warning(kind, utilization, elapsed_fraction(resets_at, length, now))
    return WindowStatus(kind, utilization, resets_at, warned)


def representative_claim(short: WindowStatus, weekly: WindowStatus) -> WindowStatus:
    """The window that stands for both (spec 8.3).

    The one with the higher priority, then the higher utilization, then the short one if it has a reset.
    """
    ours, theirs = (short.priority, short.utilization), (weekly.priority, weekly.utilization)
    if ours == theirs:
        return short if short.resets_at else weekly
    return short if ours > theirs else weekly


def overall_status(short: WindowStatus, weekly: WindowStatus, rate_limited: bool) -> OverallStatus:
    """``rejected`` if a window is used up or everything is rate-limited, else by the warnings (spec 8.3)."""
    if rate_limited or short.exhausted or weekly.exhausted:
        return "rejected"
    return "allowed_warning" if short.warning or weekly.warning else "allowed"
