"""Secrets and tracebacks in logs are found."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bench.soak.logs import look_through

TRACEBACK = """\
2026-01-01 [a] something before
2026-01-01 [-] Unhandled error in Deferred:
Traceback (most recent call last):
  File "x.py", line 1, in x
builtins.ValueError: x
2026-01-01 [a] something after
"""


class LogTests(SynchronousTestCase):
    def test_an_innocent_log(self) -> None:
        found = look_through("daemon", "a line\nanother one\n", {"the-token-of-alice"})
        self.assertEqual((found.secrets, found.tracebacks), ([], []))

    def test_a_secret(self) -> None:
        """The finding itself does not repeat it."""
        found = look_through(
            "daemon", "a line\nBearer the-token-of-alice!\n", {"the-token-of-alice", "other-token"}
        )
        self.assertEqual(found.secrets, ["daemon:2: Bearer <secret of 18 characters>!"])

    def test_a_short_word_is_no_secret(self) -> None:
        self.assertEqual(look_through("daemon", "a line\n", {"line", ""}).secrets, [])

    def test_a_traceback_counts_once(self) -> None:
        found = look_through("lender", TRACEBACK, ())
        self.assertEqual(len(found.tracebacks), 1)
        self.assertTrue(found.tracebacks[0].startswith("lender:2: "))
        self.assertIn("something before", found.tracebacks[0])
        self.assertTrue(found.tracebacks[0].endswith("builtins.ValueError: x"))

    def test_two_tracebacks(self) -> None:
        found = look_through("lender", TRACEBACK + TRACEBACK, ())
        self.assertEqual(len(found.tracebacks), 2)
