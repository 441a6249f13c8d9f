"""Selection of a credential for a request: strategies and the rebalancing rule, over frozen snapshots (spec 6). Pure.

``now`` (Unix seconds) and random numbers are arguments. :mod:`ccmproxy.policy.sessions` is the memory of a pool;
:mod:`ccmproxy.state.availability` decides whether a credential is usable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ccmproxy.state.availability import Availability, CredentialSnapshot
from ccmproxy.state.holds import Combination
from ccmproxy.state.limits import current_reset, current_utilization, remaining

#: A week in hours: the time until the reset at which the urgency is 1 (spec 6.3).
WEEK_HOURS = 168.0
#: The time until a reset counts as at least this (hours, spec 6.3).
LEAST_HOURS = 1.0
#: Number of candidates that are named in the reason for a choice.
MOST_NAMED = 6

StrategyName = Literal["least-used", "round-robin", "random", "fallback"]


@dataclass(frozen=True, slots=True)
class Selection:
    """What a provider is asked for: a credential for this session and model, other than ``excluded`` (tags).

    ``user``: name of the user who sent the request; sessions of different users never share an entry. ``agent``: id of
    a subagent within the session. ``asked``: endpoint, model and betas, as far as refusals may be about them.
    ``only_accounts``: no key and no remote instance, because another account's answer to the same request is wanted
    (spec 12.1).
    """

    session: str | None = None
    model: str | None = None
    allow_external: bool = False
    excluded: frozenset[str] = frozenset()
    user: str = ""
    agent: str | None = None
    asked: Combination | None = None
    only_accounts: bool = False


class NoCredential(Exception):
    """No credential can take the request now.

    ``availability``: of the whole provider (spec 8.1). ``free_at``: the earliest known time at which one can, by the
    end of a rest or the reset of a window (Unix seconds, spec 12.2); 0: none is known.
    """

    def __init__(self, availability: Availability, free_at: float = 0.0) -> None:
        super().__init__(availability.message or availability.reason)
        self.availability = availability
        self.free_at = free_at


@dataclass(frozen=True, slots=True)
class Candidate:
    """A credential that may be chosen. ``assigned``: number of sessions that were assigned to it recently."""

    snapshot: CredentialSnapshot
    assigned: int = 0

    @property
    def tag(self) -> str:
        """The credential's tag."""
        return self.snapshot.tag


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen candidate. ``reason``: why it was chosen, for the log: the strategy's name and the scores, if any."""

    candidate: Candidate
    reason: str

    @property
    def tag(self) -> str:
        """The chosen credential's tag."""
        return self.candidate.tag


# Scores -------------------------------------------------------------------------------------------------------


def urgency(resets_at: float, now: float) -> float:
    """Return how many times sooner than in a week the window resets, 1 … 168; 1 if the reset is unknown (0) or past."""
    if resets_at <= now:
        return 1.0
    return WEEK_HOURS / max(LEAST_HOURS, (resets_at - now) / 3600.0)


def score(snapshot: CredentialSnapshot, now: float) -> float:
    """Return the score of a credential: remaining percent x weight x urgency of its weekly window (spec 6.3).

    The credential with the highest score should be used first. The unit is percent of a Pro plan's week, weighted by
    how soon the window resets. An expired window counts as unused.
    """
    weekly = snapshot.limits.weekly
    left = remaining(weekly, snapshot.caps.weekly, now)
    return left * snapshot.plan_weight * urgency(current_reset(weekly, now), now)


def spread_score(candidate: Candidate, now: float) -> float:
    """Return the score divided by one more than the number of sessions that were recently assigned to the credential.

    The usage of such sessions is not visible yet (F8). The division is the highest-averages method (D'Hondt): if many
    sessions move at the same time, each credential gets a share of them in proportion to its score.
    """
    return score(candidate.snapshot, now) / (1 + candidate.assigned)


# Strategies ---------------------------------------------------------------------------------------------------
#
# A strategy gets at least one candidate, in the order of the configuration; all candidates are allowed and usable.


def least_used(candidates: Sequence[Candidate], now: float) -> Choice:
    """Choose the candidate with the highest score; of equals, the earlier in the list."""
    scores = [spread_score(candidate, now) for candidate in candidates]
    best = scores.index(max(scores))
    ranked = sorted(zip(scores, candidates, strict=True), key=lambda pair: -pair[0])
    named = ", ".join(f"{candidate.tag} {value:.4g}" for value, candidate in ranked[:MOST_NAMED])
    more = f" and {len(ranked) - MOST_NAMED} more" if len(ranked) > MOST_NAMED else ""
    return Choice(candidates[best], f"least-used, scores {named}{more}")


def round_robin(candidates: Sequence[Candidate], order: Sequence[str], last: str | None) -> Choice:
    """Choose the next candidate in ``order`` (all tags of the pool) after ``last``, the last chosen tag or None.

    Credentials that are no candidates are skipped, and keep their place in the order.
    """
    by_tag = {candidate.tag: candidate for candidate in candidates}
    start = order.index(last) + 1 if last in order else 0
    for tag in (*order[start:], *order[:start]):
        if tag in by_tag:
            return Choice(by_tag[tag], f"round-robin, after {last}" if last else "round-robin")
    return Choice(candidates[0], "round-robin")


def uniform(candidates: Sequence[Candidate], random: Callable[[], float]) -> Choice:
    """Choose a candidate at random, all with the same probability. ``random``: returns numbers in [0, 1)."""
    return Choice(candidates[min(int(random() * len(candidates)), len(candidates) - 1)], "random")


def fallback(candidates: Sequence[Candidate]) -> Choice:
    """Choose the first candidate."""
    return Choice(candidates[0], "fallback, the first that can serve")


# Rebalancing --------------------------------------------------------------------------------------------------


def should_rebalance(
    held: CredentialSnapshot, better: CredentialSnapshot, threshold: float, now: float
) -> bool:
    """Return whether the sessions on ``held`` should move to ``better``, which least-used would choose now (spec 6.5).

    They should if the weekly utilization of ``held`` exceeds that of ``better`` by more than ``threshold`` percent
    divided by the weight of ``held``, because one percent of a large plan is a lot. A threshold of 0 means never.
    """
    if threshold <= 0 or held.tag == better.tag:
        return False
    used, other = (current_utilization(each.limits.weekly, now) for each in (held, better))
    return used - other > threshold / held.plan_weight
