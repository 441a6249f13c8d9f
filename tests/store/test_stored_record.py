"""The bounds of what is kept."""

from __future__ import annotations

from decimal import Decimal, localcontext
from math import inf, nan

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.store.stored_record import (
    LARGEST_COST,
    LARGEST_NUMBER,
    LONGEST_TEXT,
    StoredRecord,
    kept_text,
    stored,
    usd,
)
from tests.profiles import examples
from tests.store.samples import record


class TextTests(SynchronousTestCase):
    """Texts, of which clients choose some."""

    def test_usual_texts_are_kept(self) -> None:
        for text in ("", "claude-opus-4", "Ömer 🙂", "x" * LONGEST_TEXT):
            self.assertEqual(kept_text(text), text)

    def test_escaped(self) -> None:
        self.assertEqual(kept_text("a\0\u202e\ud800"), "a\\u0000\\u202e\\ud800")

    def test_long_texts_stay_different(self) -> None:
        long = "x" * 10_000
        self.assertEqual(len(kept_text(long)), LONGEST_TEXT)
        self.assertNotEqual(kept_text(long + "1"), kept_text(long + "2"))
        self.assertNotEqual(kept_text("\0" * 100 + "1"), kept_text("\0" * 100 + "2"))
        self.assertEqual(kept_text(long), kept_text(long))

    @given(st.text(st.characters(), max_size=1000))
    @examples(300)
    def test_whatever_comes(self, text: str) -> None:
        kept = kept_text(text)
        self.assertTrue(kept.isprintable())
        self.assertLessEqual(len(kept), LONGEST_TEXT)
        self.assertEqual(kept_text(kept), kept)
        kept.encode()  # databases take UTF-8


class NumberTests(SynchronousTestCase):
    """Numbers, which come from elsewhere too."""

    def test_bounds(self) -> None:
        row = stored(record(input=2**63, output=-1, cache_read=2**200, turn=3, is_extra=True))
        self.assertEqual((row.input, row.output, row.cache_read), (LARGEST_NUMBER, 0, LARGEST_NUMBER))
        self.assertEqual((row.turn, row.is_extra, row.is_estimated), (3, 1, 0))

    def test_seconds(self) -> None:
        row = stored(record(week_started_at=nan, first_byte=inf, duration=-inf))
        self.assertEqual((row.week_started_at, row.first_byte, row.duration), (0.0, 0.0, 0.0))
        self.assertEqual(stored(record(duration=1.5)).duration, 1.5)

    def test_costs(self) -> None:
        for cost, nano in (
            ("0", 0),
            ("0.5", 500_000_000),
            ("0.0000000005", 0),  # half a nano-USD, to the even one
            ("0.0000000015", 2),
            ("1e-1000", 0),
            ("12.123456789", 12_123_456_789),
            ("1e1000", int(LARGEST_COST) * 10**9),
        ):
            self.assertEqual(stored(record(cost=Decimal(cost))).cost_nano_usd, nano, cost)
        self.assertIsNone(stored(record(cost=None)).cost_nano_usd)

    def test_costs_do_not_depend_on_the_thread(self) -> None:
        with localcontext(prec=3):
            self.assertEqual(stored(record(cost=Decimal("12.123456789"))).cost_nano_usd, 12_123_456_789)
            self.assertEqual(usd(12_123_456_789), Decimal("12.123456789"))

    def test_sums_fit(self) -> None:
        self.assertLess(int(LARGEST_COST) * 10**9 * 900_000, 2**63)

    def test_every_column_of_the_record(self) -> None:
        names = {"user_name": "user"}
        costed = record(agent="a", service_tier="batch", messages=7, status=429, result="ok", tries=2)
        row = stored(costed)
        for column in StoredRecord._fields:
            if column not in ("cost_nano_usd", "price_list"):
                value = getattr(costed.record, names.get(column, column))
                self.assertEqual(getattr(row, column), value, column)
        self.assertEqual(row.price_list, "2026-07")
