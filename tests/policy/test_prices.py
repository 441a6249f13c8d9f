"""Tests of :mod:`ccmproxy.policy.prices`: whose price it is, and by which tier."""

from __future__ import annotations

import time
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.catalog import DIALECTS
from ccmproxy.policy.prices import LONG_CONTEXT, OwnPrice, OwnPrices, TokenPrices


def price(dollars: int) -> OwnPrice:
    """A price that can be told from others."""
    return OwnPrice(TokenPrices(*[Decimal(dollars)] * 5))


class OwnPriceTests(SynchronousTestCase):
    """The operator's prices."""

    def find(self, model: str, *patterns: str) -> int | None:
        """The place of the entry that counts; None if there is none."""
        own = OwnPrices(tuple((pattern, price(place)) for place, pattern in enumerate(patterns)))
        found = own.find(model)
        return None if found is None else int(found.usual.input)

    def test_names_and_globs(self) -> None:
        for model, patterns, expected in (
            ("a", (), None),
            ("", ("*",), None),
            ("claude-opus-5", ("claude-opus-5",), 0),
            ("Claude-Opus-5", ("claude-OPUS-5",), 0),
            ("claude-opus-5-1", ("claude-opus-5",), None),
            ("claude-opus-5", ("claude-*", "claude-opus-5"), 1),
            ("claude-opus-5", ("claude-*", "*opus*"), 0),
            ("claude-opus-5", ("gpt-*", "*opus*"), 1),
            ("claude-opus-5", ("claude-opus-?",), 0),
            ("claude-opus-55", ("claude-opus-?",), None),
            ("claude-opus-5", ("claude-*-5", "*"), 0),
            ("claude-opus-5", ("*claude*opus*",), 0),
            ("claude-opus-5", ("*opus*claude*",), None),
            ("abab", ("*ab",), 0),
            ("aba", ("*ab*ba",), None),
            # Nothing else is special.
            ("claude-opus-5[1m]", ("claude-opus-5[1m]*",), 0),
            ("claude-opus-51", ("claude-opus-5[1m]*",), None),
            ("gpt-5x2", ("gpt-5.2*",), None),
            ("a\nb", ("a*b",), 0),
        ):
            self.assertEqual(self.find(model, *patterns), expected, (model, patterns))

    @given(st.text("ab*?", max_size=8), st.text("ab", max_size=12))
    def test_globs_are_what_they_are_called(self, pattern: str, model: str) -> None:
        def matches(left: str, right: str) -> bool:
            if not left:
                return not right
            if left[0] == "*":
                return any(matches(left[1:], right[at:]) for at in range(len(right) + 1))
            return bool(right) and left[0] in ("?", right[0]) and matches(left[1:], right[1:])

        expected = bool(model) and matches(pattern, model)
        self.assertEqual(self.find(model, pattern) is not None, expected)

    def test_no_name_takes_long(self) -> None:
        began = time.process_time()
        self.assertIsNone(self.find("a" * 5_000, "*a" * 40 + "b"))
        self.assertLess(time.process_time() - began, 1)

    def test_long_context(self) -> None:
        same = price(1)
        self.assertEqual((same.at(10**9), same.is_long(10**9)), (same.usual, False))
        dearer = OwnPrice(price(1).usual, price(2).usual)
        self.assertEqual((dearer.at(LONG_CONTEXT), dearer.is_long(LONG_CONTEXT)), (dearer.usual, False))
        self.assertEqual((dearer.at(LONG_CONTEXT + 1), dearer.is_long(LONG_CONTEXT + 1)), (dearer.long, True))


class TokenPriceTests(SynchronousTestCase):
    def test_times(self) -> None:
        prices = TokenPrices(Decimal(1), Decimal(2), Decimal(3), Decimal(4), Decimal(5))
        half = TokenPrices(Decimal("0.5"), Decimal(1), Decimal("1.5"), Decimal(2), Decimal("2.5"))
        self.assertEqual(prices.times(Decimal("0.5")), half)


class TariffTests(SynchronousTestCase):
    """What the dialects say of their providers."""

    def test_tiers(self) -> None:
        claude, codex = DIALECTS["ccm"].tariff, DIALECTS["ocm"].tariff
        for tariff in (claude, codex):
            usual = tariff.tier("")
            assert usual is not None
            self.assertEqual((usual.variant, usual.factor), (None, None))
            self.assertEqual(tariff.tier(" Batch "), tariff.tier("batch"))
            self.assertIsNotNone(tariff.tier("batch"))
            self.assertIsNone(tariff.tier("made-up"))
        self.assertIsNone(claude.tier("priority"))
        self.assertIsNotNone(codex.tier("priority"))

    def test_every_tier_has_a_source(self) -> None:
        for dialect in DIALECTS.values():
            for tier in dialect.tariff.tiers:
                self.assertTrue(tier.source.startswith("https://"), tier)
