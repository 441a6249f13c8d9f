"""Sums by period (spec 9.6)."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.budget_meters import MOST_PERIODS, Meter, Tally
from ccmproxy.policy.budget_periods import FIVE_HOURS, Per, Period
from ccmproxy.policy.budget_terms import ALL_MODELS, Amount, Budget, Unit

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 3600.0
DAY = 24 * HOUR
#: A Wednesday, at noon.
NOON = datetime(2026, 5, 6, 12, tzinfo=BERLIN).timestamp()


def tokens(number: int, requests: int = 1) -> Amount:
    return Amount(tokens=number, requests=requests)


class TallyTests(SynchronousTestCase):
    """The sums of one period."""

    def test_reservations_come_and_go(self) -> None:
        tally = Tally(Period(0.0, 1.0))
        small, large = Amount(Decimal("0.000000000001"), 1), Amount(Decimal("1e11"), 10**11)
        for estimate in (small, large):
            tally.reserve(estimate)
        self.assertEqual((tally.reserved[Unit.TOKENS], tally.under_way), (10**11 + 1, 2))
        tally.give_back(large)
        self.assertEqual(tally.reserved, list(small.counts), "the small one was lost beside the large one")
        tally.give_back(small)
        self.assertEqual((tally.reserved, tally.under_way), ([0, 0, 0], 0))

    def test_use(self) -> None:
        tally = Tally(Period(0.0, 1.0))
        self.assertFalse(tally.has_use)
        tally.count(tokens(0))
        self.assertTrue(tally.has_use)
        tally.count(Amount(Decimal(1), 5, is_marked=True))
        tally.count(tokens(2))
        self.assertEqual(tally.used[1:], [7, 3])
        self.assertTrue(tally.is_marked, "the mark stays")

    def test_the_store_never_takes_anything_away(self) -> None:
        tally = Tally(Period(0.0, 1.0))
        tally.count(tokens(5))
        tally.raise_to(Amount(Decimal(2), 3, 7))
        self.assertEqual(tally.used, [2 * 10**12, 5, 7])

    def test_percents_are_told_once_for_each_limit(self) -> None:
        tally = Tally(Period(0.0, 1.0))
        budget, larger = (Budget(Per.DAY, limit, Unit.TOKENS) for limit in (100, 200))
        tally.count(tokens(79))
        self.assertEqual(tally.newly_reached(budget), [])
        tally.count(tokens(1))
        self.assertEqual(tally.newly_reached(budget), [80])
        self.assertEqual(tally.newly_reached(budget), [])
        tally.count(tokens(100))
        self.assertEqual(tally.newly_reached(budget), [95, 100])
        self.assertEqual(tally.newly_reached(larger), [80])
        self.assertEqual(tally.newly_reached(budget), [], "it is the old limit again")


class MeterTests(SynchronousTestCase):
    """Which period counts."""

    def setUp(self) -> None:
        self.meter = Meter(ALL_MODELS, BERLIN)

    def use(self, per: Per, now: float, number: int = 1) -> Tally:
        """Count so many tokens at ``now``."""
        tally = self.meter.open(per, now)
        tally.count(tokens(number))
        return tally

    def used(self, per: Per, now: float) -> int:
        tally = self.meter.current(per, now)
        return tally.used[Unit.TOKENS] if tally is not None else 0

    def test_models(self) -> None:
        meter = Meter(("claude-*",), BERLIN)
        self.assertEqual([meter.covers(model) for model in ("claude-x", "gpt-5", "")], [True, False, False])

    def test_each_period_begins_anew(self) -> None:
        for per in Per:
            self.use(per, NOON, 5)
        for per, hours in ((Per.FIVE_HOURS, 5), (Per.DAY, 12), (Per.WEEK, 4.5 * 24), (Per.MONTH, 25.5 * 24)):
            self.assertEqual(self.used(per, NOON + hours * HOUR - 1), 5, per)
            self.assertEqual(self.used(per, NOON + hours * HOUR), 0, per)

    def test_five_hours_begin_with_the_first_use_after_the_last_ended(self) -> None:
        self.assertIs(self.meter.current(Per.FIVE_HOURS, NOON), None)
        self.assertEqual(
            self.meter.period(Per.FIVE_HOURS, NOON), Period(NOON, NOON + FIVE_HOURS), "it would begin now"
        )
        first = self.use(Per.FIVE_HOURS, NOON)
        self.assertIs(self.use(Per.FIVE_HOURS, NOON + FIVE_HOURS - 1), first)
        later = NOON + FIVE_HOURS + 1000
        self.assertEqual(self.use(Per.FIVE_HOURS, later).period, Period(later, later + FIVE_HOURS))

    def test_five_hours_that_were_not_used_have_not_begun(self) -> None:
        tally = self.meter.open(Per.FIVE_HOURS, NOON)
        tally.reserve(tokens(1))
        self.assertIs(self.meter.current(Per.FIVE_HOURS, NOON + 60), tally)
        tally.give_back(tokens(1))
        self.assertIs(self.meter.current(Per.FIVE_HOURS, NOON + 60), None)
        self.assertEqual(self.use(Per.FIVE_HOURS, NOON + 60).name, NOON + 60)

    def test_a_clock_that_jumps_over_midnight_and_back(self) -> None:
        midnight = NOON + DAY / 2
        self.use(Per.DAY, midnight - 60, 5)
        self.use(Per.DAY, midnight + 60, 7)
        for _ in range(3 * MOST_PERIODS):
            self.use(Per.DAY, midnight - 60)
            self.use(Per.DAY, midnight + 60)
        self.assertEqual(self.used(Per.DAY, midnight - 1), 5 + 3 * MOST_PERIODS)
        self.assertEqual(self.used(Per.DAY, midnight), 7 + 3 * MOST_PERIODS)

    def test_periods_that_come_back_push_no_others_out(self) -> None:
        for number in [*range(MOST_PERIODS), 2, 1, 2, 1, 3]:
            self.use(Per.DAY, NOON + number * DAY)
        self.assertEqual(self.used(Per.DAY, NOON), 1)

    def test_only_so_many_periods_are_remembered(self) -> None:
        for number in range(MOST_PERIODS + 1):
            self.use(Per.DAY, NOON + number * DAY, 5)
        found = [self.used(Per.DAY, NOON + number * DAY) for number in range(MOST_PERIODS + 1)]
        self.assertEqual(found, [0] + [5] * MOST_PERIODS)

    def test_five_hours_last_as_long_as_they_would_have(self) -> None:
        for by in (3 * HOUR, -3 * HOUR, 1000 * DAY, -1000 * DAY):
            meter = self.meter = Meter(ALL_MODELS, BERLIN)
            tally = self.use(Per.FIVE_HOURS, NOON, 5)
            self.use(Per.DAY, NOON, 5)
            meter.clock_set(by)
            self.assertEqual(self.used(Per.FIVE_HOURS, NOON + by), 5)
            self.assertEqual(self.used(Per.FIVE_HOURS, NOON + by + FIVE_HOURS - 1), 5)
            self.assertEqual(self.used(Per.FIVE_HOURS, NOON + by + FIVE_HOURS), 0)
            self.assertEqual(tally.name, NOON, "the store knows it by its first start")
            self.assertEqual(self.used(Per.DAY, NOON), 5, "days do not move")

    def test_a_clock_that_was_set_back_unnoticed_forgets_nothing_and_blocks_nobody_for_long(self) -> None:
        self.use(Per.FIVE_HOURS, NOON, 5)
        wrong = NOON - 1000 * DAY
        self.assertEqual(self.used(Per.FIVE_HOURS, wrong), 5)
        self.assertEqual(self.used(Per.FIVE_HOURS, wrong + FIVE_HOURS - 1), 5)
        self.assertEqual(self.used(Per.FIVE_HOURS, wrong + FIVE_HOURS), 0)

    def test_another_zone(self) -> None:
        # 2026-05-06 12:00 in Berlin is 22:00 in Auckland and 06:00 in New York.
        for name, ends in (("Pacific/Auckland", 2 * HOUR), ("America/New_York", 18 * HOUR)):
            self.meter = Meter(ALL_MODELS, BERLIN)
            tally = self.use(Per.DAY, NOON, 5)
            self.meter.change_zone(ZoneInfo(name), NOON)
            self.assertIs(self.meter.current(Per.DAY, NOON), tally)
            self.assertEqual(tally.name, tally.period.start)
            self.assertEqual(self.used(Per.DAY, NOON + ends - 1), 5)
            self.assertEqual(self.used(Per.DAY, NOON + ends), 0)
            self.assertEqual(self.meter.period(Per.DAY, NOON + ends).start, NOON + ends)

    def test_the_same_zone_changes_nothing(self) -> None:
        self.meter.change_zone(ZoneInfo("America/New_York"), NOON)
        self.meter.change_zone(BERLIN, NOON)
        tally = self.use(Per.WEEK, NOON, 5)
        self.meter.change_zone(BERLIN, NOON + 14 * DAY)
        self.assertIn(NOON, tally.period)

    def test_restored(self) -> None:
        midnight = NOON - DAY / 2
        self.meter.restore(Per.DAY, midnight, tokens(5))
        self.meter.restore(Per.DAY, midnight - DAY, tokens(7))
        self.meter.restore(Per.FIVE_HOURS, NOON - HOUR, tokens(11))
        self.assertEqual(self.used(Per.DAY, NOON), 5)
        self.assertEqual(self.used(Per.DAY, NOON - DAY), 7)
        self.assertEqual(self.used(Per.FIVE_HOURS, NOON), 11)
        self.assertEqual(self.used(Per.FIVE_HOURS, NOON + 4 * HOUR), 0)

    def test_restored_in_any_order(self) -> None:
        starts = [NOON + number * FIVE_HOURS for number in range(MOST_PERIODS + 3)]
        for start in reversed(starts):
            self.meter.restore(Per.FIVE_HOURS, start, tokens(5))
        self.assertEqual(self.used(Per.FIVE_HOURS, starts[-1] + 1), 5)
        self.assertEqual(self.used(Per.FIVE_HOURS, starts[-1] + FIVE_HOURS), 0)

    def test_restored_after_the_zone_was_changed(self) -> None:
        # The day that began at 00:00 in Berlin is the one that begins at 00:00 in New York.
        self.meter = Meter(ALL_MODELS, ZoneInfo("America/New_York"))
        self.meter.restore(Per.DAY, NOON - DAY / 2, tokens(5))
        self.assertEqual(self.used(Per.DAY, NOON), 5)

    def test_restored_beside_what_is_known(self) -> None:
        tally = self.use(Per.DAY, NOON, 5)
        self.meter.restore(Per.DAY, tally.name, tokens(3))
        self.assertEqual(self.used(Per.DAY, NOON), 5)
        self.meter.restore(Per.DAY, tally.name, tokens(8))
        self.assertEqual(self.used(Per.DAY, NOON), 8)
