"""Ways to choose an account: the product's pool, those of other proxies, and ideas that the product does not use."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from bench.pool.accounts import SILENT, SimulatedAccount, SimulatedCredential, make_credentials
from bench.pool.scorings import ACTIVE, IDEAS, Idea
from ccmproxy.credentials.pool.pool import Pool, PoolRules
from ccmproxy.interfaces.credentials import ICredential, ILease
from ccmproxy.policy.balancing import Candidate, Choice, NoCredential, Selection
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.policy.sessions import SESSION_LIFE, Assignment


class Asked(NamedTuple):
    """A request that needs an account. ``agent``: a subagent's id within the session."""

    person: str
    session: str
    agent: str | None
    model: str


class Served(NamedTuple):
    """The account that takes the request.

    ``lease`` must be closed when the response has ended; None if there is none.
    """

    account: SimulatedAccount
    lease: ILease | None = None


class Refused(NamedTuple):
    """No account takes the request; ``until``: the reset that the client is told (Unix seconds, 0 = none)."""

    until: float


class Policy(Protocol):
    """Chooses accounts during a simulation."""

    @property
    def credentials(self) -> Sequence[SimulatedCredential]:
        """The credentials that are polled every hour; empty for a policy that does not use the reported usage."""

    def take(self, asked: Asked) -> Served | Refused:
        """An account that has answered the request with 200, or a refusal."""


class World(NamedTuple):
    """The surroundings of a policy. ``now``: Unix seconds."""

    accounts: Sequence[SimulatedAccount]
    now: Callable[[], float]
    rng: random.Random


# The product --------------------------------------------------------------------------------------------------


class QuietPool(Pool):
    """The product's pool, without its log."""

    log = SILENT


class IdeaPool(QuietPool):
    """The product's pool with another score, or with sessions that leave an account once their cache has expired."""

    def __init__(self, world: World, credentials: Sequence[ICredential], idea: Idea) -> None:
        super().__init__("pool", credentials, PoolRules(), world.now, world.rng.random)
        self._idea = idea
        #: Session → the account that served it last, and when.
        self._served: dict[tuple[str, str | None], tuple[str, float]] = {}

    def select(self, selection: Selection) -> ILease:
        """Select like the pool, and note which account served the session."""
        lease = super().select(selection)
        self._served[selection.user, selection.session] = lease.tag, self._now()
        return lease

    def _why_leave(self, selection: Selection, assignment: Assignment, model: str | None, now: float) -> str:
        why = super()._why_leave(selection, assignment, model, now)
        served = self._served.get((selection.user, selection.session))
        if not why and served is not None and now - served[1] > self._idea.leaves_after:
            return f"nothing is cached on {assignment.credential} any more"
        return why

    def _choose(self, candidates: Sequence[Candidate], now: float) -> Choice:
        self._served = {key: value for key, value in self._served.items() if now - value[1] <= SESSION_LIFE}
        active: dict[str, int] = {}
        for tag, at in self._served.values():
            if now - at <= ACTIVE:
                active[tag] = active.get(tag, 0) + 1
        return Choice(
            max(candidates, key=lambda each: self._idea.score(each, active.get(each.tag, 0), now)),
            self._idea.name,
        )


class PoolPolicy:
    """A pool, used like the proxy does: after a 429, the account is marked and the next one is tried."""

    def __init__(self, world: World, make: Callable[[World, Sequence[ICredential]], Pool]) -> None:
        self.credentials = make_credentials(world.accounts, world.now)
        self._world = world
        self._accounts = {account.tag: account for account in world.accounts}
        self._pool = make(world, [ICredential(credential) for credential in self.credentials])

    def take(self, asked: Asked) -> Served | Refused:
        """Try accounts until one serves the request (spec 4.4 and 6.4)."""
        tried: frozenset[str] = frozenset()
        while True:
            selection = Selection(
                asked.session, asked.model, excluded=tried, user=asked.person, agent=asked.agent
            )
            try:
                lease = self._pool.select(selection)
            except NoCredential as refusal:
                return Refused(refusal.availability.reset_at)
            account = self._accounts[lease.tag]
            answer = account.ask(self._world.now())
            lease.observe(answer.update)
            if not answer.refused_until:
                return Served(account, lease)
            lease.rate_limited(answer.refused_until, True)
            lease.close(LeaseOutcome.REFUSED)
            tried |= {lease.tag}


# Other proxies ------------------------------------------------------------------------------------------------


class _Blind:
    """Knows only the 429s of an account, and retries it after their reset. Ignores sessions."""

    credentials: Sequence[SimulatedCredential] = ()

    def __init__(self, world: World) -> None:
        self._world = world
        self._cooling = dict.fromkeys((account.tag for account in world.accounts), 0.0)

    def _first(self, accounts: Sequence[SimulatedAccount]) -> Served | Refused:
        """The first of these that serves."""
        now = self._world.now()
        for account in accounts:
            if self._cooling[account.tag] > now:
                continue
            answer = account.ask(now)
            if not answer.refused_until:
                return Served(account)
            self._cooling[account.tag] = answer.refused_until
        return Refused(min(self._cooling.values()))


class RoundRobinPerRequest(_Blind):
    """Sends every request to the next account, for all users together."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._next = 0

    def take(self, asked: Asked) -> Served | Refused:
        """Start with the account after the one that served last."""
        accounts = self._world.accounts
        outcome = self._first([*accounts[self._next :], *accounts[: self._next]])
        if isinstance(outcome, Served):
            self._next = (accounts.index(outcome.account) + 1) % len(accounts)
        return outcome


class FirstUntilExhausted(_Blind):
    """Sends every request to the first account in the list that has not answered 429."""

    def take(self, asked: Asked) -> Served | Refused:
        """Start at the beginning of the list."""
        return self._first(self._world.accounts)


# All of them --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contender:
    """A named policy. ``kind``: ``ccmproxy``, ``naive``, or ``idea`` for one that is not in the product."""

    name: str
    kind: str
    make: Callable[[World], Policy]


def _product(name: str, rules: PoolRules) -> Contender:
    def pool(world: World, credentials: Sequence[ICredential]) -> Pool:
        return QuietPool("pool", credentials, rules, world.now, world.rng.random)

    return Contender(name, "ccmproxy", lambda world: PoolPolicy(world, pool))


def _idea(idea: Idea) -> Contender:
    def pool(world: World, credentials: Sequence[ICredential]) -> Pool:
        return IdeaPool(world, credentials, idea)

    return Contender(idea.name, "idea", lambda world: PoolPolicy(world, pool))


CONTENDERS = (
    _product("least-used", PoolRules("least-used")),
    _product("least-used, rebalance 20", PoolRules("least-used", 20.0)),
    _product("least-used, subagents spread", PoolRules("least-used", spread_subagents=True)),
    _product("round-robin", PoolRules("round-robin")),
    _product("random", PoolRules("random")),
    _product("fallback", PoolRules("fallback")),
    Contender("round-robin per request", "naive", RoundRobinPerRequest),
    Contender("first until exhausted", "naive", FirstUntilExhausted),
    *(_idea(idea) for idea in IDEAS),
)
