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
#: The request that goes first after a rest is waited for so long; then another one may go (seconds).
LONGEST_PROBE = 60.0
#: While the first request after a rest is under way, others are told to come again after so long (seconds).
PROBE_WAIT = 1.0
#: How the paths end at which models answer, in all dialects.
_MODEL_ENDPOINTS = ("/messages", "/responses", "/responses/compact", "/chat/completions")
#: How long a combination is not sent again that another account serves (seconds).
DENIED_TIME = 600.0
#: How long a model is not asked for again that the account may not use (seconds).
MODEL_DENIED_TIME = 3600.0


class Combination(NamedTuple):
    """What a request asks for, as far as a refusal may be about it. ``betas``: the client's, sorted and joined."""

    endpoint: str
    model: str = ""
    betas: str = ""

    @property
    def is_model_request(self) -> bool:
        """Whether a model answers it. What any other endpoint is refused for says nothing of models (spec 12.2)."""
        return self.endpoint.rstrip("/").endswith(_MODEL_ENDPOINTS)


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing, or nothing cold, goes there until ``until`` (Unix seconds).

    ``is_rest``: only cold work is turned away, and at the end one request goes first; ``probing``: since when it is
    under way (Unix seconds, 0 = it is not). ``step``: seconds of the last rest; ``since``: when it was last refused.
    """

    until: float
    since: float
    is_rest: bool = False
    step: float = 0.0
    probing: float = 0.0

    def is_probed(self, now: float) -> bool:
        """Whether the first request after the rest is under way. It is not waited for for ever."""
        return self.probing > 0 and 0 <= now - self.probing < LONGEST_PROBE

    def is_forgotten(self, now: float) -> bool:
        """Whether it holds nothing any more, and the next rest does not depend on it either."""
        return self.until <= now and not 0 <= now - self.since < REST_FORGOTTEN

    def moved(self, by: float) -> Hold:
        """Return the hold after the clock was set by ``by`` seconds; 0 stands for no time, and stays."""
        until, probing = (at + by if at else at for at in (self.until, self.probing))
        return replace(self, until=until, since=self.since + by, probing=probing)

    def rest_ends(self, now: float) -> float:
        """Return when the rest ends, or the next request may go instead of the first (Unix seconds); 0: none holds."""
        if not self.is_rest:
            return 0.0
        if self.until > now:
            return self.until
        return now + PROBE_WAIT if self.is_probed(now) else 0.0


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

    def moved(self, by: float) -> Holds:
        """Return the holds after the clock was set by ``by`` seconds: what they measure are durations."""
        if self.is_empty:
            return self
        return Holds(
            MappingProxyType({key: hold.moved(by) for key, hold in self.combinations.items()}),
            MappingProxyType({key: hold.moved(by) for key, hold in self.models.items()}),
            self.account and self.account.moved(by),
        )

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
        return any(rest is not None and rest.rest_ends(now) for rest in (hold, self.account))

    def free_at(self, asked: Combination, now: float) -> float:
        """When rests of it end (Unix seconds); 0: it does not rest.

        While the first request after a rest is under way, that is in a moment.
        """
        rests = (self.combinations.get(asked), self.account)
        return max((rest.rest_ends(now) for rest in rests if rest is not None), default=0.0)


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
    if account is not None and _is_next_first(account, now):
        account = replace(account, probing=now)
    combinations = holds.combinations
    hold = combinations.get(asked)
    if hold is not None and _is_next_first(hold, now):
        combinations = MappingProxyType({**combinations, asked: replace(hold, probing=now)})
    if account is holds.account and combinations is holds.combinations:
        return holds
    return replace(holds, account=account, combinations=combinations)


def _is_next_first(hold: Hold, now: float) -> bool:
    """Whether a rest has ended that was not lifted, so that the next request is the one that goes first."""
    return hold.is_rest and 0 < hold.until <= now and not hold.is_probed(now)


def gave_up(holds: Holds, asked: Combination) -> Holds:
    """The request that went first came to nothing that tells: another one may."""
    account, combinations = holds.account, holds.combinations
    if account is not None and account.probing:
        account = replace(account, probing=0.0)
    hold = combinations.get(asked)
    if hold is not None and hold.probing:
        combinations = MappingProxyType({**combinations, asked: replace(hold, probing=0.0)})
    if account is holds.account and combinations is holds.combinations:
        return holds
    return replace(holds, account=account, combinations=combinations)


def served(
    holds: Holds, asked: Combination, sent_at: float, now: float, *, is_model_request: bool = True
) -> Holds:
    """The credential has served the combination: nothing is held against it any more by refusals that came before the
    request was sent (``sent_at``), nor against the model and the account if it was a model request.

    How long it rested last stays known for a while, so that the next rest is longer if it comes soon. Returns ``holds``
    itself if nothing changes.
    """
    if holds.is_empty:
        return holds
    combinations = {
        key: _lifted(hold, sent_at) if key == asked else hold for key, hold in holds.combinations.items()
    }
    models = {
        key: _lifted(hold, sent_at) if is_model_request and key == asked.model else hold
        for key, hold in holds.models.items()
    }
    account = holds.account
    if account is not None and account.is_forgotten(now):
        account = None
    elif account is not None and is_model_request:
        account = _lifted(account, sent_at)
    changed = Holds(_lasting(combinations, now), _lasting(models, now), account)
    return holds if changed == holds else changed


def _lifted(hold: Hold, sent_at: float) -> Hold:
    """The hold after a request was served that was sent at ``sent_at``: what was refused later is not contradicted."""
    return replace(hold, until=0.0, probing=0.0) if sent_at > hold.since else hold


def _lasting(known: Mapping[_KeyT, Hold], now: float) -> Mapping[_KeyT, Hold]:
    """Those that still hold, and the rests on which the next one depends."""
    return MappingProxyType(
        {
            key: hold
            for key, hold in known.items()
            if not hold.is_forgotten(now) and (hold.is_rest or hold.until > now)
        }
    )


def _put(known: Mapping[_KeyT, Hold], key: _KeyT, hold: Hold, now: float) -> Mapping[_KeyT, Hold]:
    kept = {each: other for each, other in known.items() if not other.is_forgotten(now)}
    kept[key] = hold
    while len(kept) > MOST_HOLDS:
        del kept[min(kept, key=lambda each: (kept[each].until > now, kept[each].since))]
    return MappingProxyType(kept)
