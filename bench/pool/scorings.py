"""Scores that the product does not use, to see whether any of them serves better than that of spec 6.3."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ccmproxy.policy.balancing import Candidate, score, spread_score, urgency
from ccmproxy.state.limits import current_reset, remaining

#: A session counts as active for so long after it was served (seconds).
ACTIVE = 900.0
#: Time after which no part of a conversation is cached any more (seconds).
COLD = 3600.0


@dataclass(frozen=True, slots=True)
class Idea:
    """A score, by which the highest candidate is chosen.

    ``score``: takes a candidate, the number of active sessions on it, and the time (Unix seconds).
    ``leaves_after``: a session that was silent for longer is assigned anew (seconds).
    """

    name: str
    score: Callable[[Candidate, int, float], float]
    leaves_after: float = math.inf


def _left(candidate: Candidate, now: float) -> float:
    """Remaining percent of a Pro plan's week."""
    snapshot = candidate.snapshot
    return remaining(snapshot.limits.weekly, snapshot.caps.weekly, now) * snapshot.plan_weight


def _short_left(candidate: Candidate, now: float) -> float:
    """Remaining percent of the 5-hour window up to its cap."""
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
