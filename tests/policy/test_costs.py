"""Tests of :mod:`ccmproxy.policy.costs`: sums that were worked out by hand, and what holds for all of them.

The prices in the sums are those of the providers' pages: https://platform.claude.com/docs/en/about-claude/pricing (with
its parts on batches, long contexts and fast mode) and https://developers.openai.com/api/docs/pricing.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal

from genai_prices import Usage, calc_price
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.claude import CLAUDE
from ccmproxy.dialects.codex import CODEX
from ccmproxy.policy.costs import Cost, cost_of
from ccmproxy.policy.prices import OwnPrice, OwnPrices, Tariff, TokenPrices
from ccmproxy.state.usage_record import UsageRecord
from tests.profiles import examples

ANTHROPIC, OPENAI = CLAUDE.tariff, CODEX.tariff

#: A day on which everything that the list has applies.
TODAY = datetime(2026, 12, 1, 12, tzinfo=UTC).timestamp()


def day(year: int, month: int, number: int, hour: int = 12) -> float:
    """A time on that day, UTC, as Unix seconds."""
    return datetime(year, month, number, hour, tzinfo=UTC).timestamp()


def record(model: str, **fields: int | float | str) -> UsageRecord:
    """The record of an answer of that model, today unless it says when."""
    counted = {"started_at": TODAY, "request_id": "r", "model": model, **fields}
    return UsageRecord(**counted)  # type: ignore[arg-type]


M = 1_000_000

#: (what it is about, tariff, record, USD worked out by hand)
SUMS: tuple[tuple[str, Tariff, UsageRecord, float], ...] = (
    (
        "Sonnet 4.6: $3 and $15",
        ANTHROPIC,
        record("claude-sonnet-4-6", input=1_000, output=500),
        1_000 * 3.00 / M + 500 * 15.00 / M,
    ),
    (
        "a date behind the name",
        ANTHROPIC,
        record("claude-haiku-4-5-20251001", input=2_000, output=1_000),
        2_000 * 1.00 / M + 1_000 * 5.00 / M,
    ),
    (
        "cache reads: a tenth of the input",
        ANTHROPIC,
        record("claude-opus-4-6", input=12, cache_read=150_000, output=800),
        12 * 5.00 / M + 150_000 * 0.50 / M + 800 * 25.00 / M,
    ),
    (
        "5-minute cache writes: 1.25 times the input",
        ANTHROPIC,
        record("claude-opus-4-1", input=3, cache_creation=20_000, cache_creation_5m=20_000, output=100),
        3 * 15.00 / M + 20_000 * 18.75 / M + 100 * 75.00 / M,
    ),
    (
        "1-hour cache writes: twice the input",
        ANTHROPIC,
        record("claude-sonnet-4-6", input=3, cache_creation=20_000, cache_creation_1h=20_000, output=100),
        3 * 3.00 / M + 20_000 * 6.00 / M + 100 * 15.00 / M,
    ),
    (
        "cache writes of both lifetimes, and reads",
        ANTHROPIC,
        record(
            "claude-opus-4-5-20251101",
            input=7,
            cache_read=90_000,
            cache_creation=3_500,
            cache_creation_5m=1_500,
            cache_creation_1h=2_000,
            output=1_234,
        ),
        7 * 5.00 / M + 90_000 * 0.50 / M + 1_500 * 6.25 / M + 2_000 * 10.00 / M + 1_234 * 25.00 / M,
    ),
    (
        "cache writes whose lifetime nobody told are of the usual one",
        ANTHROPIC,
        record("claude-haiku-4-5", cache_creation=10_000, output=1),
        10_000 * 1.25 / M + 1 * 5.00 / M,
    ),
    (
        "cache writes of which only a part was told",
        ANTHROPIC,
        record("claude-haiku-4-5", cache_creation=10_000, cache_creation_1h=4_000),
        6_000 * 1.25 / M + 4_000 * 2.00 / M,
    ),
    (
        "cache writes of which the parts are more than the whole",
        ANTHROPIC,
        record("claude-haiku-4-5", cache_creation=3_000, cache_creation_5m=5_000, cache_creation_1h=2_000),
        5_000 * 1.25 / M + 2_000 * 2.00 / M,
    ),
    (
        "Opus 5.5: cache reads for a twentieth",
        ANTHROPIC,
        record("claude-opus-5-5", input=100, cache_read=400_000, output=2_000),
        100 * 4.00 / M + 400_000 * 0.20 / M + 2_000 * 20.00 / M,
    ),
    (
        "Fable 5.1: cache reads for a fortieth, an hour for twice",
        ANTHROPIC,
        record("claude-fable-5-1", input=50, cache_read=80_000, cache_creation_1h=600, output=900),
        50 * 10.00 / M + 80_000 * 0.25 / M + 600 * 20.00 / M + 900 * 50.00 / M,
    ),
    (
        "just below 200k",
        ANTHROPIC,
        record(
            "claude-sonnet-4-5", started_at=day(2026, 1, 15), input=99_999, cache_read=100_000, output=1_000
        ),
        99_999 * 3.00 / M + 100_000 * 0.30 / M + 1_000 * 15.00 / M,
    ),
    (
        "200k exactly are not more than 200k",
        ANTHROPIC,
        record(
            "claude-sonnet-4-5", started_at=day(2026, 1, 15), input=100_000, cache_read=100_000, output=1_000
        ),
        100_000 * 3.00 / M + 100_000 * 0.30 / M + 1_000 * 15.00 / M,
    ),
    (
        "above 200k all tokens are dearer",
        ANTHROPIC,
        record(
            "claude-sonnet-4-5", started_at=day(2026, 1, 15), input=100_001, cache_read=100_000, output=1_000
        ),
        100_001 * 6.00 / M + 100_000 * 0.60 / M + 1_000 * 22.50 / M,
    ),
    (
        "above 200k, cache writes of both lifetimes",
        ANTHROPIC,
        record(
            "claude-sonnet-4-5-20250929",
            started_at=day(2026, 1, 15),
            input=10,
            cache_read=199_000,
            cache_creation=5_000,
            cache_creation_5m=3_000,
            cache_creation_1h=2_000,
            output=400,
        ),
        10 * 6.00 / M + 199_000 * 0.60 / M + 3_000 * 7.50 / M + 2_000 * 12.00 / M + 400 * 22.50 / M,
    ),
    (
        "Opus 4.6 before 2026-03-13: dearer above 200k",
        ANTHROPIC,
        record("claude-opus-4-6", started_at=day(2026, 3, 12, 23), input=300_000, output=1_000),
        300_000 * 10.00 / M + 1_000 * 37.50 / M,
    ),
    (
        "Opus 4.6 from 2026-03-13 on: not dearer any more",
        ANTHROPIC,
        record("claude-opus-4-6", started_at=day(2026, 3, 13, 0), input=300_000, output=1_000),
        300_000 * 5.00 / M + 1_000 * 25.00 / M,
    ),
    (
        "Haiku 5.5: its long contexts begin above 100k",
        ANTHROPIC,
        record("claude-haiku-5-5", input=100_001, output=1_000),
        100_001 * 0.50 / M + 1_000 * 2.50 / M,
    ),
    (
        "a batch: half of everything",
        ANTHROPIC,
        record("claude-opus-5", service_tier="batch", input=10_000, cache_read=5_000, output=2_000),
        10_000 * 2.50 / M + 5_000 * 0.25 / M + 2_000 * 12.50 / M,
    ),
    (
        "a batch before the list has any, by the published rule",
        ANTHROPIC,
        record(
            "claude-sonnet-4-5",
            started_at=day(2026, 1, 15),
            service_tier="batch",
            input=10_000,
            cache_read=5_000,
            cache_creation_1h=1_000,
            output=2_000,
        ),
        10_000 * 1.50 / M + 5_000 * 0.15 / M + 1_000 * 3.00 / M + 2_000 * 7.50 / M,
    ),
    (
        "fast mode of Opus 5: $10 and $50",
        ANTHROPIC,
        record("claude-opus-5", service_tier="fast", input=1_000, output=1_000),
        1_000 * 10.00 / M + 1_000 * 50.00 / M,
    ),
    (
        "GPT-5: cached input for a tenth",
        OPENAI,
        record("gpt-5-2025-08-07", service_tier="default", input=1_000, cache_read=9_000, output=500),
        1_000 * 1.25 / M + 9_000 * 0.125 / M + 500 * 10.00 / M,
    ),
    (
        "GPT-4.1: cached input for a quarter",
        OPENAI,
        record("gpt-4.1", input=129, cache_read=11_904, output=44),
        129 * 2.00 / M + 11_904 * 0.50 / M + 44 * 8.00 / M,
    ),
    (
        "reasoning is a part of the output and not paid twice",
        OPENAI,
        record("gpt-5-codex", service_tier="auto", input=2_000, output=3_000, reasoning=2_560),
        2_000 * 1.25 / M + 3_000 * 10.00 / M,
    ),
    (
        "o3 before 2025-06-10",
        OPENAI,
        record("o3", started_at=day(2025, 6, 9), input=1_000, output=1_000),
        1_000 * 10.00 / M + 1_000 * 40.00 / M,
    ),
    (
        "o3 from 2025-06-10 on",
        OPENAI,
        record("o3", started_at=day(2025, 6, 10), input=1_000, output=1_000),
        1_000 * 2.00 / M + 1_000 * 8.00 / M,
    ),
    (
        "GPT-6.1 Sol: 272k are not yet long",
        OPENAI,
        record("gpt-6.1-sol-2026-09-29", input=72_000, cache_read=200_000, output=1_000),
        72_000 * 2.00 / M + 200_000 * 0.10 / M + 1_000 * 10.00 / M,
    ),
    (
        "GPT-6.1 Sol above 272k",
        OPENAI,
        record("gpt-6.1-sol", input=72_001, cache_read=200_000, output=1_000),
        72_001 * 4.00 / M + 200_000 * 0.20 / M + 1_000 * 15.00 / M,
    ),
    (
        "GPT-6.1 Sol, fast: twice",
        OPENAI,
        record("gpt-6.1-sol", service_tier="priority", input=1_000, cache_read=2_000, output=1_000),
        1_000 * 4.00 / M + 2_000 * 0.20 / M + 1_000 * 20.00 / M,
    ),
    (
        "GPT-6.1 Sol, flex: half",
        OPENAI,
        record("gpt-6.1-sol", service_tier="flex", input=1_000, cache_read=2_000, output=1_000),
        1_000 * 1.00 / M + 2_000 * 0.05 / M + 1_000 * 5.00 / M,
    ),
    (
        "GPT-6.1 Sol, fast and above 272k",
        OPENAI,
        record("gpt-6.1-sol", service_tier="fast", input=272_001, cache_read=10, output=1_000),
        272_001 * 8.00 / M + 10 * 0.40 / M + 1_000 * 30.00 / M,
    ),
    (
        "GPT-5 in a batch: half of everything",
        OPENAI,
        record("gpt-5", service_tier="batch", input=1_000, cache_read=2_000, output=1_000),
        1_000 * 0.625 / M + 2_000 * 0.0625 / M + 1_000 * 5.00 / M,
    ),
    (
        "GPT-6.1 Sol: cache writes for 1.25 times the input",
        OPENAI,
        record("gpt-6.1-sol", input=100, cache_creation=8_000, output=10),
        100 * 2.00 / M + 8_000 * 2.50 / M + 10 * 10.00 / M,
    ),
)


def usd(cost: Cost) -> Decimal:
    """The cost, which must be known."""
    assert cost.usd is not None and cost.parts is not None
    return cost.usd


class GoldenTests(SynchronousTestCase):
    """The sums."""

    def test_sums(self) -> None:
        for name, tariff, answer, expected in SUMS:
            cost = cost_of(answer, tariff)
            self.assertAlmostEqual(float(usd(cost)), expected, delta=1e-9, msg=name)
            self.assertEqual((cost.basis, cost.missing), ("listed", ""), name)

    def test_there_are_enough(self) -> None:
        self.assertGreaterEqual(len(SUMS), 20)
        self.assertEqual(len({name for name, *_ in SUMS}), len(SUMS))

    def test_parts(self) -> None:
        answer = record(
            "claude-sonnet-4-6-20260217",
            input=1,
            cache_read=10,
            cache_creation=300,
            cache_creation_5m=100,
            cache_creation_1h=200,
            output=1_000,
        )
        cost = cost_of(answer, ANTHROPIC)
        assert cost.parts is not None and cost.prices is not None
        self.assertEqual(cost.parts.input, Decimal("0.000003"))
        self.assertEqual(cost.parts.cache_read, Decimal("0.000003"))
        self.assertEqual(cost.parts.cache_write_5m, Decimal("0.000375"))
        self.assertEqual(cost.parts.cache_write_1h, Decimal("0.0012"))
        self.assertEqual(cost.parts.output, Decimal("0.015"))
        self.assertEqual(cost.usd, Decimal("0.016581"))
        self.assertEqual((cost.model, cost.is_long), ("claude-sonnet-4-6", False))
        self.assertEqual((cost.prices.input, cost.prices.cache_write_1h), (Decimal(3), Decimal(6)))
        self.assertRegex(cost.list_version, r"^genai-prices \d+\.\d+")

    def test_sums_are_exact(self) -> None:
        cost = cost_of(record("claude-opus-5-5", input=2**63 - 1, cache_read=1), ANTHROPIC)
        self.assertEqual(cost.usd, Decimal("36893488147419.103228") + Decimal("0.0000002"))

    def test_counts_that_cannot_be(self) -> None:
        """They count as the nearest that can, and take no longer."""
        largest = cost_of(record("claude-opus-5-5", input=2**63 - 1), ANTHROPIC).usd
        answer = record("claude-opus-5-5", input=10**1_000_001, output=-(10**1_000_001))
        self.assertEqual(cost_of(answer, ANTHROPIC).usd, largest)

    def test_times_that_cannot_be(self) -> None:
        """They count as the nearest that can; o3 was dearer at first."""
        for at, dollars in (
            (float("nan"), 10),
            (float("-inf"), 10),
            (-1e300, 10),
            (1e300, 2),
            (float("inf"), 2),
        ):
            self.assertEqual(cost_of(record("o3", started_at=at, input=M), OPENAI).usd, dollars, at)

    def test_days_are_those_of_utc(self) -> None:
        """Whatever the time zone of the machine is."""
        before = os.environ.get("TZ")

        def restore() -> None:
            os.environ.pop("TZ", None)
            if before is not None:
                os.environ["TZ"] = before
            time.tzset()

        self.addCleanup(restore)
        for zone in ("Pacific/Auckland", "America/Los_Angeles"):
            os.environ["TZ"] = zone
            time.tzset()
            for at, dollars in ((day(2025, 6, 9, 23), 10), (day(2025, 6, 10, 0), 2)):
                self.assertEqual(cost_of(record("o3", started_at=at, input=M), OPENAI).usd, dollars, zone)

    def test_long(self) -> None:
        long = record("claude-sonnet-4-5", input=200_001)
        self.assertTrue(cost_of(long, ANTHROPIC).is_long)
        self.assertFalse(cost_of(dataclasses.replace(long, input=200_000), ANTHROPIC).is_long)


class UnknownTests(SynchronousTestCase):
    """What has no known cost, and is never priced like something else."""

    def missing(self, tariff: Tariff, answer: UsageRecord) -> str:
        """What is said to be missing; nothing else may be said."""
        cost = cost_of(answer, tariff)
        self.assertEqual((cost.usd, cost.basis, cost.parts, cost.prices), (None, "unknown", None, None))
        self.assertTrue(cost.list_version)
        return cost.missing

    def test_models(self) -> None:
        for tariff, model in (
            (ANTHROPIC, "claude-opus-99"),
            (ANTHROPIC, "claude-opus-4-55"),
            (ANTHROPIC, "claude-opus-4-10-20260101"),
            (ANTHROPIC, "claude-opus-4-5-turbo"),
            (ANTHROPIC, "claude"),
            (ANTHROPIC, "made-up"),
            (ANTHROPIC, "gpt-5"),
            (ANTHROPIC, ""),
            (ANTHROPIC, "claude-opus-4-5" * 1000),
            (OPENAI, "gpt-9"),
            (OPENAI, "gpt-5-nano-made-up"),
            (OPENAI, "gpt-5.2-2031-01-01"),
            (OPENAI, "ft:gpt-4o-2024-08-06:somebody"),
            (OPENAI, "claude-opus-4-5"),
            (OPENAI, "made-up"),
            # Listed, but not by the tokens that records have.
            (OPENAI, "whisper-1"),
            (OPENAI, "gpt-audio"),
            (OPENAI, "text-embedding-3-small"),
        ):
            self.assertEqual(self.missing(tariff, record(model, input=1, output=1)), "model", model)

    def test_tiers(self) -> None:
        for tariff, model, tier, at in (
            (ANTHROPIC, "claude-opus-5", "priority", TODAY),
            (ANTHROPIC, "claude-opus-5", "made-up", TODAY),
            (ANTHROPIC, "claude-sonnet-5", "fast", TODAY),
            (OPENAI, "gpt-5.2", "scale", TODAY),
            (OPENAI, "gpt-5-pro", "flex", TODAY),
            (OPENAI, "gpt-5.2", "priority", day(2026, 10, 11)),
        ):
            answer = record(model, service_tier=tier, started_at=at, input=1, output=1)
            self.assertEqual(self.missing(tariff, answer), "service tier", (model, tier))

    def test_nothing_used_costs_nothing(self) -> None:
        self.assertEqual(cost_of(record("claude-opus-5"), ANTHROPIC).usd, 0)
        self.assertEqual(self.missing(ANTHROPIC, record("made-up")), "model")


OWN = OwnPrices(
    (
        (
            "claude-*",
            OwnPrice(TokenPrices(Decimal(1), Decimal(2), Decimal("0.1"), Decimal("1.5"), Decimal(3))),
        ),
        (
            "mine",
            OwnPrice(
                TokenPrices(Decimal(1), Decimal(2), Decimal(1), Decimal(1), Decimal(1)),
                TokenPrices(Decimal(10), Decimal(20), Decimal(10), Decimal(10), Decimal(10)),
                above=1_000,
            ),
        ),
    )
)


class OwnTests(SynchronousTestCase):
    """The operator's prices."""

    def test_go_before_the_list(self) -> None:
        answer = record(
            "claude-opus-5", input=1_000, cache_read=100, cache_creation=30, cache_creation_1h=10, output=50
        )
        cost = cost_of(answer, ANTHROPIC, OWN)
        expected = 1_000 * 1 / M + 100 * 0.1 / M + 20 * 1.5 / M + 10 * 3 / M + 50 * 2 / M
        self.assertAlmostEqual(float(usd(cost)), expected, delta=1e-9)
        self.assertEqual((cost.basis, cost.list_version, cost.model), ("own", "", ""))

    def test_hold_for_every_tier_and_time(self) -> None:
        answer = record("claude-opus-5", input=1_000, service_tier="made-up", started_at=0)
        self.assertEqual(cost_of(answer, ANTHROPIC, OWN).usd, Decimal("0.001"))

    def test_long_context(self) -> None:
        for total, price in ((999, 1), (1_000, 1), (1_001, 10)):
            cost = cost_of(record("mine", input=total), OPENAI, OWN)
            self.assertAlmostEqual(float(usd(cost)), total * price / M, delta=1e-9)
            self.assertEqual(cost.is_long, total > 1_000)

    def test_others_are_of_the_list(self) -> None:
        cost = cost_of(record("gpt-5", input=1_000), OPENAI, OWN)
        self.assertEqual((cost.basis, cost.usd), ("listed", Decimal("0.00125")))
        self.assertIsNone(cost_of(record("made-up", input=1), OPENAI, OWN).usd)


PRICED = (
    (ANTHROPIC, "claude-opus-5-5"),
    (ANTHROPIC, "claude-sonnet-4-5"),
    (ANTHROPIC, "claude-haiku-5-5"),
    (OPENAI, "gpt-6.1-sol"),
    (OPENAI, "gpt-5"),
    (OPENAI, "gpt-5-pro"),
    (OPENAI, "mine"),
)
KINDS = ("input", "cache_read", "cache_creation_5m", "cache_creation_1h", "output")
COUNTS = st.integers(0, 10**7)


def made(model: str, counts: dict[str, int], tier: str = "") -> UsageRecord:
    """A record whose parts of cache writes add up to the whole."""
    written = counts["cache_creation_5m"] + counts["cache_creation_1h"]
    return record(model, service_tier=tier, cache_creation=written, **counts)


class Properties(SynchronousTestCase):
    """What holds for every record."""

    @examples(300)
    @given(
        st.sampled_from((ANTHROPIC, OPENAI)),
        st.text(max_size=30) | st.sampled_from([model for _, model in PRICED]),
        st.text(max_size=10) | st.sampled_from(["", "batch", "flex", "fast", "priority"]),
        st.floats() | st.integers(-(10**30), 10**30),
        st.lists(st.integers() | st.integers(-(10**400), 10**400), min_size=7, max_size=7),
        st.sampled_from((None, OWN)),
    )
    def test_never_raises_and_is_never_negative(
        self, tariff: Tariff, model: str, tier: str, at: float, counts: list[int], own: OwnPrices | None
    ) -> None:
        names = (*KINDS, "cache_creation", "reasoning")
        answer = record(model, service_tier=tier, started_at=at, **dict(zip(names, counts, strict=True)))
        cost = cost_of(answer, tariff, own)
        self.assertEqual(cost.usd is None, cost.basis == "unknown")
        self.assertEqual(cost.usd is None, bool(cost.missing))
        if cost.parts is not None:
            parts = dataclasses.astuple(cost.parts)
            self.assertTrue(all(part.is_finite() and part >= 0 for part in parts), parts)

    @examples(200)
    @given(st.sampled_from(PRICED), st.sampled_from(["", "batch", "flex", "priority"]), st.data())
    def test_parts_add_up(self, priced: tuple[Tariff, str], tier: str, data: st.DataObject) -> None:
        tariff, model = priced
        cost = cost_of(made(model, {kind: data.draw(COUNTS) for kind in KINDS}, tier), tariff, OWN)
        if cost.parts is not None:
            # Decimal numbers of this size are added without rounding, so in any order.
            self.assertEqual(cost.usd, sum(dataclasses.astuple(cost.parts), Decimal(0)))

    @examples(200)
    @given(st.sampled_from(PRICED), st.sampled_from(KINDS), st.integers(0, 10**6), st.data())
    def test_more_tokens_never_cost_less(
        self, priced: tuple[Tariff, str], kind: str, more: int, data: st.DataObject
    ) -> None:
        tariff, model = priced
        counts = {name: data.draw(COUNTS) for name in KINDS}
        less = cost_of(made(model, counts), tariff, OWN)
        greater = cost_of(made(model, {**counts, kind: counts[kind] + more}), tariff, OWN)
        self.assertGreaterEqual(usd(greater), usd(less))
        if less.is_long == greater.is_long and kind in ("input", "output"):
            assert less.prices is not None
            price = less.prices.input if kind == "input" else less.prices.output
            self.assertEqual(usd(greater) - usd(less), more * price / M)

    @examples(100)
    @given(st.lists(st.tuples(st.sampled_from(PRICED), COUNTS, COUNTS), max_size=8), st.randoms())
    def test_the_order_of_records_does_not_matter(
        self, answers: list[tuple[tuple[Tariff, str], int, int]], random: object
    ) -> None:
        def total(asked: list[tuple[tuple[Tariff, str], int, int]]) -> Decimal:
            return sum(
                (
                    usd(cost_of(record(model, input=a, output=b), tariff, OWN))
                    for (tariff, model), a, b in asked
                ),
                Decimal(0),
            )

        shuffled = list(answers)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        self.assertEqual(total(answers), total(shuffled))

    @examples(200)
    @given(st.sampled_from(PRICED[:-1]), st.data())
    def test_agrees_with_the_package(self, priced: tuple[Tariff, str], data: st.DataObject) -> None:
        """The package computes sums itself; where both know the model, they agree."""
        tariff, model = priced
        counts = {kind: data.draw(COUNTS) for kind in KINDS}
        written = counts["cache_creation_5m"] + counts["cache_creation_1h"]
        usage = Usage(
            input_tokens=counts["input"] + counts["cache_read"] + written,
            cache_read_tokens=counts["cache_read"],
            cache_write_tokens=written,
            cache_write_1h_tokens=counts["cache_creation_1h"],
            output_tokens=counts["output"],
        )
        theirs = calc_price(
            usage,
            model,
            provider_id=tariff.provider,
            genai_request_timestamp=datetime.fromtimestamp(TODAY, UTC),
        )
        self.assertAlmostEqual(usd(cost_of(made(model, counts), tariff)), theirs.total_price, delta=1e-9)


class StartTests(SynchronousTestCase):
    """What computing costs costs the program itself."""

    def test_the_list_is_loaded_when_it_is_needed(self) -> None:
        program = (
            "import sys; import ccmproxy.root.service, ccmproxy.policy.costs;"
            " sys.exit(any(name.partition('.')[0] == 'genai_prices' for name in sys.modules))"
        )
        self.assertEqual(subprocess.run([sys.executable, "-c", program], check=False).returncode, 0)
