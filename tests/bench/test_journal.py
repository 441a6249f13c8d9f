"""The arithmetic and the table of the journal's benchmark."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from bench.journal import Figures, figures, measure, table


class FiguresTests(SynchronousTestCase):
    """What was measured."""

    def test_percentiles(self) -> None:
        found = figures([1_000_001, *(1000 * each for each in range(999))])
        self.assertEqual(found, Figures(1000, 500.0, 990.0, 1000.001, 1000.001, 1))
        self.assertEqual(figures([5000]), Figures(1, 5.0, 5.0, 5.0, 5.0, 0))

    def test_table(self) -> None:
        lines = table({"paced": Figures(10_000, 1.24, 20, 300, 4000, 3)}).splitlines()
        self.assertEqual(lines[2:], ["| paced | 10,000 | 1.2 | 20.0 | 300.0 | 4,000.0 | 3 |"])

    def test_a_short_measurement(self) -> None:
        """It leaves nothing behind."""
        folder = os.path.join(self.mktemp(), "journal")
        self.assertGreater(measure(folder, 1000, False, 0.05).number, 0)
        self.assertEqual(
            [each for each in os.listdir(folder) if not each.endswith((".journal", ".lock"))], []
        )
