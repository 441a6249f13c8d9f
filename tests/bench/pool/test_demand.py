"""What a team wants: repeatable, as large as asked for, within its hours."""

from __future__ import annotations

import itertools
import random

from twisted.trial.unittest import SynchronousTestCase

from bench.pool.demand import (
    CACHE_LIFE,
    DAY,
    HOUR,
    LONGEST_CONTEXT,
    PREFIX,
    SUBAGENT_CACHE_LIFE,
    WEEK,
    DemandSource,
    Habit,
    invent,
    request_units,
    thinned,
    total_units,
)
from bench.pool.simulation import BEGIN

OFFICE = (Habit("office", 3, 6.0, 9.0, 18.0, 12.0, 0.0),)


class CostTests(SynchronousTestCase):
    """What a request costs."""

    def test_reading_the_cache_is_cheap(self) -> None:
        self.assertAlmostEqual(request_units("haiku", 100_000, 0, 0, CACHE_LIFE), 200_000)
        self.assertAlmostEqual(request_units("haiku", 100_000, 100_000, 0, CACHE_LIFE), 10_000)
        self.assertAlmostEqual(request_units("haiku", 100_000, 0, 0, SUBAGENT_CACHE_LIFE), 125_000)

    def test_answers_and_larger_models_cost_more(self) -> None:
        self.assertAlmostEqual(request_units("haiku", 0, 0, 100, CACHE_LIFE), 500)
        self.assertAlmostEqual(request_units("opus", 0, 0, 100, CACHE_LIFE), 2500)


class DemandTests(SynchronousTestCase):
    """Sessions of some weeks."""

    def setUp(self) -> None:
        self.sessions = DemandSource(random.Random("x"), BEGIN, 2, OFFICE).sessions()

    def test_a_seed_repeats(self) -> None:
        self.assertEqual(self.sessions, DemandSource(random.Random("x"), BEGIN, 2, OFFICE).sessions())
        self.assertNotEqual(self.sessions, DemandSource(random.Random("y"), BEGIN, 2, OFFICE).sessions())

    def test_people_have_hours(self) -> None:
        self.assertGreater(len(self.sessions), 50)
        for session in self.sessions:
            hour = (session.start - BEGIN) % DAY / HOUR
            self.assertTrue(7.0 <= hour <= 19.5, hour)
            self.assertFalse(12.0 <= hour < 13.0 and (session.start - BEGIN) % WEEK < 5 * DAY, hour)
            self.assertGreater(session.leaves, session.start)

    def test_contexts_grow_and_are_compacted(self) -> None:
        compacted = 0
        for session in self.sessions:
            steps = session.conversation.steps
            self.assertEqual(steps[0].kept, 0)
            for before, step in itertools.pairwise(steps):
                self.assertLessEqual(step.context, LONGEST_CONTEXT)
                if step.context > before.context:
                    self.assertEqual(step.kept, before.context)
                else:
                    self.assertEqual(step.kept, PREFIX)
                    compacted += 1
        self.assertGreater(compacted, 0)

    def test_most_is_read_from_the_cache(self) -> None:
        steps = [step for session in self.sessions for step in session.conversation.steps]
        self.assertGreater(sum(step.kept for step in steps), 0.85 * sum(step.context for step in steps))

    def test_some_turns_have_subagents(self) -> None:
        steps = [step for session in self.sessions for step in session.conversation.steps]
        subagents = [each for step in steps for each in step.subagents]
        self.assertGreater(len(subagents), 20)
        self.assertTrue(all(each.cache_life == SUBAGENT_CACHE_LIFE for each in subagents))
        units = sum(step.units for step in steps) + sum(each.units for each in subagents)
        self.assertAlmostEqual(total_units(self.sessions) / units, 1.0)


class AmountTests(SynchronousTestCase):
    """As much as is asked for."""

    def test_as_much_as_is_wanted(self) -> None:
        for wanted in (2e7, 2e8, 6e8):
            total = total_units(invent("x", BEGIN, 1, wanted, OFFICE))
            self.assertGreaterEqual(total, wanted)

    def test_nobody_works(self) -> None:
        self.assertRaises(ValueError, invent, "x", BEGIN, 1, 1.0, ())

    def test_a_lower_load_is_part_of_a_higher_one(self) -> None:
        sessions = invent("x", BEGIN, 2, 6e8, OFFICE)
        total = total_units(sessions)
        half, most = thinned(sessions, total * 0.5), thinned(sessions, total * 0.8)
        self.assertApproximates(total_units(half) / total, 0.5, 0.02)
        self.assertApproximates(total_units(most) / total, 0.8, 0.02)
        self.assertLess(set(map(id, half)), set(map(id, most)))
        self.assertEqual(half, sorted(half, key=lambda session: (session.start, session.name)))
