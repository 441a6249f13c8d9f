"""The WebSocket benchmark: that what it compares does the same, and its arithmetic and tables."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bench.websocket import TABLES, autobahn_cases, measure, measure_all, our_cases, size_name, table


class CaseTests(SynchronousTestCase):
    """What is measured."""

    def test_both_have_the_same_rows(self) -> None:
        rows: dict[str, set[tuple[str, str]]] = {"ours": set(), "autobahn": set()}
        for case in [*our_cases(), *autobahn_cases("autobahn, native")]:
            self.assertIn(case.column, TABLES[case.table])
            rows[case.column.partition(",")[0]].add((case.table, case.row))
        self.assertEqual(rows["ours"], rows["autobahn"])

    def test_everything_runs(self) -> None:
        """A few times on the same connection, as it is measured."""
        cases = [
            case for case in [*our_cases(), *autobahn_cases("autobahn, native")] if "MiB" not in case.row
        ]
        found = measure_all(iter(cases), 0.0)
        self.assertEqual(len(found), len(cases))
        self.assertGreater(min(found.values()), 0)


class FiguresTests(SynchronousTestCase):
    """What was measured."""

    def test_measure(self) -> None:
        """Once to see how long it takes, then three runs at least, and more of what takes less time."""
        calls: list[None] = []
        self.assertGreater(measure(lambda: calls.append(None), 0.0), 0)
        self.assertEqual(len(calls), 4)
        self.assertLess(measure(lambda: calls.append(None), 0.01), 0.001)
        self.assertGreater(len(calls), 100)

    def test_names(self) -> None:
        self.assertEqual([size_name(size) for size in (300, 4096, 1024 * 1024)], ["300 B", "4 KiB", "1 MiB"])

    def test_table(self) -> None:
        results = {
            ("masking", "16 B", "ours, in Python"): 0.000_000_4251,
            ("masking", "16 B", "autobahn, in Python"): 0.000_010_04,
            ("masking", "1 MiB", "ours, native"): 0.001_2345,
            ("UTF-8 check", "300 B", "ours"): 1.0,
        }
        self.assertEqual(
            table("masking", results).splitlines(),
            [
                "| masking, µs | ours, in Python | ours, native | autobahn, native | autobahn, in Python |",
                "|---|--:|--:|--:|--:|",
                "| 16 B | 0.425 | - | - | 10 |",
                "| 1 MiB | - | 1,234 | - | - |",
            ],
        )
