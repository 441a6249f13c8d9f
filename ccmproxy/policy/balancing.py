"""Which credential serves a request: strategies and the rebalancing rule, over frozen snapshots (spec 6). Pure.

``now`` (Unix seconds) and random numbers are arguments. What a pool remembers is in :mod:`ccmproxy.policy.sessions`;
what a credential can do now, in :mod:`ccmproxy.state.availability`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ccmproxy.state.availability import Availability, CredentialSnapshot
from ccmproxy.state.limits import current_reset, current_utilization, remaining

#: A week in hours: what a reset so far away is worth is worth 1 (spec 6.3).
WEEK_HOURS = 168.0
#: A reset is taken to be at least so far away (hours, spec 6.3).
LEAST_HOURS = 1.0
#: As many candidates are named in the reason for a choice.
MOST_NAMED = 6

StrategyName = Literal["least-used", "round-robin", "random", "fallback"]


@dataclass(frozen=True, slots=True)
class Selection:
    """What a provider is asked: a credential for this session and model, none of ``excluded`` (tags already tried).

    ``user``: name of who asks; sessions of different users never share an entry. ``agent``: a subagent within the
    session.
    """

    session: str | None = None
    model: str | None = None
    allow_external: bool = False
    excluded: frozenset[str] = frozenset()
    user: str = ""
    agent: str | None = None


class NoCredential(Exception):
    """No credential can take the request now. ``availability`` is that of the whole provider (spec 8.1)."""

    def __init__(self, availability: Availability) -> None:
        super().__init__(availability.message or availability.reason)
        self.availability = availability


@dataclass(frozen=True, slots=True)
class Candidate:
    """A credential that may be chosen. ``assigned``: sessions that were given to it in the last moments."""

    snapshot: CredentialSnapshot
    assigned: int = 0

    @property
    def tag(self) -> str:
        """Of its credential."""
        return self.snapshot.tag


@dataclass(frozen=True, slots=True)
class Choice:
    """A candidate, and why it was chosen, for the log: the strategy's name and, where it has any, the scores."""

    candidate: Candidate
    reason: str

    @property
    def tag(self) -> str:
        """Of the credential that was chosen."""
        return self.candidate.tag


# Scores -------------------------------------------------------------------------------------------------------


def urgency(resets_at: float, now: float) -> float:
    """How much sooner than in a week the window lapses: 1 … 168, and 1 where that is unknown (0) or has passed."""
    if resets_at <= now:
        return 1.0
    return WEEK_HOURS / max(LEAST_HOURS, (resets_at - now) / 3600.0)


def score(snapshot: CredentialSnapshot, now: float) -> float:
    """Remaining, times weight, times urgency of the weekly window (spec 6.3): the more, the sooner it should be used.

    Percent of a Pro plan's week, weighed by how soon it lapses. An expired window is empty.
    """
    weekly = snapshot.limits.weekly
    left = remaining(weekly, snapshot.caps.weekly, now)
    return left * snapshot.plan_weight * urgency(current_reset(weekly, now), now)


def spread_score(candidate: Candidate, now: float) -> float:
    """The score, shared with the sessions that were just assigned there: their use does not show yet (F8).

    Dividing by one more than their number is the method of highest averages (D'Hondt): of many sessions that move in
    the same instant, each credential gets a share in proportion to its score.
    """
    return score(candidate.snapshot, now) / (1 + candidate.assigned)


# Strategies ---------------------------------------------------------------------------------------------------
#
# A strategy is given the candidates in the order of the configuration, at least one, all of them allowed and usable.


def least_used(candidates: Sequence[Candidate], now: float) -> Choice:
    """The highest score; of equals, the earlier in the list."""
    scores = [spread_score(candidate, now) for candidate in candidates]
    best = scores.index(max(scores))
    ranked = sorted(zip(scores, candidates, strict=True), key=lambda pair: -pair[0])
    named = ", ".join(f"{candidate.tag} {value:.4g}" for value, candidate in ranked[:MOST_NAMED])
    more = f" and {len(ranked) - MOST_NAMED} more" if len(ranked) > MOST_NAMED else ""
    return Choice(candidates[best], f"least-used, scores {named}{more}")


def round_robin(candidates: Sequence[Candidate], order: Sequence[str], last: str | None) -> Choice:
    """The next one in ``order`` (all tags of the pool) after ``last``, the tag that was chosen before; None: none was.

    Whoever cannot serve is passed over, and keeps its place.
    """
    by_tag = {candidate.tag: candidate for candidate in candidates}
    start = order.index(last) + 1 if last in order else 0
    for tag in (*order[start:], *order[:start]):
        if tag in by_tag:
            return Choice(by_tag[tag], f"round-robin, after {last}" if last else "round-robin")
    return Choice(candidates[0], "round-robin")


def uniform(candidates: Sequence[Candidate], random: Callable[[], float]) -> Choice:
    """Any, all alike. ``random``: a number in [0, 1)."""
    return Choice(candidates[min(int(random() * len(candidates)), len(candidates) - 1)], "random")


def fallback(candidates: Sequence[Candidate]) -> Choice:
    """The first."""
    return Choice(candidates[0], "fallback, the first that can serve")


# Rebalancing --------------------------------------------------------------------------------------------------


def should_rebalance(
    held: CredentialSnapshot, better: CredentialSnapshot, threshold: float, now: float
) -> bool:
    """Whether the sessions on ``held`` should move, ``better`` being what least-used would choose now (spec 6.5).

    They should if the weekly window of ``held`` is more used than that of ``better`` by more than ``threshold``
    percent divided by the weight of ``held``: a percent of a big plan is much. 0 = never.
    """
    if threshold <= 0 or held.tag == better.tag:
        return False
    used, other = (current_utilization(each.limits.weekly, now) for each in (held, better))
    return used - other > threshold / held.plan_weight
