"""The list prices of models, from the package genai-prices as it is installed (spec 9.3). Pure.

Nothing is ever fetched: of the package only the list that it ships with is read, never the part that updates it, so
the version of the package says which prices these are. Importing this module takes 50 to 100 ms and 5 MiB, so it is
imported when the first cost is computed (:mod:`ccmproxy.policy.costs`).

The package finds some models by the beginning of their names, which would price ``claude-opus-4-55`` like
``claude-opus-4-5``. So its answer counts only where the name is one that it lists, or that name with a date.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

import genai_prices
from genai_prices.data import providers
from genai_prices.types import (
    ClauseAnd,
    ClauseEquals,
    ClauseOr,
    ClauseRegex,
    ClauseStartsWith,
    MatchLogic,
    ModelInfo,
    ModelPrice,
    TieredPrices,
)

from ccmproxy.policy.prices import ServiceTier, Tariff, TokenPrices

#: The package and its version, as it is stored with every cost.
VERSION = f"genai-prices {genai_prices.__version__}"

#: Longer names of models are not looked up (characters): there is none, and what is looked up is remembered.
LONGEST_NAME = 200

#: What a name may have behind the one that the list has, for the same model.
_DATE = re.compile(r"[-@](20\d{6}|20\d\d-\d\d-\d\d|latest)\Z")

#: Prices for tokens that records tell apart. Any other one (for audio, images) makes a sum from records wrong.
_KNOWN = frozenset(
    """
    input_mtok output_mtok cache_read_mtok cache_write_mtok cache_write_5m_mtok cache_write_1h_mtok
    """.split()
)


@dataclass(frozen=True, slots=True)
class Listed:
    """List prices of one request. ``model``: the list's own name of it. ``is_long``: those for long contexts."""

    prices: TokenPrices
    model: str
    is_long: bool


#: What the list does not know: the model, or what it costs when it is served in that way.
Missing = Literal["model", "service tier"]


def look_up(
    tariff: Tariff, model: str, tier: ServiceTier, at: datetime, total_input: int
) -> Listed | Missing:
    """The list prices of a request to ``model`` that began ``at``, was served as ``tier`` says and had ``total_input``
    input tokens, cached ones included; or what the list does not know. Never raises."""
    found = _model(tariff.provider, model.lower()) if len(model) <= LONGEST_NAME else None
    if found is None:
        return "model"
    factor = Decimal(1)
    context: dict[str, str] = {}
    if tier.variant is not None:
        if _has_variant(found, tier.variant, at):
            context = dict([tier.variant])
        elif tier.factor is not None:
            factor = tier.factor
        else:
            return "service tier"
    rates = _Rates(found.get_prices(at, context), total_input)
    prices = rates.prices()
    return "model" if prices is None else Listed(prices.times(factor), found.id, rates.is_long)


class _Rates:
    """The prices of a model for a request with so many input tokens."""

    def __init__(self, price: ModelPrice, total_input: int) -> None:
        self._price = price
        self._total_input = total_input
        self.is_long = False

    def prices(self) -> TokenPrices | None:
        """All prices; None where the model is not priced by tokens, or by more kinds of tokens than records have.

        What has no price of its own costs what it is a special case of, which is also how the package computes: a
        model without a price for cached tokens has no discount for them.
        """
        stored = {name for name, price in vars(self._price).items() if price is not None}
        by_token = {name for name in stored if name.endswith("_mtok")}
        if by_token - _KNOWN or not {"input_mtok", "output_mtok"} <= by_token:
            return None
        usual = self._rate("input_mtok", Decimal(0))
        written = self._rate("cache_write_mtok", usual)
        return TokenPrices(
            input=usual,
            output=self._rate("output_mtok", Decimal(0)),
            cache_read=self._rate("cache_read_mtok", usual),
            cache_write=self._rate("cache_write_5m_mtok", written),
            cache_write_1h=self._rate("cache_write_1h_mtok", written),
        )

    def _rate(self, name: str, default: Decimal) -> Decimal:
        price = vars(self._price).get(name)
        if isinstance(price, TieredPrices):
            # Above its start a tier is the price of all tokens, not only of those above (docs of both providers).
            for tier in reversed(price.tiers):
                if self._total_input > tier.start:
                    self.is_long = True
                    return tier.price
            return price.base
        return default if price is None else price


@functools.lru_cache(maxsize=512)
def _model(provider: str, name: str) -> ModelInfo | None:
    """The model of that name (in lower case); None if the list has none."""
    stem = _DATE.sub("", name)
    for each in providers:
        if each.id == provider:
            for model in each.models:
                if model.is_match(name) and any(_is_named(part, name, stem) for part in _parts(model.match)):
                    return model
    return None


def _parts(match: MatchLogic) -> Iterator[MatchLogic]:
    if isinstance(match, ClauseOr):
        for part in match.or_:
            yield from _parts(part)
    elif not isinstance(match, ClauseAnd):
        yield match


def _is_named(part: MatchLogic, name: str, stem: str) -> bool:
    """Whether ``part`` of what matches a model contains ``name``, or ``stem``, as a whole."""
    match part:
        case ClauseEquals(equals=text) | ClauseStartsWith(starts_with=text):
            return text.lower() in (name, stem)
        case ClauseRegex(regex=pattern):
            return re.fullmatch(pattern, name) is not None
    return False


def _has_variant(model: ModelInfo, variant: tuple[str, str], at: datetime) -> bool:
    return any(
        each.when == dict([variant]) and (each.constraint is None or each.constraint.active(at))
        for each in model.price_variants or ()
    )
