"""Scores that the product does not have, to see whether one of them would serve better than spec 6.3."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ccmproxy.policy.balancing import Candidate, score, spread_score, urgency
from ccmproxy.state.limits import current_reset, remaining

#: A session that was served within so long is at work (seconds).
ACTIVE = 900.0
#: After so long nothing of a conversation is cached any more (seconds).
COLD = 3600.0


@dataclass(frozen=True, slots=True)
class Idea:
    """``score`` of a candidate, the sessions at work on it and the time (Unix seconds): the highest is chosen.

    ``leaves_after``: a session that was silent for longer is placed anew (seconds).
    """

    name: str
    score: Callable[[Candidate, int, float], float]
    leaves_after: float = math.inf


def _left(candidate: Candidate, now: float) -> float:
    """Percent of a Pro plan's week."""
    snapshot = candidate.snapshot
    return remaining(snapshot.limits.weekly, snapshot.caps.weekly, now) * snapshot.plan_weight


def _short_left(candidate: Candidate, now: float) -> float:
    """Percent of the 5-hour window up to its cap."""
    return remaining(candidate.snapshot.limits.short, candidate.snapshot.caps.short, now)


def _urgency(candidate: Candidate, now: float) -> float:
    return urgency(current_reset(candidate.snapshot.limits.weekly, now), now)


def _root_of_urgency(candidate: Candidate, active: int, now: float) -> float:
    return _left(candidate, now) * math.sqrt(_urgency(candidate, now)) / (1 + candidate.assigned)


def _both_windows(candidate: Candidate, active: int, now: float) -> float:
    return spread_score(candidate, now) * _short_left(candidate, now)


def _shared(candidate: Candidate, active: int, now: float) -> float:
    return score(candidate.snapshot, now) / (1 + max(active, candidate.assigned))


def _both_and_shared(candidate: Candidate, active: int, now: float) -> float:
    return _shared(candidate, active, now) * _short_left(candidate, now)


IDEAS = (
    Idea("root of urgency", _root_of_urgency),
    Idea("times what is left of the 5-hour window", _both_windows),
    Idea("shared by sessions at work", _shared),
    Idea("both of these", _both_and_shared),
    Idea("both, and placed anew when cold", _both_and_shared, COLD),
)
