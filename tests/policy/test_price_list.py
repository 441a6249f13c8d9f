"""Tests of :mod:`ccmproxy.policy.price_list`: what is taken from the list, and what of it is not believed."""

from __future__ import annotations

import socket
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

from genai_prices import data_snapshot
from genai_prices.data import providers
from genai_prices.types import (
    ClauseContains,
    ClauseEquals,
    ClauseOr,
    ClauseRegex,
    ClauseStartsWith,
    ModelInfo,
)
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.catalog import DIALECTS
from ccmproxy.policy import price_list
from ccmproxy.policy.price_list import Listed, Missing, look_up
from ccmproxy.policy.prices import ServiceTier, Tariff

TODAY = datetime(2026, 12, 1, tzinfo=UTC)
USUAL = ServiceTier("")


def models(provider: str) -> list[ModelInfo]:
    """All that the list has of a provider."""
    return [model for each in providers if each.id == provider for model in each.models]


class ListTests(SynchronousTestCase):
    """The list that the package ships with."""

    def look_up(
        self, provider: str, model: str, tier: ServiceTier = USUAL, total: int = 0
    ) -> Listed | Missing:
        """What the list says today."""
        return look_up(Tariff(provider, ()), model, tier, TODAY, total)

    def test_names(self) -> None:
        for provider, asked, expected in (
            ("anthropic", "claude-opus-4-5", "claude-opus-4-5"),
            ("anthropic", "claude-opus-4-5-20251101", "claude-opus-4-5"),
            ("anthropic", "CLAUDE-OPUS-4-5", "claude-opus-4-5"),
            ("anthropic", "claude-sonnet-4-20250514", "claude-sonnet-4-0"),
            ("anthropic", "claude-sonnet-4@20250514", "claude-sonnet-4-0"),
            ("anthropic", "claude-3-5-haiku-latest", "claude-3-5-haiku-latest"),
            ("anthropic", "claude-haiku-5-5-20261001", "claude-haiku-5-5"),
            ("openai", "gpt-5.6", "gpt-5.6-sol"),
            ("openai", "gpt-5-nano-2025-08-07", "gpt-5-nano"),
            ("openai", "gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ):
            found = self.look_up(provider, asked)
            assert isinstance(found, Listed), asked
            self.assertEqual(found.model, expected)

    def test_no_listed_name_lends_its_price_to_a_longer_one(self) -> None:
        """With every name that the list has: nothing but a date may stand behind it."""
        for provider in ("anthropic", "openai"):
            for model in models(provider):
                for part in model.match.or_ if isinstance(model.match, ClauseOr) else [model.match]:
                    name = ""
                    match part:
                        case ClauseEquals(equals=text) | ClauseStartsWith(starts_with=text):
                            name = text
                        case ClauseContains(contains=text):
                            self.assertEqual(self.look_up(provider, f"x-{text}-x"), "model", text)
                    if not name:
                        continue
                    for longer in (
                        f"{name}-made-up",
                        f"{name}5-made-up",
                        f"{name}-20251",
                        f"{name}-29990101-x",
                    ):
                        self.assertEqual(self.look_up(provider, longer), "model", longer)

    def test_patterns_of_the_list_match_whole_names(self) -> None:
        found = 0
        for provider in ("anthropic", "openai"):
            for model in models(provider):
                for part in model.match.or_ if isinstance(model.match, ClauseOr) else ():
                    if isinstance(part, ClauseRegex):
                        found += 1
                        self.assertTrue(part.regex.startswith("^") and part.regex.endswith("$"), part)
        self.assertGreater(found, 0)

    def test_an_hour_in_the_cache_has_a_price(self) -> None:
        """Were it missing, an hour would cost what five minutes cost; it costs twice the input
        (https://platform.claude.com/docs/en/build-with-claude/prompt-caching#pricing)."""
        checked = 0
        for model in models("anthropic"):
            for tier in (USUAL, DIALECTS["ccm"].tariff.tier("batch")):
                assert tier is not None
                for total in (0, 900_000):
                    listed = self.look_up("anthropic", model.id, tier, total)
                    if isinstance(listed, Listed) and listed.prices.cache_write != listed.prices.input:
                        checked += 1
                        self.assertEqual(listed.prices.cache_write_1h, 2 * listed.prices.input, model.id)
        self.assertGreater(checked, 50)

    def test_no_listed_price_is_nothing(self) -> None:
        for provider in ("anthropic", "openai"):
            for model in models(provider):
                listed = self.look_up(provider, model.id)
                if isinstance(listed, Listed):
                    self.assertGreater(listed.prices.input, 0, model.id)
                    self.assertGreater(listed.prices.output, 0, model.id)
                    self.assertGreater(listed.prices.cache_read, 0, model.id)

    def test_batches_are_half_as_the_rule_says(self) -> None:
        """The rule that stands in for the list where it has no prices agrees with it where it has."""
        batch = DIALECTS["ccm"].tariff.tier("batch")
        assert batch is not None and batch.factor is not None
        listed_variants = 0
        for model in models("anthropic"):
            usual, half = self.look_up("anthropic", model.id), self.look_up("anthropic", model.id, batch)
            if isinstance(usual, Listed) and isinstance(half, Listed):
                listed_variants += bool(model.price_variants)
                self.assertEqual(half.prices, usual.prices.times(batch.factor), model.id)
        self.assertGreater(listed_variants, 10)

    def test_a_model_without_a_discount_has_none(self) -> None:
        listed = self.look_up("openai", "gpt-5-pro")
        assert isinstance(listed, Listed)
        self.assertEqual(listed.prices.cache_read, Decimal(15))
        self.assertEqual(listed.prices.cache_write, Decimal(15))

    def test_unknown_provider(self) -> None:
        self.assertEqual(self.look_up("made-up", "gpt-5"), "model")

    def test_only_what_is_installed_counts(self) -> None:
        """Whatever else in the process lets the package fetch newer prices: the version names the list that is used."""
        program = (
            "import sys; from genai_prices import data_snapshot as shot;"
            " shot.set_custom_snapshot(shot.DataSnapshot([], from_auto_update=True));"
            " from ccmproxy.policy import price_list; sys.exit(not price_list.providers)"
        )
        self.assertEqual(subprocess.run([sys.executable, "-c", program], check=False).returncode, 0)
        data_snapshot.set_custom_snapshot(data_snapshot.DataSnapshot([], from_auto_update=True))
        self.addCleanup(data_snapshot.set_custom_snapshot, None)
        self.assertIsInstance(self.look_up("openai", "gpt-5.1-codex-max"), Listed)

    def test_long_names_are_not_remembered(self) -> None:
        before = price_list._model.cache_info()
        self.assertEqual(self.look_up("openai", "x" * (price_list.LONGEST_NAME + 1)), "model")
        self.assertEqual(price_list._model.cache_info(), before)

    def test_nothing_is_fetched(self) -> None:
        def refuse(*arguments: object) -> None:
            raise AssertionError("the network was used")

        self.patch(socket, "socket", refuse)
        self.patch(socket, "getaddrinfo", refuse)
        self.assertIsInstance(self.look_up("openai", "gpt-5.3-codex"), Listed)
        self.assertEqual(self.look_up("openai", "gpt-77"), "model")
