"""Delays before the next attempt (spec 7.4)."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.backoff import GOOD_LIFE, Backoff
from tests.profiles import examples

DELAYS = [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


class BackoffTests(SynchronousTestCase):
    """Repeated failures."""

    def test_delays(self) -> None:
        backoff = Backoff(lambda: 0.0)
        self.assertEqual([backoff.failed() for _ in DELAYS], DELAYS)

    def test_up_to_half_more_at_random(self) -> None:
        backoff = Backoff(lambda: 0.5)
        self.assertEqual([backoff.failed() for _ in DELAYS], [delay * 1.25 for delay in DELAYS])

    def test_each_delay_is_drawn_anew(self) -> None:
        drawn = iter([0.0, 0.5, 0.25])
        backoff = Backoff(lambda: next(drawn))
        self.assertEqual([backoff.failed() for _ in range(3)], [2.0, 5.0, 9.0])

    def test_a_connection_that_lived_long_was_a_good_one(self) -> None:
        backoff = Backoff(lambda: 0.0)
        for _ in range(10):
            backoff.failed()
        self.assertEqual(backoff.failed(GOOD_LIFE - 0.001), 30.0)
        self.assertEqual(backoff.failed(GOOD_LIFE), 2.0)
        self.assertEqual(backoff.failed(), 4.0)
        self.assertEqual(backoff.failed(3600.0), 2.0)

    def test_a_change_makes_the_next_failure_the_first(self) -> None:
        backoff = Backoff(lambda: 0.0)
        backoff.failed()
        backoff.failed()
        backoff.reset()
        self.assertEqual(backoff.failed(), 2.0)

    # Here the sum is rounded up to 45.
    @example([0.0] * 5, 0.9999999999999999)
    @examples(50)
    @given(
        st.lists(st.floats(0, 200), max_size=30),
        st.floats(0, 1, exclude_max=True),
    )
    def test_never_none_and_never_long(self, lives: list[float], drawn: float) -> None:
        backoff = Backoff(lambda: drawn)
        for lived in lives:
            self.assertTrue(2.0 <= backoff.failed(lived) <= 45.0)

    def test_for_ever(self) -> None:
        """Failing for months neither overflows nor grows."""
        backoff = Backoff(lambda: 0.0)
        self.assertEqual({backoff.failed() for _ in range(5000)}, set(DELAYS))
