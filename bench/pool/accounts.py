"""The accounts of the simulation: their allowances, their responses, and what a proxy learns from these."""

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
from ccmproxy.state.inputs import HeadersObserved, PollSucceeded, TokenAvailable
from ccmproxy.state.limits import SHORT_WINDOW, WEEKLY_WINDOW, LimitsUpdate, Window
from ccmproxy.testing.pump import MemoryNetwork


@dataclass(frozen=True, slots=True)
class AccountPlan:
    """A subscription.

    ``short``, ``weekly``: windows relative to the Pro plan's; ``weight``: as the proxy assumes it.
    """

    name: str
    short: float
    weekly: float
    weight: float

    @property
    def week(self) -> float:
        """Units per week."""
        return WEEKLY_ALLOWANCE * self.weekly


#: Week of the 20x plan relative to the Pro plan's, as the proxy assumes it (spec 5.2).
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
    """The head of a response. ``refused_until``: 0, or the reset in a 429; ``update``: the limits in the headers."""

    refused_until: float
    update: LimitsUpdate


class SimulatedAccount:
    """The true state of one account. ``served``: all units ever taken from it."""

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
        """Send a request. Unless it is refused, its cost is taken by :meth:`take` when its response ends."""
        windows = self.short, self.weekly
        full = [window.resets_at or now for window in windows if window.is_full(now)]
        if not full:
            self.short.begin(now)
        return Answer(max(full, default=0.0), self.told(now))

    def take(self, units: float, now: float) -> None:
        """Charge the cost of a response that has ended."""
        self.short.consume(units, now)
        self.weekly.consume(units, now)
        self.served += units

    def told(self, now: float) -> LimitsUpdate:
        """Both windows in whole percent, rounded up; the same object as long as the values are the same."""
        values = (*_percent(self.short, now), *_percent(self.weekly, now))
        if values != self._told:
            short, short_reset, weekly, weekly_reset = self._told = values
            self._update = LimitsUpdate(
                Window(short, short_reset, SHORT_WINDOW), Window(weekly, weekly_reset, WEEKLY_WINDOW)
            )
        return self._update


def _percent(window: UsageWindow, now: float) -> tuple[float, float]:
    """Reported utilization and reset; 0 for a window that has not begun."""
    # The rounding error of a sum must not raise the percentage.
    percent = math.ceil(window.utilization(now) * 100.0 - 1e-9)
    return float(percent), window.resets_at or 0.0


def make_accounts(plans: Sequence[AccountPlan], begin: float, rng: random.Random) -> list[SimulatedAccount]:
    """One account of each plan; their weeks end at different hours and, as far as possible, on different weekdays."""
    days = rng.sample(range(7), 7)
    accounts = []
    for index, plan in enumerate(plans):
        reset = begin + days[index % 7] * 86400.0 + rng.randrange(1, 24) * 3600.0
        accounts.append(SimulatedAccount(f"{plan.name}-{index + 1}", plan, reset))
    return accounts


# As the proxy knows them --------------------------------------------------------------------------------------


def _nobody(event: object) -> None:
    """Discard an event: nothing reads these logs, and the process's observers would keep them."""


SILENT = Logger(observer=_nobody)  # type: ignore[arg-type]


@implementer(ICredential)
class SimulatedCredential(Credential):
    """A real credential without a login, whose knowledge comes from an account. ``heard``: when it was last updated."""

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

    @property
    def upstream(self) -> Upstream:
        """An upstream that nothing is ever sent to."""
        return self._upstream

    async def authorize(self) -> Authorization:
        """Raise CredentialUnavailable: there is no login."""
        raise CredentialUnavailable("simulated")

    async def recover(self, rejected: Authorization, caller: str = "") -> Authorization:
        """Raise CredentialUnavailable: there is no login."""
        raise CredentialUnavailable("simulated")

    def observe(self, update: LimitsUpdate) -> None:
        """Update the state from a response; an update equal to the last one changes nothing."""
        self.heard = self._now()
        if update is self._observed and self.state is self._observed_state:
            return
        self._apply(HeadersObserved(update))
        self._observed, self._observed_state = update, self.state

    def poll_if_stale(self) -> None:
        """Do nothing: the simulation decides when to poll."""

    def poll(self) -> None:
        """Request the usage."""
        self.heard = self._now()
        self._apply(PollSucceeded(self.account.told(self.heard)))


def make_credentials(
    accounts: Sequence[SimulatedAccount], now: Callable[[], float]
) -> list[SimulatedCredential]:
    """What a proxy knows of the accounts, after one poll of each."""
    clock = Clock()  # nothing is ever scheduled on it: credentials that were not started have no timers
    network = MemoryNetwork(clock)
    connections = ConnectionPool(network.endpoint("api.example", 443), clock)
    upstream = upstream_of("https://api.example", connections)
    return [SimulatedCredential(account, upstream, clock, now) for account in accounts]
