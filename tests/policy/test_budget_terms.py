"""Units, amounts and budgets as values (spec 9.6)."""

from __future__ import annotations

from datetime import UTC
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.budget_periods import Per, Period
from ccmproxy.policy.budget_terms import (
    ALL_MODELS,
    MOST,
    PLACES_OF_USD,
    Amount,
    Budget,
    ModelGlobs,
    Owner,
    Standing,
    Unit,
    counted,
    value_of,
)

PARTS = 10**PLACES_OF_USD


class CountedTests(SynchronousTestCase):
    """Amounts become whole numbers."""

    def test_table(self) -> None:
        for unit, value, expected in (
            (Unit.USD, Decimal(0), 0),
            (Unit.USD, Decimal("-0"), 0),
            (Unit.USD, Decimal("0.1"), PARTS // 10),
            (Unit.USD, Decimal("1e-12"), 1),
            (Unit.USD, Decimal("1.0000000000001"), PARTS + 1),
            (Unit.USD, Decimal("1e-999999"), 1),
            (Unit.USD, Decimal("1e-9999999"), 1),
            (Unit.USD, Decimal("1e999999"), MOST * PARTS),
            (Unit.USD, 20, 20 * PARTS),
            (Unit.TOKENS, 1000, 1000),
            (Unit.TOKENS, Decimal("1e3"), 1000),
            (Unit.TOKENS, 10**30, MOST),
            (Unit.REQUESTS, 1, 1),
        ):
            self.assertEqual(counted(unit, value), expected, value)

    def test_what_is_no_amount(self) -> None:
        for unit, value in (
            (Unit.USD, Decimal("NaN")),
            (Unit.USD, Decimal("sNaN")),
            (Unit.USD, Decimal("Infinity")),
            (Unit.USD, Decimal("-0.01")),
            (Unit.TOKENS, -1),
            (Unit.TOKENS, Decimal("0.5")),
        ):
            self.assertRaises(ValueError, counted, unit, value)
        self.assertRaises(ValueError, Amount, Decimal("NaN"))
        self.assertRaises(ValueError, Amount, Decimal(0), -1)
        self.assertRaises(ValueError, Budget, Per.DAY, Decimal("NaN"))

    @given(st.decimals(min_value=0, max_value=10**9, places=PLACES_OF_USD))
    def test_exact_to_its_places(self, value: Decimal) -> None:
        self.assertEqual(value_of(Unit.USD, counted(Unit.USD, value)), value)

    @given(st.decimals(min_value=0, allow_nan=False, allow_infinity=False))
    def test_never_less_than_it_was(self, value: Decimal) -> None:
        count = counted(Unit.USD, value)
        self.assertTrue(count == MOST * PARTS or value_of(Unit.USD, count) >= value)
        self.assertEqual(count == 0, value == 0)

    def test_counts_of_an_amount(self) -> None:
        self.assertEqual(Amount(Decimal("0.5"), 7).counts, (PARTS // 2, 7, 1))


class BudgetTests(SynchronousTestCase):
    """One budget."""

    def test_models(self) -> None:
        for given_models, expected in (
            ((), ALL_MODELS),
            (("b", "a", "b"), ("a", "b")),
            (("claude-*", "*"), ALL_MODELS),
        ):
            self.assertEqual(Budget(Per.DAY, 1, models=given_models).models, expected)

    def test_percents(self) -> None:
        self.assertEqual(Budget(Per.DAY, 1, warn_at=(95, 80, 80)).percents, (80, 95, 100))
        self.assertEqual(Budget(Per.DAY, 1, warn_at=()).percents, (100,))
        self.assertRaises(ValueError, Budget, Per.DAY, 1, warn_at=(0,))

    def test_a_percent_is_reached_exactly(self) -> None:
        budget = Budget(Per.DAY, Decimal("0.3"))
        least = counted(Unit.USD, Decimal("0.24"))
        self.assertEqual(
            [budget.has_reached(80, used) for used in (least - 1, least, least + 1)], [False, True, True]
        )


class StandingTests(SynchronousTestCase):
    """How a budget stands."""

    def standing(self, limit: int, used: int, reserved: int) -> Standing:
        budget = Budget(Per.DAY, limit, Unit.TOKENS, warn_at=(80, 95, 120))
        return Standing(Owner("alice"), budget, UTC, Period(0.0, 1.0), used, reserved)

    def test_table(self) -> None:
        for limit, used, reserved, is_used_up, is_full, fullness, percent in (
            (100, 0, 0, False, False, 0.0, None),
            (100, 79, 20, False, False, 0.99, None),
            (100, 80, 20, False, True, 1.0, 80),
            (100, 99, 2, False, True, 1.01, 95),
            (100, 100, 0, True, True, 1.0, 100),
            (100, 200, 0, True, True, 2.0, 120),
            (0, 0, 0, True, True, float("inf"), 120),
        ):
            found = self.standing(limit, used, reserved)
            self.assertEqual(
                (found.is_used_up, found.is_full, found.fullness, found.percent_reached),
                (is_used_up, is_full, fullness, percent),
            )

    def test_values(self) -> None:
        budget = Budget(Per.DAY, 20)
        found = Standing(Owner("alice"), budget, UTC, Period(0.0, 1.0), PARTS // 4, 3 * PARTS)
        self.assertEqual((found.used, found.reserved), (Decimal("0.25"), Decimal(3)))


class ModelGlobsTests(SynchronousTestCase):
    """Which models a budget is on."""

    def test_table(self) -> None:
        for globs, model, expected in (
            (("*",), "claude-opus-4-5", True),
            (("*",), "", True),
            (("claude-*",), "", False),
            (("claude-opus-*",), "claude-opus-4-5", True),
            (("claude-opus-*",), "Claude-Opus-4-5", True),
            (("claude-opus-*",), "claude-opus-4-5[1m]", True),
            (("claude-opus-*",), "claude-haiku-4-5", False),
            (("claude-opus-*",), "x-claude-opus-4-5", False),
            (("*opus*",), "claude-opus-4-5", True),
            (("*opus",), "claude-opus-4-5", False),
            (("*-4-*-5",), "opus-4-4-5", True),
            (("gpt-?",), "gpt-5", True),
            (("gpt-?",), "gpt-5.1", False),
            (("gpt-5.1",), "gpt-501", False),
            (("gpt-[12]",), "gpt-1", False),
            (("gpt-[12]",), "gpt-[12]", True),
            (("gpt-*", "o3"), "o3", True),
            (("gpt-*", "o3"), "o3x", False),
            (("a", "b*"), "ax", False),
        ):
            self.assertIs(ModelGlobs(globs).matches(model), expected, (globs, model))
