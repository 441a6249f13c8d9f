"""The accounts of the simulation: what they have, what they answer, and what a proxy learns of that."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from twisted.internet.task import Clock
from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.credentials.credential import Credential
from ccmproxy.credentials.destination import Upstream, upstream_of
from ccmproxy.dialects.claude.account_format import ClaudeAccountFormat
from ccmproxy.dialects.oauth import Authorization, OAuthToken
from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.interfaces.credentials import CredentialUnavailable, ICredential
from ccmproxy.simulator.claude.simulated_account import PLANS
from ccmproxy.simulator.usage_windows import SHORT_ALLOWANCE, WEEKLY_ALLOWANCE, UsageWindow
from ccmproxy.state.availability import Caps
from ccmproxy.state.limits import SHORT_WINDOW, WEEKLY_WINDOW, LimitsUpdate, Window
from ccmproxy.state.transitions import HeadersObserved, PollSucceeded, TokenAvailable
from ccmproxy.testing.pump import MemoryNetwork


@dataclass(frozen=True, slots=True)
class AccountPlan:
    """A subscription. ``short``, ``weekly``: windows relative to the Pro plan's; ``weight``: as the proxy has it."""

    name: str
    short: float
    weekly: float
    weight: float

    @property
    def week(self) -> float:
        """Units per week."""
        return WEEKLY_ALLOWANCE * self.weekly


#: Week of the 20x plan relative to the Pro plan's: what the proxy takes it for (spec 5.2).
LARGE_WEEK = 10.0
#: Plans of the pool, in the order of the configuration.
POOL = ("pro", "max_20x", "max_5x", "team", "pro")


def known_plan(name: str, large_week: float = LARGE_WEEK) -> AccountPlan:
    """A plan of the simulator, with the weight that the proxy gives it. Raises KeyError.

    ``large_week``: of the 20x plan, in place of the simulator's.
    """
    plan = PLANS[name]
    login = OAuthToken("", plan=plan.subscription_type, tier=plan.rate_limit_tier)
    weekly = large_week if name == "max_20x" else plan.size
    return AccountPlan(name, plan.size, weekly, ClaudeAccountFormat().plan_weight(login))


class Answer(NamedTuple):
    """What comes back at once. ``refused_until``: 0, or the reset that a 429 names; ``update``: what headers tell."""

    refused_until: float
    update: LimitsUpdate


class SimulatedAccount:
    """The truth about one account. ``served``: all units ever taken from it."""

    def __init__(self, tag: str, plan: AccountPlan, weekly_reset: float) -> None:
        """``weekly_reset``: when its weekly window ends for the first time (Unix seconds)."""
        self.tag = tag
        self.plan = plan
        self.short = UsageWindow(SHORT_WINDOW, SHORT_ALLOWANCE * plan.short)
        self.weekly = UsageWindow(WEEKLY_WINDOW, plan.week, recurring=True, resets_at=weekly_reset)
        self.served = 0.0
        self._told: tuple[float, ...] = ()
        self._update = LimitsUpdate()

    def __repr__(self) -> str:
        return f"<SimulatedAccount {self.tag}>"

    def ask(self, now: float) -> Answer:
        """A request comes. Its cost, if it is not refused, is taken by :meth:`take` when its answer ends."""
        windows = self.short, self.weekly
        full = [window.resets_at or now for window in windows if window.is_full(now)]
        if not full:
            self.short.begin(now)
        return Answer(max(full, default=0.0), self.told(now))

    def take(self, units: float, now: float) -> None:
        """An answer has ended that cost so much."""
        self.short.consume(units, now)
        self.weekly.consume(units, now)
        self.served += units

    def told(self, now: float) -> LimitsUpdate:
        """Both windows in whole percent, rounded up; the same object as long as they are the same."""
        values = (*_percent(self.short, now), *_percent(self.weekly, now))
        if values != self._told:
            short, short_reset, weekly, weekly_reset = self._told = values
            self._update = LimitsUpdate(
                Window(short, short_reset, SHORT_WINDOW), Window(weekly, weekly_reset, WEEKLY_WINDOW)
            )
        return self._update


def _percent(window: UsageWindow, now: float) -> tuple[float, float]:
    """Utilization as it is told, and the reset; 0 for a window that has not begun."""
    # What is over by a rounding error of a sum is not over.
    percent = math.ceil(window.utilization(now) * 100.0 - 1e-9)
    return float(percent), window.resets_at or 0.0


def make_accounts(plans: Sequence[AccountPlan], begin: float, rng: random.Random) -> list[SimulatedAccount]:
    """One account of each plan; their weeks end at hours of their own, on different weekdays while there are some."""
    days = rng.sample(range(7), 7)
    accounts = []
    for index, plan in enumerate(plans):
        reset = begin + days[index % 7] * 86400.0 + rng.randrange(1, 24) * 3600.0
        accounts.append(SimulatedAccount(f"{plan.name}-{index + 1}", plan, reset))
    return accounts


# As the proxy knows them --------------------------------------------------------------------------------------


def _nobody(event: object) -> None:
    """Nobody reads these logs, and the process's observers would keep them."""


SILENT = Logger(observer=_nobody)  # type: ignore[arg-type]


@implementer(ICredential)
class SimulatedCredential(Credential):
    """A real credential without a login: what it knows, an account told it. ``heard``: when it last did."""

    log = SILENT

    def __init__(
        self,
        account: SimulatedAccount,
        upstream: Upstream,
        clock: Clock,
        now: Callable[[], float],
        caps: Caps | None = None,
    ) -> None:
        super().__init__(account.tag, caps or Caps(), clock, now)
        self.account = account
        self.heard = 0.0
        self._upstream = upstream
        self._apply(TokenAvailable(account.plan.weight))
        self.poll()

    is_api_key = False

    @property
    def upstream(self) -> Upstream:
        """A place that nothing is ever sent to."""
        return self._upstream

    async def authorize(self) -> Authorization:
        """Raises CredentialUnavailable: there is no login."""
        raise CredentialUnavailable("simulated")

    async def recover(self, rejected: Authorization) -> Authorization:
        """Raises CredentialUnavailable: there is no login."""
        raise CredentialUnavailable("simulated")

    def observe(self, update: LimitsUpdate) -> None:
        """State learnt from an answer; what was said before changes nothing."""
        self.heard = self._now()
        if update is self._observed and self.state is self._observed_state:
            return
        self._apply(HeadersObserved(update))
        self._observed, self._observed_state = update, self.state

    def poll_if_stale(self) -> None:
        """Nothing: the simulation polls when it is time."""

    def poll(self) -> None:
        """Ask for the usage."""
        self.heard = self._now()
        self._apply(PollSucceeded(self.account.told(self.heard)))


def make_credentials(
    accounts: Sequence[SimulatedAccount], now: Callable[[], float]
) -> list[SimulatedCredential]:
    """What a proxy knows of the accounts, each polled once."""
    clock = Clock()  # nothing is ever scheduled on it: credentials that were not started keep no timers
    network = MemoryNetwork(clock)
    connections = ConnectionPool(network.endpoint("api.example", 443), clock)
    upstream = upstream_of("https://api.example", connections)
    return [SimulatedCredential(account, upstream, clock, now) for account in accounts]
