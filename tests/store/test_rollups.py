"""Sums by quarter of an hour."""

from __future__ import annotations

from decimal import Decimal
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.interfaces.store import CostedRecord
from ccmproxy.store.rollups import DAY, KEY, SESSION_KEY, SUMS, quarter_of, roll_up
from ccmproxy.store.stored_record import stored
from tests.store.samples import QUARTER, RECORDS, START, record


class QuarterTests(SynchronousTestCase):
    """Where a moment belongs."""

    def test_boundaries(self) -> None:
        for moment, begin in ((0.0, 0), (899.999, 0), (900.0, 900), (START + QUARTER - 2e-7, START)):
            self.assertEqual(quarter_of(moment), begin)


class RollUpTests(SynchronousTestCase):
    """What is summed, and by what."""

    def test_one_record(self) -> None:
        costed = record(
            cost=Decimal("0.25"),
            cache_read=3,
            cache_creation=9,
            cache_creation_5m=4,
            cache_creation_1h=5,
            reasoning=6,
            is_extra=True,
            is_incomplete=True,
        )
        found = roll_up([stored(costed)])
        ((key, sums),) = found.by_quarter.items()
        self.assertEqual(dict(zip(KEY, key, strict=True)) | {"quarter": START}, {
            "quarter": START, "service": "claude", "credential": "work", "user_name": "ann", "model": "opus",
        })  # fmt: skip
        self.assertEqual(dict(zip(SUMS, sums, strict=True)), {
            "requests": 1, "input": 10, "output": 20, "cache_read": 3, "cache_creation": 9,
            "cache_creation_5m": 4, "cache_creation_1h": 5, "reasoning": 6, "cost_nano_usd": 250_000_000,
            "unpriced": 0, "incomplete": 1, "estimated": 0, "extra": 1,
        })  # fmt: skip
        ((session_key, session_sums),) = found.by_session.items()
        named = dict(zip(SESSION_KEY, session_key, strict=True))
        self.assertEqual((named["session"], named["day"]), ("s1", START // DAY * DAY))
        self.assertEqual(session_sums, sums)

    def test_what_has_no_price(self) -> None:
        found = roll_up([stored(record("a", cost=None)), stored(record("b", cost=Decimal(1)))])
        ((_, sums),) = found.by_quarter.items()
        named = dict(zip(SUMS, sums, strict=True))
        self.assertEqual((named["requests"], named["unpriced"], named["cost_nano_usd"]), (2, 1, 10**9))

    def test_what_is_kept_apart(self) -> None:
        others = [
            record(service="other"),
            record(credential="other"),
            record(user="other"),
            record(model="other"),
        ]
        others.append(record(started_at=START + QUARTER))
        found = roll_up([stored(each) for each in [record(), *others]])
        self.assertEqual((len(found.by_quarter), len(found.by_day)), (6, 5))
        found = roll_up([stored(each) for each in [record(), record(session="other")]])
        self.assertEqual((len(found.by_quarter), len(found.by_session)), (1, 2))

    @given(st.lists(RECORDS), st.randoms())
    def test_the_order_does_not_matter(self, costed: list[CostedRecord], random: Random) -> None:
        rows = [stored(each) for each in costed]
        shuffled = list(rows)
        random.shuffle(shuffled)
        self.assertEqual(roll_up(rows), roll_up(shuffled))
        found = roll_up(rows)
        for each in (found.by_quarter, found.by_day, found.by_session):
            self.assertEqual(sum(sums[0] for sums in each.values()), len(rows))
