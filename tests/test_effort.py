"""Counting work."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.framing import is_token
from tests.effort import Effort


class EffortTests(SynchronousTestCase):
    """What is counted, and what is not."""

    def test_lines_of_the_package_alone(self) -> None:
        with Effort() as effort:
            for _ in range(10):
                is_token(b"a")
                self.assertTrue(True)
        self.assertEqual(effort.lines, 10)

    def test_memory_at_its_peak(self) -> None:
        with Effort(memory=True) as effort:
            bytes(1_000_000)
        self.assertGreater(effort.peak, 1_000_000)
        self.assertLess(effort.peak, 1_100_000)
