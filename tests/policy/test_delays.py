"""Tests of :mod:`ccmproxy.policy.delays`: what others name never makes us ask all the time, or never again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.delays import LONGEST_FOREIGN_DELAY, clamped_delay, growing_delay


class DelayTests(SynchronousTestCase):
    def test_doubles_up_to_its_longest(self) -> None:
        self.assertEqual([growing_delay(n, 5, 300) for n in range(1, 9)], [5, 10, 20, 40, 80, 160, 300, 300])
        self.assertEqual(growing_delay(10**9, 5, 300), 300)

    def test_a_named_delay_is_clamped(self) -> None:
        """Spec 12.4: one below the first step changes nothing, one above 15 minutes counts as 15 minutes."""
        for named, kept in ((None, 40), (0, 40), (4.9, 40), (5, 5), (120, 120), (900, 900), (86400, 900)):
            self.assertEqual(clamped_delay(named, 40, 5), kept, named)

    @given(st.none() | st.floats(min_value=0), st.integers(min_value=1, max_value=5000))
    def test_never_shorter_than_the_first_step_and_never_too_long(
        self, named: float | None, attempts: int
    ) -> None:
        delay = clamped_delay(named, growing_delay(attempts, 30, 900), 30)
        self.assertTrue(30 <= delay <= LONGEST_FOREIGN_DELAY)
