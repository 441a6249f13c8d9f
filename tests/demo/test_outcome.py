"""The demo's own judgement; the whole of it runs as a program, see tests of the Makefile and .ci/run."""

from __future__ import annotations

import sys
from io import StringIO

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.demo import outcome as demo


class ReportTests(SynchronousTestCase):
    """One line a request, and a verdict."""

    def report(self, *outcomes: demo.Outcome) -> tuple[bool, str]:
        out = StringIO()
        self.patch(sys, "stdout", out)
        return demo.report(list(outcomes)), out.getvalue()

    def test_all_went_well(self) -> None:
        well, text = self.report(demo.Outcome("a turn", "200", "200"), demo.Outcome("b", "1", "1"))
        self.assertTrue(well)
        self.assertEqual(text, "ok    a turn  200\nok    b       1\n2 requests, 0 not as they should be\n")

    def test_one_did_not(self) -> None:
        well, text = self.report(demo.Outcome("a turn", "200", "500"))
        self.assertFalse(well)
        self.assertIn("FAIL  a turn  500\n", text)
        self.assertIn("should have been: 200\n", text)
