"""The arithmetic and the table of the yamux benchmarks."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bench.yamux import Figures, medians, table


class FiguresTests(SynchronousTestCase):
    """What was measured."""

    def test_medians(self) -> None:
        rounds = [Figures(1, 30, 5, 0), Figures(3, 10, 7, 0), Figures(2, 20, 6, 9)]
        self.assertEqual(medians(rounds), Figures(2, 20, 6, 0))

    def test_table(self) -> None:
        results = {
            ("trip", "go"): Figures(10_000, 20, 60, 150),
            ("trip", "ccmproxy"): Figures(5_000, 50, 90, 300),
            ("up", "go"): Figures(1_000, 700, 0, 0),
            ("up", "ccmproxy"): Figures(500, 1400, 0, 0),
            ("down", "go"): Figures(1, 1, 0, 0),
        }
        self.assertEqual(
            table(results).splitlines()[2:],
            [
                "| `up`, MiB | 1,000 | 500 | 700.0 | 1,400.0 | - | - | 2.00 |",
                "| `trip`, round trip | 10,000 | 5,000 | 20.0 | 50.0 | 60 / 150 | 90 / 300 | 2.50 |",
            ],
        )
