"""What people are told of their budgets (spec 9.6)."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.budget_periods import Per, Period, period_of
from ccmproxy.policy.budget_sentences import of_admission, of_reached, of_standing, quantity
from ccmproxy.policy.budget_terms import Budget, Owner, Standing, Unit, counted
from ccmproxy.policy.budgets import HeldByOthers, Reached, UsedUp

BERLIN = ZoneInfo("Europe/Berlin")
#: A Wednesday, at noon.
NOON = datetime(2026, 5, 6, 12, tzinfo=BERLIN).timestamp()


def standing(
    budget: Budget,
    now: float = NOON,
    used: Decimal | int = 0,
    zone: ZoneInfo = BERLIN,
    is_group: bool = False,
) -> Standing:
    owner = Owner("alice", is_group)
    period = period_of(budget.per, now, zone)
    return Standing(owner, budget, zone, period, counted(budget.unit, used), 0)


class QuantityTests(SynchronousTestCase):
    """Dollars, tokens and requests."""

    def test_table(self) -> None:
        for unit, value, expected in (
            (Unit.USD, Decimal(20), "$20"),
            (Unit.USD, Decimal("20.00"), "$20"),
            (Unit.USD, Decimal("2E+1"), "$20"),
            (Unit.USD, Decimal("0.5"), "$0.50"),
            (Unit.USD, Decimal("1234.125"), "$1,234.125"),
            (Unit.USD, Decimal("1e-13"), "$0.00"),
            (Unit.USD, 0, "$0"),
            (Unit.USD, Decimal("1e5000"), "$1,000,000,000,000"),
            (Unit.TOKENS, 1_000_000, "1,000,000 tokens"),
            (Unit.TOKENS, 1, "1 token"),
            (Unit.REQUESTS, 1, "1 request"),
            (Unit.REQUESTS, 0, "0 requests"),
        ):
            self.assertEqual(quantity(unit, value), expected)


class SentenceTests(SynchronousTestCase):
    """Word by word."""

    def used_up(self, budget: Budget, now: float = NOON, zone: ZoneInfo = BERLIN) -> str:
        return of_admission(UsedUp(standing(budget, now, zone=zone)), now)

    def test_used_up(self) -> None:
        for budget, expected in (
            (Budget(Per.DAY, 20), "your budget of $20 per day is used up; it begins anew at 00:00"),
            (
                Budget(Per.WEEK, 1_000_000, Unit.TOKENS),
                "your budget of 1,000,000 tokens per week is used up; it begins anew at 00:00 on 2026-05-11",
            ),
            (
                Budget(Per.MONTH, 500, Unit.REQUESTS),
                "your budget of 500 requests per month is used up; it begins anew at 00:00 on 2026-06-01",
            ),
            (
                Budget(Per.FIVE_HOURS, Decimal("2.5")),
                "your budget of $2.50 per 5 hours is used up; it begins anew at 17:00",
            ),
            (
                Budget(Per.DAY, 20, models=("claude-opus-*", "o3")),
                "your budget of $20 per day for claude-opus-*, o3 is used up; it begins anew at 00:00",
            ),
        ):
            self.assertEqual(self.used_up(budget), expected)

    def test_the_date_if_it_is_another_day(self) -> None:
        five_hours = Budget(Per.FIVE_HOURS, 1)
        for hour, minute, second, expected in (
            (18, 59, 0, "at 23:59"),
            (19, 0, 0, "at 00:00"),
            (18, 59, 1, "at 00:00"),
            (19, 0, 1, "at 00:01 on 2026-05-07"),
            (21, 30, 0, "at 02:30 on 2026-05-07"),
        ):
            now = datetime(2026, 5, 6, hour, minute, second, tzinfo=BERLIN).timestamp()
            self.assertTrue(self.used_up(five_hours, now).endswith(f"begins anew {expected}"), expected)

    def test_the_last_day_of_a_month(self) -> None:
        now = datetime(2026, 5, 31, 12, tzinfo=BERLIN).timestamp()
        for per in (Per.DAY, Per.WEEK, Per.MONTH):
            self.assertTrue(self.used_up(Budget(per, 1), now).endswith("at 00:00"), per)

    def test_where_midnight_does_not_exist(self) -> None:
        cairo = ZoneInfo("Africa/Cairo")
        now = datetime(2026, 4, 23, 12, tzinfo=cairo).timestamp()
        self.assertTrue(self.used_up(Budget(Per.DAY, 1), now, cairo).endswith("at 01:00"))

    def test_held_by_others(self) -> None:
        self.assertEqual(
            of_admission(HeldByOthers(standing(Budget(Per.DAY, 20))), NOON),
            "what is left of your budget of $20 per day is held by requests under way; try again in 5 s",
        )

    def test_of_a_group(self) -> None:
        self.assertEqual(
            of_admission(UsedUp(standing(Budget(Per.DAY, 20), is_group=True)), NOON),
            "your group's budget of $20 per day is used up; it begins anew at 00:00",
        )

    def test_reached(self) -> None:
        for percent, expected in (
            (80, "80 % of your budget of $20 per day is used; it begins anew at 00:00"),
            (100, "your budget of $20 per day is used up; it begins anew at 00:00"),
            (150, "150 % of your budget of $20 per day is used; it begins anew at 00:00"),
        ):
            found = of_reached(Reached(standing(Budget(Per.DAY, 20), used=30), percent), NOON)
            self.assertEqual(found, expected)

    def test_standing(self) -> None:
        self.assertEqual(
            of_standing(standing(Budget(Per.DAY, 20), used=Decimal("16.2")), NOON),
            "$16.20 of your budget of $20 per day used; it begins anew at 00:00",
        )
        self.assertEqual(
            of_standing(standing(Budget(Per.DAY, 20), used=Decimal("19.999")), NOON),
            "$19.99 of your budget of $20 per day used; it begins anew at 00:00",
        )
        self.assertEqual(
            of_standing(standing(Budget(Per.DAY, 20, Unit.TOKENS), used=7), NOON),
            "7 tokens of your budget of 20 tokens per day used; it begins anew at 00:00",
        )

    @given(
        st.sampled_from(Per),
        st.decimals(min_value=0, allow_nan=False, allow_infinity=False),
        st.lists(st.text(max_size=80), max_size=5),
        st.integers(1, 10**9),
        st.booleans(),
    )
    def test_at_most_200_characters(
        self, per: Per, limit: Decimal, models: list[str], percent: int, is_group: bool
    ) -> None:
        found = standing(Budget(per, limit, models=tuple(models)), used=limit, is_group=is_group)
        for sentence in (
            of_admission(UsedUp(found), NOON),
            of_admission(HeldByOthers(found), NOON),
            of_reached(Reached(found, percent), NOON),
            of_standing(found, NOON),
        ):
            self.assertLessEqual(len(sentence), 200)

    def test_the_longest(self) -> None:
        budget = Budget(Per.FIVE_HOURS, Decimal("999999999999.123456789012"), models=("x" * 100,))
        now = datetime(2026, 5, 6, 23, tzinfo=BERLIN).timestamp()
        found = standing(budget, now, used=budget.limit, is_group=True)
        sentences = (
            of_admission(UsedUp(found), now),
            of_admission(HeldByOthers(found), now),
            of_reached(Reached(found, 1000), now),
            of_standing(found, now),
        )
        for sentence in sentences:
            self.assertTrue(150 < len(sentence) <= 200, sentence)

    def test_rounded_up_to_the_minute(self) -> None:
        five_hours = Budget(Per.FIVE_HOURS, 1)
        found = standing(five_hours, NOON + 0.5)
        self.assertEqual(found.period, Period(NOON + 0.5, NOON + 0.5 + 5 * 3600))
        self.assertTrue(of_admission(UsedUp(found), NOON).endswith("at 17:01"))
