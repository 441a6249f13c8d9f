"""The simulator in the driver's process, with a record by the id of each request, and all secrets that it has seen."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.soak.judging import BUSY, REFRESH_REFUSED, UNAUTHORIZED
from bench.soak.outcomes import Event, Try
from bench.soak.requests import FAULTS
from ccmproxy.simulator.accounts import SimulatedAccount
from ccmproxy.simulator.record import ReceivedRequest, Record
from ccmproxy.simulator.server import Simulator
from ccmproxy.simulator.steps import Pace

_ID = re.compile(rb"soak-[a-z0-9]+-[0-9]+")
_TOKENS = re.compile(rb'"(?:refresh_token|access_token|id_token)"\s*:\s*"([^"]+)"')
#: Life of Claude's access tokens (seconds): they are refreshed 5 minutes before its end, so every two minutes.
TOKEN_LIFETIME = 420.0
#: How much more than real ones the accounts may use: their windows shall not fill in a long run.
_PLENTY = 1e5
#: Connections of which it is remembered that they have carried a request.
_MOST_CONNECTIONS = 20_000


@dataclass(slots=True)
class _Received:
    at: float
    request: ReceivedRequest
    reused: bool


class ById(Record):
    """A record that keeps every request under its id until it is taken, and the secrets of all."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(max_requests=0)
        self._now = now
        self._by_id: dict[str, list[_Received]] = {}
        self._connections: dict[str, None] = {}
        self._refreshes: list[_Received] = []
        self.secrets: set[str] = set()

    def append(self, request: ReceivedRequest) -> None:
        """Keep it. Called before the request is answered; how that goes is looked up when it is taken."""
        if request.bearer is not None:
            self.secrets.add(request.bearer)
        found = _ID.search(request.body) or _ID.search(request.header(b"x-soak-id") or b"")
        if found is None:
            if b"refresh_token" in request.body:
                self._refreshes.append(_Received(self._now(), request, False))
            self.secrets.update(token.decode() for token in _TOKENS.findall(request.body))
            return
        reused = request.peer in self._connections
        self._connections[request.peer] = None
        if len(self._connections) > _MOST_CONNECTIONS:
            del self._connections[next(iter(self._connections))]
        self._by_id.setdefault(found[0].decode(), []).append(_Received(self._now(), request, reused))

    def take(self, identity: str) -> list[Try]:
        """Return what was recorded of a request, in the order of arrival, and forget it."""
        return [_try(received) for received in self._by_id.pop(identity, [])]

    def take_refusals(self) -> list[Event]:
        """Return the refreshes that were refused since the last call."""
        refreshes, self._refreshes = self._refreshes, []
        refused = [received.at for received in refreshes if received.request.fault is not None]
        return [Event(REFRESH_REFUSED, at, at) for at in refused]

    @property
    def left(self) -> list[str]:
        """The ids of requests that nobody has taken."""
        return list(self._by_id)


def _try(received: _Received) -> Try:
    request = received.request
    return Try(
        received.at,
        request.account or "",
        request.fault,
        request.status,
        request.state,
        request.peer,
        received.reused,
        request.endpoint,
    )


@dataclass(slots=True)
class Upstream:
    """The simulator with its accounts. ``own``: of the daemon, by service; ``lent``: of the lender, by service."""

    simulator: Simulator
    record: ById
    own: dict[str, list[SimulatedAccount]] = field(default_factory=dict)
    lent: dict[str, SimulatedAccount] = field(default_factory=dict)

    @property
    def accounts(self) -> list[SimulatedAccount]:
        """All accounts."""
        return [*(account for each in self.own.values() for account in each), *self.lent.values()]

    def secrets(self) -> set[str]:
        """Return every token that an account has now, or that the simulator has seen."""
        for account in self.accounts:
            self.record.secrets |= {account.access_token, account.refresh_token}
        return self.record.secrets


def make_upstream(reactor: Any, seed: int, now: Callable[[], float]) -> Upstream:
    """Make the simulator and its accounts. ``now``: returns seconds of a monotonic clock."""
    record = ById(now)
    simulator = Simulator(
        reactor, random.Random(seed), scenario=FAULTS, pace=Pace(first=0.05, each=0.01), record=record
    )
    upstream = Upstream(simulator, record)
    upstream.own["claude"] = [
        simulator.add_account(f"own-{number}", token_lifetime=TOKEN_LIFETIME) for number in (1, 2, 3)
    ]
    # Their tokens tell by themselves when they end, by the clock of whoever made them: under a clock that is hours
    # ahead a short one would be refreshed without end. They are refreshed when the simulator refuses one.
    upstream.own["codex"] = [simulator.add_codex_account(f"codex-own-{number}") for number in (1, 2)]
    # A process that is killed while it refreshes loses its login, as the simulator allows no token twice; the lender
    # is killed too often for short tokens.
    upstream.lent["claude"] = simulator.add_account("lent")
    upstream.lent["codex"] = simulator.add_codex_account("codex-lent")
    for account in upstream.accounts:
        for window in account.windows.values():
            window.allowance *= _PLENTY
    return upstream


def consequences(service: str, tries: Sequence[Try]) -> list[Event]:
    """Return the events that follow from what a request met: refusals that an account may be charged with."""
    names = {429: BUSY, 401: UNAUTHORIZED}
    return [
        Event(names[found.status], found.at, found.at, service) for found in tries if found.status in names
    ]
