"""What a 429 tells another instance that borrows from this one: until when to leave it alone (spec 14). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ccmproxy.policy.waits import LONGEST_SHORT_WAIT
from ccmproxy.state.availability import Availability
from ccmproxy.state.limits import SHORT_WINDOW
from ccmproxy.state.window_status import WindowKind

#: The wait where a refusal names none (seconds): the first step of a rest (spec 12.2).
DEFAULT_WAIT = 5.0


@dataclass(frozen=True, slots=True)
class ToldLimit:
    """The window that a 429 names to an instance, and its reset, at which the instance asks again (Unix seconds).

    An instance of sing-box reads nothing else, and leaves the whole remote alone until then. So where nothing is used
    up, or only one model's window is, this is a time that is soon over, and says nothing of the window itself.
    """

    window: WindowKind
    resets_at: int


def told_limit(used_up: Availability | None, wait: float | None, now: float) -> ToldLimit:
    """Return what a 429 tells another instance.

    ``used_up``: the availability of all credentials that could serve, where the answer says that all are used up;
    ``wait``: the Retry-After of the answer, in seconds, None = it has none; ``now``: Unix seconds.
    """
    left = used_up.reset_at - now if used_up is not None else 0.0
    if used_up is not None and left > LONGEST_SHORT_WAIT:
        resets_at = ceil(used_up.reset_at)
        match used_up.reason:
            case "short_window":
                return ToldLimit("short", resets_at)
            case "weekly_window":
                return ToldLimit("weekly", resets_at)
            case "rate_limited":
                # The provider named a time, and not the window: a short one ends within its length.
                return ToldLimit("short" if resets_at - now <= SHORT_WINDOW else "weekly", resets_at)
        wait = LONGEST_SHORT_WAIT
    elif used_up is not None:
        wait = left if left > 0 else LONGEST_SHORT_WAIT
    elif wait is None:
        wait = DEFAULT_WAIT
    return ToldLimit("short", ceil(now + min(max(wait, 1.0), LONGEST_SHORT_WAIT)))
