"""The work that a team wants to do in some weeks: people, sessions, conversations, requests; equal for every policy."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ccmproxy.dialects.usage import Tokens
from ccmproxy.simulator.claude.simulated_account import MODEL_WEIGHTS
from ccmproxy.simulator.usage_windows import cost

HOUR = 3600.0
DAY = 24 * HOUR
WEEK = 7 * DAY

#: Tokens of system prompt, tools and project notes at the beginning of a conversation, kept by a compaction.
PREFIX = 24_000
SUBAGENT_PREFIX = 14_000
#: A longer conversation is compacted to the prefix and a summary (tokens).
LONGEST_CONTEXT = 160_000
SUMMARY = 9_000
#: Seconds until a response begins, and tokens per second from then on.
FIRST_TOKEN = 2.0
TOKENS_PER_SECOND = 70.0
#: Lifetime of a cache entry after its last use (seconds).
CACHE_LIFE = 3600.0
SUBAGENT_CACHE_LIFE = 300.0


@dataclass(frozen=True, slots=True)
class Habit:
    """The working habits of one kind of people.

    Hours of the day, beyond 24 after midnight; ``lunch``: None for no lunch break. ``sessions``: per day, relative to
    other kinds. ``weekends``: share of the weekend days that are worked.
    """

    name: str
    people: int
    sessions: float
    begins: float
    ends: float
    lunch: float | None
    weekends: float


TEAM = (
    Habit("heavy", 3, 10.0, 9.0, 19.0, 13.0, 0.25),
    Habit("regular", 6, 5.0, 9.0, 18.0, 12.5, 0.05),
    Habit("light", 4, 1.5, 9.5, 17.0, 12.0, 0.0),
    Habit("owl", 2, 6.0, 20.0, 27.0, None, 0.4),
)
#: Share of the working days that a person takes off, and the variation between weeks (sigma of a lognormal).
FREE_DAYS = 0.08
WEEKS_DIFFER = 0.4
#: Share of the sessions that are resumed the next morning.
RESUMED = 0.1
#: Share of the turns that start subagents.
TURNS_WITH_SUBAGENTS = 0.1


@dataclass(frozen=True, slots=True)
class Step:
    """One request. ``gap``: seconds since the response before it. ``context``, ``output``: tokens.

    ``kept``: tokens that its context has in common, at the beginning, with the request before. ``units``: its cost if
    no conversation moves or waits. ``subagents``: begin with its response; the next step waits for them.
    """

    gap: float
    context: int
    kept: int
    output: int
    units: float
    subagents: tuple[Conversation, ...] = ()

    @property
    def seconds(self) -> float:
        """Seconds until its response has ended."""
        return FIRST_TOKEN + self.output / TOKENS_PER_SECOND

    @property
    def all_units(self) -> float:
        """Its units and those of its subagents."""
        return self.units + sum(each.units for each in self.subagents)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Consecutive requests. ``cache_life`` in seconds."""

    model: str
    cache_life: float
    steps: tuple[Step, ...]

    @property
    def units(self) -> float:
        """Cost of the whole conversation, subagents included."""
        return sum(step.all_units for step in self.steps)


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation that a person begins at ``start`` and gives up some time after ``leaves`` (Unix seconds).

    ``draw``: a number in [0, 1) that determines the load from which on the session takes place. A resumed session is a
    second one of the same ``name``.
    """

    person: str
    name: str
    start: float
    leaves: float
    conversation: Conversation
    draw: float = 0.0
    units: float = 0.0


def request_units(model: str, context: int, cached: int, output: int, cache_life: float) -> float:
    """Cost of one request that reads ``cached`` tokens from the cache and writes the rest to it."""
    written = context - cached
    long = cache_life > SUBAGENT_CACHE_LIFE
    tokens = Tokens(
        output=output,
        cache_read=cached,
        cache_creation=written,
        cache_creation_5m=0 if long else written,
        cache_creation_1h=written if long else 0,
    )
    return cost(tokens, MODEL_WEIGHTS[model])


class DemandSource:
    """Generates the work of a team. All randomness comes from ``rng``."""

    def __init__(self, rng: random.Random, begin: float, weeks: int, team: Sequence[Habit] = TEAM) -> None:
        """``begin``: a Monday's midnight (Unix seconds)."""
        self._rng = rng
        self._begin = begin
        self._weeks = weeks
        self._team = team

    def sessions(self, busy: float = 1.0) -> list[Session]:
        """All sessions, by their start. ``busy``: their number, relative to the habits."""
        found = [
            session
            for habit in self._team
            for number in range(habit.people)
            for session in self._person(f"{habit.name}-{number + 1}", habit, busy)
        ]
        return sorted(found, key=lambda session: (session.start, session.name))

    def _person(self, name: str, habit: Habit, busy: float) -> Iterator[Session]:
        rng = self._rng
        habitual = rng.uniform(-1.0, 1.0)  # hours earlier or later than others
        for week in range(self._weeks):
            factor = busy * rng.lognormvariate(-(WEEKS_DIFFER**2) / 2, WEEKS_DIFFER)
            for day in range(7):
                works = habit.weekends if day >= 5 else 1.0 - FREE_DAYS
                if rng.random() >= works:
                    continue
                midnight = self._begin + week * WEEK + day * DAY
                shift = habitual + rng.uniform(-0.5, 0.5)
                first = midnight + (habit.begins + shift) * HOUR
                leaves = midnight + (habit.ends + shift) * HOUR
                lunch = None if habit.lunch is None else midnight + habit.lunch * HOUR
                for number in range(self._poisson(habit.sessions * factor)):
                    start = _after_lunch(rng.uniform(first, leaves - 0.5 * HOUR), lunch)
                    yield from self._session(f"{name}/{week}.{day}.{number}", name, start, leaves, lunch)

    def _session(
        self, name: str, person: str, start: float, leaves: float, lunch: float | None
    ) -> Iterator[Session]:
        rng = self._rng
        draw = rng.random()
        model = "opus" if rng.random() < 0.55 else "sonnet"
        conversation = self._conversation(model, start, leaves, lunch, PREFIX)
        yield Session(person, name, start, leaves, conversation, draw, conversation.units)
        if rng.random() < RESUMED:
            context = conversation.steps[-1].context
            again = self._conversation(model, start + DAY, leaves + DAY, None, context)
            yield Session(person, name, start + DAY, leaves + DAY, again, draw, again.units)

    def _conversation(
        self, model: str, start: float, leaves: float, lunch: float | None, context: int
    ) -> Conversation:
        """Turns until there are enough, or it is time to leave."""
        rng = self._rng
        steps: list[Step] = []
        at, gap, kept = start, 0.0, 0
        context += self._tokens(600, 1.0)
        for turn in range(1 + self._geometric(9.0)):
            if turn:
                gap = rng.lognormvariate(4.8, 1.4)  # two minutes, now and then an hour
                gap = _after_lunch(at + gap, lunch) - at
                context += self._tokens(300, 1.2)
            if at + gap > leaves and steps:
                break
            requests = 1 + self._geometric(6.0)
            delegates = rng.randrange(requests) if rng.random() < TURNS_WITH_SUBAGENTS else -1
            for request in range(requests):
                if context > LONGEST_CONTEXT:
                    context, kept = PREFIX + SUMMARY, PREFIX
                output = self._tokens(450, 1.1)
                cached = kept if gap <= CACHE_LIFE else 0
                subagents = self._subagents() if request == delegates else ()
                units = request_units(model, context, cached, output, CACHE_LIFE)
                step = Step(gap, context, kept, output, units, subagents)
                steps.append(step)
                at += gap + step.seconds + max((_duration(each) for each in subagents), default=0.0)
                kept = context
                context += output + self._tokens(1800, 1.2)
                gap = rng.lognormvariate(1.6, 1.0)  # five seconds of tools
        return Conversation(model, CACHE_LIFE, tuple(steps))

    def _subagents(self) -> tuple[Conversation, ...]:
        return tuple(self._subagent() for _ in range(self._rng.randint(1, 4)))

    def _subagent(self) -> Conversation:
        rng = self._rng
        model = "sonnet" if rng.random() < 0.6 else "haiku"
        context, kept, gap = SUBAGENT_PREFIX + self._tokens(800, 0.8), 0, 0.0
        steps = []
        for _ in range(2 + self._geometric(7.0)):
            output = self._tokens(400, 1.0)
            cached = kept if gap <= SUBAGENT_CACHE_LIFE else 0
            units = request_units(model, context, cached, output, SUBAGENT_CACHE_LIFE)
            steps.append(Step(gap, context, kept, output, units))
            kept = context
            context += output + self._tokens(2000, 1.2)
            gap = rng.lognormvariate(1.6, 1.0)
        return Conversation(model, SUBAGENT_CACHE_LIFE, tuple(steps))

    def _tokens(self, median: int, sigma: float) -> int:
        """Lognormal, 20,000 at most, because tools truncate their results."""
        return min(20_000, max(1, int(median * self._rng.lognormvariate(0.0, sigma))))

    def _geometric(self, mean: float) -> int:
        """0, 1, 2, … with this mean: the whole part of an exponential."""
        return int(self._rng.expovariate(math.log1p(1.0 / mean)))

    def _poisson(self, mean: float) -> int:
        """Number of events in a day: exponential gaps until the day is over."""
        count, passed = 0, self._rng.expovariate(1.0)
        while passed < mean:
            count += 1
            passed += self._rng.expovariate(1.0)
        return count


def _after_lunch(at: float, lunch: float | None) -> float:
    """The time ``at``, postponed until after lunch if it falls into the lunch hour."""
    return at + HOUR if lunch is not None and lunch <= at < lunch + HOUR else at


def _duration(conversation: Conversation) -> float:
    """Seconds that the conversation takes if nothing is refused."""
    return sum(step.gap + step.seconds for step in conversation.steps)


def invent(seed: str, begin: float, weeks: int, units: float, team: Sequence[Habit] = TEAM) -> list[Session]:
    """Sessions of a team that cost ``units`` or somewhat more; the more units, the busier the team.

    Raises ValueError for a team that does nothing.
    """
    busy = 0.1
    while True:
        sessions = DemandSource(random.Random(seed), begin, weeks, team).sessions(busy)
        total = total_units(sessions)
        if total >= units:
            return sessions
        if not total:
            raise ValueError("nobody works")
        busy *= max(1.1, 1.1 * units / total)


def thinned(sessions: Sequence[Session], units: float) -> list[Session]:
    """A part of the sessions that costs about ``units``; the part for fewer units is within the part for more."""
    kept, total = set(), 0.0
    for session in sorted(sessions, key=lambda session: (session.draw, session.start)):
        if total + session.units / 2 > units:
            break
        total += session.units
        kept.add((session.name, session.start))
    return [session for session in sessions if (session.name, session.start) in kept]


def total_units(sessions: Iterable[Session]) -> float:
    """Cost of the sessions if no conversation moves or waits."""
    return sum(session.units for session in sessions)
