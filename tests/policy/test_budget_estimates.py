"""What is reserved for a request (spec 9.6)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.budget_estimates import USUAL_OUTPUT, estimate
from ccmproxy.state.usage_record import LONG_WINDOW


class EstimateTests(SynchronousTestCase):
    """The rule, as a table."""

    def test_table(self) -> None:
        for size, mean, most, read, written in (
            (0, None, None, 0, USUAL_OUTPUT),
            (1, None, None, 1, USUAL_OUTPUT),
            (4, None, None, 1, USUAL_OUTPUT),
            (5, None, None, 2, USUAL_OUTPUT),
            (400_000, 350.4, 32_000, 100_000, 350),
            (400_000, None, 32_000, 100_000, USUAL_OUTPUT),
            (400_000, None, 1, 100_000, 1),
            (400_000, 5000.0, 1024, 100_000, 1024),
            (400_000, 0.0, 1024, 100_000, 0),
            (30_000_000, 300.0, None, LONG_WINDOW, 300),
            (-1, -1.0, -1, 0, 0),
        ):
            found = estimate(size, mean, most)
            self.assertEqual(found, (read, written), (size, mean, most))
            self.assertEqual(found.total, read + written)

    @given(st.integers(), st.none() | st.floats(), st.none() | st.integers())
    def test_never_raises_and_is_bounded(self, size: int, mean: float | None, most: int | None) -> None:
        found = estimate(size, mean, most)
        self.assertTrue(0 <= found.input <= LONG_WINDOW and 0 <= found.output <= LONG_WINDOW)
