"""The relay passes the Autobahn test suite, where that is installed (docs/websocket-conformance.md)."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SkipTest, TestCase

from tests.interop.autobahn import Result, find_wstest, run_cases, table

#: All but those that mostly measure: large messages, and a thousand compressed ones in a row.
CASES = (
    "1.*",
    "2.*",
    "3.*",
    "4.*",
    "5.*",
    "6.*",
    "7.*",
    "9.7.1",
    "9.8.1",
    "10.*",
    "12.1.1",
    "12.2.10",
    "13.7.1",
)


class AutobahnTests(TestCase):
    """The fuzzing client, ccmproxy, and an echo behind it."""

    timeout = 300

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    async def test_cases(self) -> None:
        from twisted.internet import reactor  # noqa: TID251 - real programs need real sockets

        try:
            wstest = find_wstest()
        except LookupError as error:
            raise SkipTest(str(error)) from None
        results = await run_cases(reactor, wstest, CASES, self.directory)
        self.assertGreaterEqual(len(results), 250)
        self.assertEqual([str(result) for result in results if not result.is_good], [])


class TableTests(TestCase):
    """What is made of the suite's words."""

    def test_failures_are_counted_and_named(self) -> None:
        results = [
            Result("1.1.1", "OK", "OK", 1000),
            Result("6.4.1", "NON-STRICT", "OK", 1007),
            Result("6.4.2", "FAILED", "OK", 1000),
            Result("7.1.1", "OK", "UNCLEAN", None),
        ]
        text = table(results)
        for line in (
            "| 1 framing | 1 | 1 | 0 | 0 | 0 |",
            "| 6 UTF-8 | 2 | 0 | 1 | 0 | 1 |",
            "| 7 close handling | 1 | 0 | 0 | 0 | 1 |",
            "| all | 4 | 1 | 1 | 0 | 2 |",
            "6.4.2: FAILED, close OK (1000)",
            "7.1.1: OK, close UNCLEAN (None)",
        ):
            self.assertIn(line, text.splitlines())
