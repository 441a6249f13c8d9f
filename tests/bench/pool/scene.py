"""Small pools and made-up demand for the tests of the pool simulation."""

from __future__ import annotations

import random
from collections.abc import Sequence

from bench.pool.accounts import SimulatedAccount, known_plan
from bench.pool.demand import CACHE_LIFE, DAY, HOUR, Conversation, Session, Step, request_units
from bench.pool.policies import World
from bench.pool.simulation import BEGIN

#: Units of a Pro plan's 5-hour window, and of its week.
SHORT, WEEKLY = 8_000_000.0, 64_000_000.0


class Time:
    """A clock that is set by hand (Unix seconds)."""

    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> float:
        return self.now


def accounts(*plans: str) -> list[SimulatedAccount]:
    """One of each of these plans; the weeks of all end six days after the beginning."""
    return [
        SimulatedAccount(f"{plan}-{number}", known_plan(plan), BEGIN + 6 * DAY)
        for number, plan in enumerate(plans, 1)
    ]


def world(members: Sequence[SimulatedAccount], time: Time) -> World:
    """What a policy is made for."""
    return World(members, time, random.Random(1))


def conversation(
    requests: int,
    *,
    context: int = 100_000,
    gap: float = 10.0,
    subagents: tuple[Conversation, ...] = (),
) -> Conversation:
    """A conversation with the middle model.

    Every request reads the whole context before it and adds 1,000 tokens; responses have 1,000. ``subagents`` begin
    with the first response.
    """
    steps = []
    kept = 0
    for number in range(requests):
        units = request_units("sonnet", context, kept, 1000, CACHE_LIFE)
        steps.append(Step(gap if number else 0.0, context, kept, 1000, units, () if number else subagents))
        kept, context = context, context + 1000
    return Conversation("sonnet", CACHE_LIFE, tuple(steps))


def session(name: str, start: float, talk: Conversation, hours: float = 8.0) -> Session:
    """A session that begins ``start`` seconds after the beginning; its user leaves ``hours`` later."""
    return Session(name, name, BEGIN + start, BEGIN + start + hours * HOUR, talk, 0.0, talk.units)


def short_sessions(count: int, every: float, requests: int = 5) -> list[Session]:
    """``count`` sessions, one every ``every`` seconds."""
    return [session(f"s{number}", number * every, conversation(requests)) for number in range(count)]
