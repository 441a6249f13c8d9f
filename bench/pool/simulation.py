"""One run: a policy serves a team's demand with the accounts, event by event."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from bench.pool.accounts import SimulatedAccount, SimulatedCredential
from bench.pool.demand import HOUR, WEEK, Conversation, Session, Step, request_units
from bench.pool.policies import Asked, Policy, Refused, Served, World
from ccmproxy.credentials.polling import POLL_INTERVAL
from ccmproxy.policy.retry import LeaseOutcome

#: A Monday's midnight (Unix seconds).
BEGIN = 1_767_571_200.0
#: Weeks before measuring begins.
WARM_UP = 1
#: Retry interval after a refusal, if the named reset is not sooner, and the shortest one (seconds).
PATIENCE = 900.0
SHORTEST_WAIT = 60.0
#: Time after the end of a person's day at which refused work is given up (seconds).
OVERTIME = HOUR


@dataclass(slots=True)
class Tally:
    """The results of the measured time. Units: :mod:`ccmproxy.simulator.usage_windows`.

    ``asked``, ``refused``: requests, each counted once. ``done``, ``lost``: work that was answered and that was given
    up, in units of its cost if no conversation moves. ``spent``: units that were really taken, ``for_moves`` of them
    because a conversation had its cache on another account. ``used``: account → fraction of each of its weeks.
    """

    asked: int = 0
    refused: int = 0
    sessions: int = 0
    moves: int = 0
    done: float = 0.0
    lost: float = 0.0
    spent: float = 0.0
    for_moves: float = 0.0
    used: dict[str, list[float]] = field(default_factory=dict)


class _Thread:
    """A conversation in progress. ``cached``: account → (tokens, Unix seconds of their last use)."""

    __slots__ = (
        "agent",
        "cached",
        "conversation",
        "given_up",
        "index",
        "parent",
        "place",
        "refused",
        "session",
        "waits_for",
    )

    def __init__(
        self, session: Session, conversation: Conversation, agent: str | None, parent: _Thread | None
    ) -> None:
        self.session = session
        self.conversation = conversation
        self.agent = agent
        self.parent = parent
        self.index = 0
        #: The account that served the conversation last.
        self.place: str | None = None
        self.cached: dict[str, tuple[int, float]] = {}
        #: Whether its current request was refused before.
        self.refused = False
        self.waits_for = 0
        self.given_up = False

    @property
    def step(self) -> Step:
        """The current request."""
        return self.conversation.steps[self.index]


class Simulation:
    """One run, started by :meth:`run`. Afterwards ``tally`` and the accounts hold the results."""

    def __init__(
        self,
        accounts: Sequence[SimulatedAccount],
        sessions: Sequence[Session],
        make_policy: Callable[[World], Policy],
        weeks: int,
        rng: random.Random,
        warm_up: int = WARM_UP,
    ) -> None:
        """``weeks``: number of measured weeks, after ``warm_up`` others."""
        self.now = BEGIN
        self.tally = Tally()
        self.accounts = accounts
        self._measured_from = BEGIN + warm_up * WEEK
        self._end = self._measured_from + weeks * WEEK
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        #: Where a session's conversation was last served, as it may be resumed a day later.
        self._places: dict[str, str] = {}
        self.policy = make_policy(World(accounts, lambda: self.now, rng))
        for account in accounts:
            self.tally.used[account.tag] = []
            assert account.weekly.resets_at is not None
            self._at(account.weekly.resets_at, partial(self._week_ends, account))
        for credential in self.policy.credentials:
            self._at(BEGIN + POLL_INTERVAL, partial(self._poll, credential))
        for session in sessions:
            self._at(session.start, partial(self._begin, session))

    def run(self) -> Tally:
        """Run until the measured weeks are over; what is in progress then is left out."""
        events = self._events
        while events and events[0][0] <= self._end:
            self.now, _, happen = heapq.heappop(events)
            happen()
        return self.tally

    @property
    def _measured(self) -> bool:
        return self.now >= self._measured_from

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, happen))

    # Accounts -------------------------------------------------------------------------------------------------

    def _week_ends(self, account: SimulatedAccount) -> None:
        # The window empties itself when it is next accessed, so its content is read before.
        weekly = account.weekly
        if self._measured:
            self.tally.used[account.tag].append(weekly.used / weekly.allowance)
        weekly.pass_time(self.now)
        self._at(self.now + weekly.length, partial(self._week_ends, account))

    def _poll(self, credential: SimulatedCredential) -> None:
        """Poll, unless headers have reported the limits in the meantime (spec 4.7)."""
        if self.now - credential.heard >= POLL_INTERVAL:
            credential.poll()
        self._at(credential.heard + POLL_INTERVAL, partial(self._poll, credential))

    # Conversations --------------------------------------------------------------------------------------------

    def _begin(self, session: Session) -> None:
        if self._measured:
            self.tally.sessions += 1
        thread = _Thread(session, session.conversation, None, None)
        thread.place = self._places.get(session.name)
        self._ask(thread)

    def _ask(self, thread: _Thread) -> None:
        """Send the current request of a conversation, for the first time or again."""
        session, conversation = thread.session, thread.conversation
        if self._measured and not thread.refused:
            self.tally.asked += 1
        outcome = self.policy.take(Asked(session.person, session.name, thread.agent, conversation.model))
        if isinstance(outcome, Refused):
            self._wait(thread, outcome.until)
            return
        step = thread.step
        thread.refused = False
        units, for_moves = self._cost(thread, step, outcome.account.tag)
        if self._measured:
            self.tally.for_moves += for_moves
        self._at(self.now + step.seconds, partial(self._answered, thread, step, outcome, units))

    def _wait(self, thread: _Thread, until: float) -> None:
        if self._measured and not thread.refused:
            self.tally.refused += 1
        thread.refused = True
        again = self.now + PATIENCE
        if until:
            again = min(again, max(until, self.now + SHORTEST_WAIT))
        if again <= thread.session.leaves + OVERTIME:
            self._at(again, partial(self._ask, thread))
        else:
            self._give_up(thread)

    def _give_up(self, thread: _Thread) -> None:
        if thread.given_up:
            return
        thread.given_up = True
        if self._measured:
            # The work of its subagents, done or lost, is counted with them.
            first = thread.index + 1 if thread.waits_for else thread.index
            self.tally.lost += sum(step.all_units for step in thread.conversation.steps[first:])
        if thread.parent is not None:
            self._give_up(thread.parent)

    def _cost(self, thread: _Thread, step: Step, tag: str) -> tuple[float, float]:
        """Cost of the request on this account, and the part caused by the move from another account, in units."""
        moved = thread.place not in (None, tag)
        if moved and self._measured:
            self.tally.moves += 1
        thread.place = tag
        if thread.parent is None:
            self._places[thread.session.name] = tag
        conversation, now = thread.conversation, self.now
        oldest = now - conversation.cache_life
        here = elsewhere = 0
        for each, (tokens, at) in thread.cached.items():
            if tokens > step.kept:  # compacted since: only the beginning is unchanged
                tokens = step.kept
                thread.cached[each] = tokens, at
            if at >= oldest:
                if each == tag:
                    here = tokens
                elif tokens > elsewhere:
                    elsewhere = tokens
        thread.cached[tag] = step.context, now
        units = self._units(conversation, step, here)
        for_moves = units - self._units(conversation, step, elsewhere) if moved and elsewhere > here else 0.0
        return units, for_moves

    @staticmethod
    def _units(conversation: Conversation, step: Step, cached: int) -> float:
        return request_units(conversation.model, step.context, cached, step.output, conversation.cache_life)

    def _answered(self, thread: _Thread, step: Step, served: Served, units: float) -> None:
        served.account.take(units, self.now)
        if served.lease is not None:
            served.lease.close(LeaseOutcome.SERVED)
        if self._measured:
            self.tally.spent += units
            self.tally.done += step.units
        if not step.subagents:
            self._next(thread)
            return
        thread.waits_for = len(step.subagents)
        for number, conversation in enumerate(step.subagents):
            agent = f"{thread.index}.{number}"
            self._ask(_Thread(thread.session, conversation, agent, thread))

    def _next(self, thread: _Thread) -> None:
        """Send the next request after its gap, or end the conversation."""
        if thread.given_up:
            return
        thread.index += 1
        if thread.index < len(thread.conversation.steps):
            self._at(self.now + thread.step.gap, partial(self._ask, thread))
        elif thread.parent is not None:
            thread.parent.waits_for -= 1
            if not thread.parent.waits_for:
                self._next(thread.parent)
