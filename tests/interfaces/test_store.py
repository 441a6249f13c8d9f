"""What the seam of the store refuses before it gets to a database."""

from __future__ import annotations

from datetime import UTC
from decimal import Decimal
from math import inf, nan

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.interfaces.store import LATEST, CostedRecord, Grouping, UsageQuestion
from ccmproxy.state.usage_record import UsageRecord


class RefusalTests(SynchronousTestCase):
    """Records and questions that have no place in any sum."""

    def test_times(self) -> None:
        for moment in (nan, inf, -inf, -1.0, LATEST, 1e300):
            with self.assertRaises(ValueError):
                CostedRecord(UsageRecord(started_at=moment, request_id="a"))
        for moment in (0.0, LATEST - 1, 1_800_000_000.5):
            CostedRecord(UsageRecord(started_at=moment, request_id="a"))

    def test_costs(self) -> None:
        record = UsageRecord(started_at=1.0, request_id="a")
        for cost in ("NaN", "sNaN", "Infinity", "-Infinity", "-0.001"):
            with self.assertRaises(ValueError):
                CostedRecord(record, Decimal(cost))
        for good in (None, Decimal(0), Decimal("1e-30"), Decimal("1e30")):
            CostedRecord(record, good)

    def test_questions(self) -> None:
        for since, until in ((nan, 1.0), (1.0, nan)):
            with self.assertRaises(ValueError):
                UsageQuestion(since=since, until=until, by=Grouping.DAY, zone=UTC)
        UsageQuestion(since=-inf, until=inf, by=Grouping.DAY, zone=UTC)


class GroupingTests(SynchronousTestCase):
    """What rows stand for."""

    def test_periods(self) -> None:
        periods = [each.value for each in Grouping if each.is_period]
        self.assertEqual(periods, ["hour", "day", "week", "month"])
