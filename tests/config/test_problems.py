"""Problems as they are shown, and what of a file may be repeated in them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config.problems import ConfigurationError, Position, Problem, Report


class ProblemTests(SynchronousTestCase):
    """One line each."""

    def test_line(self) -> None:
        problem = Problem("services[0].listen", "is wrong", "a.yaml", 3, 5)
        self.assertEqual(str(problem), "a.yaml:3: services[0].listen: is wrong")

    def test_without_place(self) -> None:
        self.assertEqual(str(Problem("", "cannot be read", "a.yaml")), "a.yaml: cannot be read")
        self.assertEqual(str(Problem("", "is empty", "a.yaml", 1, 1)), "a.yaml:1: is empty")

    def test_error(self) -> None:
        error = ConfigurationError([Problem("a", "x", "f", 1), Problem("b", "y", "f", 2)])
        self.assertEqual(str(error), "f:1: a: x\nf:2: b: y")
        self.assertEqual(len(error.problems), 2)


class ReportTests(SynchronousTestCase):
    """Places, order, names and secrets."""

    def report(self, *secrets: str) -> Report:
        """A report on a file with two options."""
        positions = {
            (): Position(1, 1),
            ("b",): Position(2, 1),
            ("a",): Position(7, 1),
            ("a", 0): Position(8, 3),
        }
        return Report("f", positions, secrets)

    def test_order_is_that_of_the_file(self) -> None:
        report = self.report()
        for path in (("a", 0), ("b",), ("a",)):
            report.add(path, "x")
        self.assertEqual([p.path for p in report.problems()], ["b", "a", "a[0]"])

    def test_closest_place(self) -> None:
        report = self.report()
        report.add(("a", 0, "missing", 3), "x")
        report.add(("zzz",), "y")
        report.add(("b",), "z", Position(99, 9))
        self.assertEqual([(p.line, p.column) for p in report.problems()], [(1, 1), (8, 3), (99, 9)])

    def test_said_once(self) -> None:
        report = self.report()
        report.add(("a",), "x")
        report.add(("a",), "x")
        self.assertEqual(len(report.problems()), 1)

    def test_names_are_shown(self) -> None:
        report = self.report()
        for name in ("work", "account-12", "a.b@c", "reserve_5h"):
            self.assertEqual(report.shown(name), f'"{name}"')

    def test_what_may_be_a_secret_is_not_shown(self) -> None:
        report = self.report("hunter", "x", "work")
        for text in (
            "a b",
            "7f3a9b1c2d",
            "sk-ant-" + "a" * 60,
            "hunter",
            "myhunter2",
            "x",
            "work",
            "",
            5,
            None,
            "a\nb",
        ):
            self.assertEqual(report.shown(text), "…", text)
        self.assertEqual(
            report.shown("xylophone"), '"xylophone"'
        )  # a secret of one letter hides nothing but itself

    def test_secrets_in_paths(self) -> None:
        report = self.report("hunter")
        report.add(("services", 0, "hunter"), "x")
        report.add(("services", 0, "token:abc"), "x")
        self.assertEqual({p.path for p in report.problems()}, {"services[0].…"})

    def test_nearest(self) -> None:
        report = self.report()
        self.assertEqual(
            report.nearest("reserv_5h", ["reserve_5h", "limit_5h"]), '; did you mean "reserve_5h"?'
        )
        self.assertEqual(report.nearest("zzz", ["reserve_5h"]), "")
        self.assertEqual(report.nearest(5, ["reserve_5h"]), "")
