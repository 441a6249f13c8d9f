"""``ccmproxy status``: what is printed."""

from __future__ import annotations

from tests.surfaces.cli.commanding import NOW, STATUS, CommandTestCase, statuses


class TableTests(CommandTestCase):
    """A status for people."""

    def test_table(self) -> None:
        code, out, err = self.run_command("status", answer=statuses(STATUS))
        self.assertEqual((code, err), (0, ""))
        lines = out.splitlines()
        self.assertEqual(lines[0], "window      used  resets")
        self.assertRegex(lines[1], r"^5 hours   12\.5 %  in 2h13m \(\w+ \d\d:\d\d\)$")
        self.assertEqual(lines[2], "week      80.0 %  unknown")
        self.assertEqual(lines[3], "weight        25")
        self.assertRegex(lines[4], r"^state     rate limited \(short window\), in 1m \(\w+ \d\d:\d\d\)$")
        self.assertEqual(len(lines), 5)

    def test_sing_box_and_odd_answers(self) -> None:
        for status, expected in (
            (
                {"five_hour_utilization": 1},
                ["5 hours    1.0 %  unknown", "week           ?  unknown", "weight         ?"],
            ),
            (
                {
                    "five_hour_utilization": "x",
                    "weekly_utilization": True,
                    "weekly_reset": NOW - 5,
                    "plan_weight": 1e300,
                },
                ["5 hours        ?  unknown", "week           ?  due", "weight         ?"],
            ),
            (
                {"five_hour_utilization": 0, "five_hour_reset": NOW * 1000, "availability": 5},
                ["5 hours    0.0 %  unknown", "week           ?  unknown", "weight         ?"],
            ),
            (
                {"five_hour_utilization": 0, "availability": {"state": "us\x1b[2Jable"}},
                [
                    "5 hours    0.0 %  unknown",
                    "week           ?  unknown",
                    "weight         ?",
                    "state     us?[2Jable",
                ],
            ),
            (
                {"five_hour_utilization": 0, "availability": {"state": "usable", "reason": ""}},
                [
                    "5 hours    0.0 %  unknown",
                    "week           ?  unknown",
                    "weight         ?",
                    "state     usable",
                ],
            ),
        ):
            code, out, err = self.run_command("status", answer=statuses(status))
            self.assertEqual((code, out.splitlines()[1:], err), (0, expected, ""))
