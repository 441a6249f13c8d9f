"""Figures of runs, and their tables."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from bench.pool.simulation import Tally
from bench.pool.tables import Figures, Run, as_document, figures, load_table, mean_and_spread, plain
from tests.bench.pool.scene import accounts


def run(policy: str, refused: float, seed: int = 1, kind: str = "ccmproxy") -> Run:
    """A run in which everything but the refusals is the same."""
    return Run(100.0, seed, policy, kind, Figures(refused, 1.0, 2.0, 0.5, 3.0, 40.0, 99.0))


class FigureTests(SynchronousTestCase):
    """From a tally."""

    def test_percents(self) -> None:
        tally = Tally(
            asked=200, refused=3, sessions=10, moves=5, done=90.0, lost=10.0, spent=100.0, for_moves=4.0
        )
        tally.used = {"pro-1": [0.5, 0.7], "max_5x-2": [1.02, 0.8]}
        result = figures(tally, accounts("pro", "max_5x"))
        # Lapsed: 0.5 + 0.3 weeks of the one and 0 + 0.2 of the one that is five times as large, of 12.
        self.assertAlmostEqual(result.lapsed, 100 * (0.8 + 5 * 0.2) / 12)
        self.assertEqual((result.refused, result.lost, result.moves, result.for_moves), (1.5, 10.0, 0.5, 4.0))
        self.assertAlmostEqual(result.least_used, 60.0)
        self.assertAlmostEqual(result.most_used, 91.0)

    def test_nothing_happened(self) -> None:
        result = figures(Tally(used={"pro-1": [0.0]}), accounts("pro"))
        self.assertEqual(result, Figures(0.0, 0.0, 100.0, 0.0, 0.0, 0.0, 0.0))

    def test_spread(self) -> None:
        self.assertEqual(mean_and_spread([2.0]), (2.0, 0.0))
        self.assertEqual(mean_and_spread([1.0, 2.0, 3.0]), (2.0, 1.0))


class TableTests(SynchronousTestCase):
    """What is printed."""

    def test_one_row_per_policy(self) -> None:
        text = load_table([run("a", 1.0), run("b", 0.5, kind="naive"), run("a", 3.0, 2), run("b", 0.5, 2)])
        heading, _, first, second = text.splitlines()
        self.assertIn("requests refused %", heading)
        self.assertIn("2.00 ± 1.41", first)
        self.assertIn("0.50 ± 0.00", second)
        self.assertIn("40 / 99", first)
        self.assertTrue(second.rstrip(" |").endswith("other proxies"))

    def test_plain(self) -> None:
        lines = plain(load_table([run("a", 1.0)])).splitlines()
        self.assertEqual(len(lines), 2)
        self.assertNotIn("|", "".join(lines))
        self.assertTrue(lines[1].startswith("a "))

    def test_document(self) -> None:
        document = json.loads(json.dumps(as_document([run("a", 1.0)], {"weeks": 4})))
        self.assertEqual(document["weeks"], 4)
        self.assertEqual(document["runs"][0]["figures"]["refused"], 1.0)
