"""Whole runs: nothing is lost between demand and windows, and what is counted is what happened."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence

from twisted.trial.unittest import SynchronousTestCase

from bench.pool.accounts import SimulatedAccount, known_plan, make_accounts
from bench.pool.demand import (
    CACHE_LIFE,
    HOUR,
    WEEK,
    Habit,
    Session,
    invent,
    request_units,
    thinned,
    total_units,
)
from bench.pool.policies import CONTENDERS, Policy, World
from bench.pool.simulation import BEGIN, OVERTIME, PATIENCE, Simulation, Tally
from tests.bench.pool.scene import SHORT, WEEKLY, accounts, conversation, session, short_sessions

POLICIES = {contender.name: contender.make for contender in CONTENDERS}


@functools.cache
def a_week() -> list[Session]:
    """What four people do."""
    team = (Habit("office", 3, 6.0, 9.0, 18.0, 12.0, 0.2), Habit("owl", 1, 6.0, 20.0, 27.0, None, 0.5))
    return invent("x", BEGIN, 1, 1.3 * 2 * WEEKLY, team)


def simulate(
    members: Sequence[SimulatedAccount],
    sessions: Sequence[Session],
    policy: str | Callable[[World], Policy] = "least-used",
    weeks: int = 1,
    warm_up: int = 0,
) -> Tally:
    """A run that is measured from its beginning on."""
    make = POLICIES[policy] if isinstance(policy, str) else policy
    return Simulation(members, sessions, make, weeks, random.Random(1), warm_up).run()


class ConservationTests(SynchronousTestCase):
    """A demand that is more than there is."""

    plans = (known_plan("pro"), known_plan("pro"))

    def setUp(self) -> None:
        self.sessions = thinned(a_week(), 1.3 * sum(plan.week for plan in self.plans))

    def simulate(self, name: str) -> tuple[list[SimulatedAccount], Tally]:
        """A week with this policy."""
        members = make_accounts(self.plans, BEGIN, random.Random(1))
        return members, simulate(members, self.sessions, name)

    def test_nothing_is_lost_and_nothing_is_given_away(self) -> None:
        for name in POLICIES:
            members, tally = self.simulate(name)
            for account in members:
                # The usage of the week that has ended, and of the current one.
                taken = sum(tally.used[account.tag]) * account.plan.week + account.weekly.used
                self.assertApproximates(taken, account.served, 1.0, name)
                # The responses that were in progress when the window filled exceed it.
                self.assertLess(max(tally.used[account.tag]), 1.05, name)
                self.assertLess(account.weekly.used, account.weekly.allowance * 1.05, name)
            self.assertApproximates(tally.spent, sum(account.served for account in members), 1.0, name)
            self.assertGreater(tally.refused, 0, name)
            self.assertGreater(tally.lost, 0.0, name)
            self.assertLessEqual(tally.done + tally.lost, total_units(self.sessions) * (1 + 1e-9), name)
            self.assertLess(tally.for_moves, tally.spent, name)

    def test_a_run_can_be_repeated(self) -> None:
        for name in ("least-used", "random", "round-robin per request", "both of these"):
            self.assertEqual(self.simulate(name)[1], self.simulate(name)[1], name)


class IdleTests(SynchronousTestCase):
    """Little or nothing to do."""

    def test_without_work_everything_lapses(self) -> None:
        tally = simulate(accounts("pro"), [], weeks=3, warm_up=1)
        self.assertEqual(tally, Tally(used={"pro-1": [0.0, 0.0, 0.0]}))

    def test_a_tiny_demand_is_served(self) -> None:
        sessions = short_sessions(10, 3 * HOUR)
        for name in POLICIES:
            tally = simulate(accounts("pro", "max_5x"), sessions, name)
            self.assertEqual((tally.refused, tally.lost), (0, 0.0), name)
            self.assertEqual((tally.asked, tally.sessions), (50, 10), name)
            self.assertApproximates(tally.done, total_units(sessions), 1.0)

    def test_warming_up_is_not_counted(self) -> None:
        sessions = [*short_sessions(3, HOUR), session("later", WEEK + HOUR, conversation(2))]
        tally = simulate(accounts("pro"), sessions, weeks=1, warm_up=1)
        self.assertEqual((tally.asked, tally.sessions), (2, 1))
        self.assertEqual(len(tally.used["pro-1"]), 1)


class MoveTests(SynchronousTestCase):
    """The cost of moving to another account."""

    def test_staying_costs_what_was_planned(self) -> None:
        talk = conversation(20)
        tally = simulate(accounts("pro", "pro"), [session("s", 0.0, talk)])
        self.assertEqual((tally.moves, tally.for_moves), (0, 0.0))
        self.assertApproximates(tally.spent, talk.units, 1.0)

    def test_a_session_moves_when_its_account_is_used_up(self) -> None:
        talk = conversation(140)
        self.assertGreater(talk.units, SHORT)
        members = accounts("pro", "pro")
        tally = simulate(members, [session("s", 0.0, talk)])
        self.assertEqual((tally.moves, tally.refused), (1, 0))
        self.assertApproximates(members[0].served / SHORT, 0.99, 0.02)
        # The second account had nothing of the context in its cache.
        self.assertApproximates(tally.spent, talk.units + tally.for_moves, 1.0)
        least = request_units("sonnet", 100_000, 0, 0, CACHE_LIFE) * 0.95
        self.assertGreater(tally.for_moves, least)

    def test_going_round_pays_for_every_account(self) -> None:
        talk = conversation(9)
        tally = simulate(accounts("pro", "pro", "pro"), [session("s", 0.0, talk)], "round-robin per request")
        self.assertEqual(tally.moves, 8)
        self.assertApproximates(tally.spent, talk.units + tally.for_moves, 1.0)
        # Two of the three begin without a cached context; later ones find what they saw three requests before.
        whole = request_units("sonnet", 100_000, 0, 0, CACHE_LIFE)
        self.assertTrue(1.8 * whole < tally.for_moves < 2.5 * whole)

    def test_a_cache_that_has_expired_costs_nothing_to_leave(self) -> None:
        talk = conversation(3, gap=CACHE_LIFE + 60.0)
        tally = simulate(accounts("pro", "pro"), [session("s", 0.0, talk)], "round-robin per request")
        self.assertEqual((tally.moves, tally.for_moves), (2, 0.0))

    def test_subagents_are_moves_of_their_own(self) -> None:
        talk = conversation(2, subagents=(conversation(3, context=10_000), conversation(3, context=10_000)))
        tally = simulate(accounts("pro", "pro"), [session("s", 0.0, talk)], "least-used, subagents spread")
        self.assertEqual((tally.moves, tally.asked), (0, 8))
        self.assertApproximates(tally.done, talk.units, 1.0)


class RefusalTests(SynchronousTestCase):
    """A refused user waits, and gives up in the end."""

    def used_up(self, until: float) -> list[SimulatedAccount]:
        """One account whose 5-hour window is full until so many seconds after the beginning."""
        members = accounts("pro")
        members[0].short.used = SHORT
        members[0].short.resets_at = BEGIN + until
        return members

    def test_it_counts_once_and_goes_on_at_the_reset(self) -> None:
        talk = conversation(3)
        tally = simulate(self.used_up(2 * HOUR), [session("s", 10.0, talk)])
        self.assertEqual((tally.asked, tally.refused, tally.lost), (3, 1, 0.0))
        self.assertApproximates(tally.done, talk.units, 1.0)

    def test_it_is_given_up_after_the_day(self) -> None:
        talk = conversation(3)
        hours = 2.0
        tally = simulate(self.used_up(4 * HOUR), [session("s", 10.0, talk, hours)])
        self.assertLess(10.0 + hours * HOUR + OVERTIME + PATIENCE, 4 * HOUR)
        self.assertEqual((tally.asked, tally.refused, tally.done), (1, 1, 0.0))
        self.assertApproximates(tally.lost, talk.units, 1.0)

    def test_a_conversation_waits_for_its_subagents_and_ends_with_them(self) -> None:
        big = conversation(200)
        talk = conversation(2, subagents=(big, conversation(2)))
        members = accounts("pro")
        members[0].weekly.used = WEEKLY - SHORT / 2
        tally = simulate(members, [session("s", 0.0, talk)])
        self.assertApproximates(tally.done + tally.lost, talk.units, 1.0)
        self.assertEqual(tally.refused, 1)
        self.assertGreater(tally.lost, talk.steps[1].units + big.steps[-1].units)
