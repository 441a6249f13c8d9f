"""The table: what is bad is shown as bad."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from bench.soak.judging import Judgement
from bench.soak.logs import LogFindings
from bench.soak.slopes import Trend
from bench.soak.summary import BOUNDS, Row, Tally, counts, details, document, rows, table
from tests.bench.soak.scene import broken, outcome

LEVEL = {name: Trend(0.0, 50.0, 50.0, 1.0) for name in BOUNDS}


def bad(found: list[Row]) -> list[str]:
    """The names of the bad ones."""
    return [row.name for row in found if row.bad]


class TableTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.tally = Tally()
        self.tally.add(outcome(), Judgement("", "served", ("a rule",)), 1.0)

    def made(self, **changes: object) -> list[Row]:
        """The rows, all well but for what is changed."""
        given: dict[str, object] = {
            "logs": LogFindings(),
            "trends": LEVEL,
            "events": {"reloads": "3"},
            "failures": [],
        }
        given |= changes
        return rows(self.tally, **given)  # type: ignore[arg-type]

    def test_all_is_well(self) -> None:
        found = self.made()
        self.assertEqual(bad(found), [])
        self.assertIn("| lost | 0 |", table(found))
        self.assertIn("| reloads | 3 |", table(found))
        self.assertEqual(details(found), "")

    def test_each_problem_is_bad(self) -> None:
        for problem, title in (
            ("lost", "lost"),
            ("doubled", "doubled"),
            ("hung", "hung"),
            ("running", "still answered after their end"),
            ("turned away", "turned away while there was room"),
        ):
            self.tally = Tally()
            self.tally.add(broken(), Judgement(problem, "because"), 61.0)
            found = self.made()
            self.assertEqual(bad(found), [title])
            self.assertIn(f"| {title} | **1** |", table(found))
            self.assertIn("61.0 s  soak-c1-1 (claude message of alice): because", details(found))

    def test_logs(self) -> None:
        self.assertEqual(bad(self.made(logs=LogFindings(["a"], []))), ["secrets in logs"])
        self.assertEqual(bad(self.made(logs=LogFindings([], ["a"]))), ["tracebacks in logs"])

    def test_failures(self) -> None:
        self.assertEqual(bad(self.made(failures=["no reload"])), ["failures of the daemons"])

    def test_each_slope(self) -> None:
        for name in BOUNDS:
            found = self.made(trends={**LEVEL, name: Trend(100.0, 50.0, 150.0, 1.0)})
            self.assertEqual(len(bad(found)), 1)
            self.assertTrue(bad(found)[0].startswith(name))
        self.assertEqual(bad(self.made(trends=dict.fromkeys(BOUNDS))), [])

    def test_nothing_is_bad(self) -> None:
        """A run without requests proves nothing."""
        self.tally = Tally()
        self.assertEqual(bad(self.made()), ["requests"])

    def test_only_some_findings_are_shown(self) -> None:
        found = [Row("lost", "20", True, [f"line {n}" for n in range(20)])]
        self.assertIn("… and 8 more", details(found))

    def test_counts(self) -> None:
        self.tally.add(broken(), Judgement("", "broken off (fault: cut)"), 2.0)
        told = counts(self.tally)
        for line in (
            "| claude message | 2 |",
            "| served | 1 |",
            "| broken off (fault: cut) | 1 |",
            "| a rule | 1 |",
        ):
            self.assertIn(line, told)

    def test_document(self) -> None:
        made = json.loads(json.dumps(document(self.made(), self.tally, {"seed": 1})))
        self.assertEqual(made["facts"], {"seed": 1})
        self.assertEqual(made["requests"], {"claude message": 1})
        self.assertIn({"name": "lost", "figure": "0", "bad": False, "details": []}, made["rows"])
