"""Windows begin with their first use, fill, and empty when their reset passes."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.usage import Tokens
from ccmproxy.simulator.usage_windows import UsageWindow, cost, short_window, weekly_window, weight_of


class CostTests(SynchronousTestCase):
    """What tokens take from a window."""

    def test_every_kind_counts_differently(self) -> None:
        tokens = Tokens(
            input=100,
            output=10,
            cache_read=1000,
            cache_creation=60,
            cache_creation_5m=40,
            cache_creation_1h=20,
        )
        self.assertEqual(cost(tokens, 1.0), 100 + 50 + 100 + 50 + 40)
        self.assertEqual(cost(tokens, 5.0), 5 * cost(tokens, 1.0))


class PlanTests(SynchronousTestCase):
    """What plans and models are worth."""

    def test_windows_of_a_plan(self) -> None:
        short, weekly = short_window(2.0, 10.0), weekly_window(2.0, 10.0)
        self.assertEqual((short.length, short.allowance, short.recurring), (1800.0, 16_000_000.0, False))
        self.assertEqual((weekly.length, weekly.allowance, weekly.recurring), (60480.0, 128_000_000.0, True))

    def test_prices(self) -> None:
        weights = {"mini": 1.0, "pro": 10.0}
        self.assertEqual(weight_of("gpt-5-mini", weights, 3.0), 1.0)
        self.assertEqual(weight_of("gpt-5-pro-mini", weights, 3.0), 1.0)
        self.assertEqual(weight_of("gpt-5", weights, 3.0), 3.0)


class UsageWindowTests(SynchronousTestCase):
    """One window's life."""

    def test_begins_with_the_first_use(self) -> None:
        window = UsageWindow(length=100.0, allowance=50.0)
        self.assertEqual(window.utilization(7.0), 0.0)
        self.assertIsNone(window.resets_at)
        window.consume(10.0, 7.0)
        self.assertEqual(window.resets_at, 107.0)
        window.consume(15.0, 50.0)
        self.assertEqual(window.resets_at, 107.0)
        self.assertEqual(window.utilization(106.9), 0.5)

    def test_empties_at_its_reset_and_waits_for_the_next_use(self) -> None:
        window = UsageWindow(length=100.0, allowance=50.0)
        window.consume(50.0, 0.0)
        self.assertTrue(window.is_full(99.9))
        self.assertFalse(window.is_full(100.0))
        self.assertIsNone(window.resets_at)
        window.consume(5.0, 250.0)
        self.assertEqual(window.resets_at, 350.0)

    def test_recurring_goes_on_without_use(self) -> None:
        window = UsageWindow(length=100.0, allowance=50.0, recurring=True)
        window.consume(50.0, 10.0)
        self.assertEqual(window.utilization(355.0), 0.0)
        self.assertEqual(window.resets_at, 410.0)

    def test_may_exceed_its_allowance(self) -> None:
        window = UsageWindow(length=100.0, allowance=50.0)
        window.consume(51.0, 0.0)
        self.assertGreater(window.utilization(1.0), 1.0)

    def test_set_utilization(self) -> None:
        window = UsageWindow(length=100.0, allowance=50.0)
        window.set_utilization(40.0, 5.0)
        self.assertEqual((window.utilization(6.0), window.resets_at), (0.4, 105.0))
        window.set_utilization(80.0, 6.0, resets_in=3.0)
        self.assertEqual(window.resets_at, 9.0)
        self.assertEqual(window.utilization(9.0), 0.0)

    # Here rounding puts the end of a period at now, 512.5105811960284; or after the end of the next period.
    @example([(212.51058119602845, 1.0), (300.0, 1.0)], True)
    @example([(7.1, 1.0), (499.99999999999994, 1.0)], True)
    @given(st.lists(st.tuples(st.floats(0, 500), st.floats(0, 60)), max_size=30), st.booleans())
    def test_reset_is_never_in_the_past(self, uses: list[tuple[float, float]], recurring: bool) -> None:
        window = UsageWindow(length=100.0, allowance=50.0, recurring=recurring)
        now = 0.0
        for gap, units in uses:
            now += gap
            window.consume(units, now)
            assert window.resets_at is not None
            self.assertGreater(window.resets_at, now)
            self.assertLessEqual(window.resets_at, now + 100.0)
