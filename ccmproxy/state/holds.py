"""What a credential does not take for a while, although its windows have room (spec 12.1, 12.2). Pure values.

A *combination* is an endpoint, a model and a set of betas: the most that a refusal without known words is charged to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple, TypeVar

#: Combinations that one account keeps at most; ended or oldest go first (spec 12.5).
MOST_HOLDS = 32
#: A rest without a Retry-After: the first step, and the longest (seconds).
FIRST_REST = 5.0
LONGEST_REST = 60.0
#: A Retry-After is clamped to this (seconds).
SHORTEST_REST = 1.0
#: After so long without a refusal the steps begin anew (seconds).
REST_FORGOTTEN = 120.0
#: How long a combination is not sent again that another account serves (seconds).
DENIED_TIME = 600.0
#: How long a model is not asked for again that the account may not use (seconds).
MODEL_DENIED_TIME = 3600.0


class Combination(NamedTuple):
    """What a request asks for, as far as a refusal may be about it. ``betas``: the client's, sorted and joined."""

    endpoint: str
    model: str = ""
    betas: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing, or nothing cold, goes there until ``until`` (Unix seconds).

    ``is_rest``: only cold work is turned away, and at the end one request goes first (``probing``: it is under way).
    ``step``: seconds of the last rest; ``since``: when it was last refused.
    """

    until: float
    since: float
    is_rest: bool = False
    step: float = 0.0
    probing: bool = False


_KeyT = TypeVar("_KeyT")
_NONE: Mapping[Combination, Hold] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Holds:
    """All holds of one credential. ``account``: a rest of the account as a whole; ``models``: model → hold."""

    combinations: Mapping[Combination, Hold] = field(default_factory=lambda: _NONE)
    models: Mapping[str, Hold] = field(default_factory=lambda: MappingProxyType({}))
    account: Hold | None = None

    @property
    def is_empty(self) -> bool:
        """Nothing is held."""
        return not self.combinations and not self.models and self.account is None

    def turns_away(self, asked: Combination, is_warm: bool, now: float) -> bool:
        """Whether a request does not go there. ``is_warm``: its session was served there within the last minutes."""
        model = self.models.get(asked.model)
        if model is not None and now < model.until:
            return True
        hold = self.combinations.get(asked)
        if hold is not None and not hold.is_rest and now < hold.until:
            return True
        if is_warm:
            return False
        return any(
            rest is not None and rest.is_rest and (now < rest.until or rest.probing)
            for rest in (hold, self.account)
        )

    def free_at(self, asked: Combination, now: float) -> float:
        """When rests of it end (Unix seconds); 0: it does not rest."""
        rests = (self.combinations.get(asked), self.account)
        return max(
            (rest.until for rest in rests if rest is not None and rest.is_rest and rest.until > now),
            default=0.0,
        )


NOTHING_HELD = Holds()


def rested(holds: Holds, asked: Combination | None, wait: float | None, now: float) -> Holds:
    """A combination (None: the account) was refused without data, and takes no cold work for a while.

    For its Retry-After within 1 to 60 s; without one for 5 s, doubling to 60 s while it goes on.
    """
    known = holds.account if asked is None else holds.combinations.get(asked)
    if wait is not None:
        step = min(max(wait, SHORTEST_REST), LONGEST_REST)
    elif known is not None and known.is_rest and 0 <= now - known.since < REST_FORGOTTEN:
        step = min(max(known.step, FIRST_REST / 2) * 2, LONGEST_REST)
    else:
        step = FIRST_REST
    hold = Hold(now + step, now, True, step)
    if asked is None:
        return replace(holds, account=hold)
    return replace(holds, combinations=_put(holds.combinations, asked, hold, now))


def denied(holds: Holds, asked: Combination, now: float) -> Holds:
    """Another account serves the combination, this one refuses it."""
    return replace(holds, combinations=_put(holds.combinations, asked, Hold(now + DENIED_TIME, now), now))


def model_denied(holds: Holds, model: str, now: float) -> Holds:
    """The account may not use the model."""
    return replace(holds, models=_put(holds.models, model, Hold(now + MODEL_DENIED_TIME, now), now))


def sent(holds: Holds, asked: Combination, now: float) -> Holds:
    """A request goes there. Where a rest is over it is the one that goes first: others wait for what becomes of it."""
    account = holds.account
    if account is not None and account.until <= now and not account.probing:
        account = replace(account, probing=True)
    combinations = holds.combinations
    hold = combinations.get(asked)
    if hold is not None and hold.is_rest and hold.until <= now and not hold.probing:
        combinations = MappingProxyType({**combinations, asked: replace(hold, probing=True)})
    if account is holds.account and combinations is holds.combinations:
        return holds
    return replace(holds, account=account, combinations=combinations)


def gave_up(holds: Holds, asked: Combination) -> Holds:
    """The request that went first came to nothing that tells: another one may."""
    account, combinations = holds.account, holds.combinations
    if account is not None and account.probing:
        account = replace(account, probing=False)
    hold = combinations.get(asked)
    if hold is not None and hold.probing:
        combinations = MappingProxyType({**combinations, asked: replace(hold, probing=False)})
    return replace(holds, account=account, combinations=combinations)


def served(holds: Holds, asked: Combination) -> Holds:
    """The credential has served the combination: nothing is held against it any more, nor against the account.

    How long it rested last stays known for a while, so that the next rest is longer if it comes soon.
    """
    if holds.is_empty:
        return holds
    combinations = {key: hold for key, hold in holds.combinations.items() if key != asked or hold.is_rest}
    if asked in combinations:
        combinations[asked] = replace(combinations[asked], until=0.0, probing=False)
    models = {key: hold for key, hold in holds.models.items() if key != asked.model}
    account = None if holds.account is None else replace(holds.account, until=0.0, probing=False)
    return Holds(MappingProxyType(combinations), MappingProxyType(models), account)


def _put(known: Mapping[_KeyT, Hold], key: _KeyT, hold: Hold, now: float) -> Mapping[_KeyT, Hold]:
    kept = {
        each: other
        for each, other in known.items()
        if other.until > now or now - other.since < REST_FORGOTTEN
    }
    kept[key] = hold
    while len(kept) > MOST_HOLDS:
        del kept[min(kept, key=lambda each: kept[each].since)]
    return MappingProxyType(kept)
