"""Prices of tokens as values: those of a model, the operator's own, and by what a provider charges (spec 9.3). Pure.

All prices are USD for a million tokens. They are decimal numbers, so that 0.1 is 0.1 and sums are exact.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from ccmproxy.policy.model_globs import glob_expression

#: Above so many input tokens (cached ones included) the price for long contexts applies, where nothing else is said.
LONG_CONTEXT = 200_000


@dataclass(frozen=True, slots=True)
class TokenPrices:
    """Prices of one model for one request, in USD per million tokens.

    ``cache_write``: of tokens that are kept for 5 minutes; ``cache_write_1h``: for an hour. ``output`` includes
    reasoning, which no provider prices in another way.
    """

    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal

    def times(self, factor: Decimal) -> TokenPrices:
        """The same prices, each multiplied by ``factor``: a discount that holds for all kinds of tokens."""
        return TokenPrices(
            self.input * factor,
            self.output * factor,
            self.cache_read * factor,
            self.cache_write * factor,
            self.cache_write_1h * factor,
        )


@dataclass(frozen=True, slots=True)
class OwnPrice:
    """What the operator says that a model costs.

    ``long``: for all tokens of a request that has more than ``above`` input tokens; None: such requests cost the same.
    """

    usual: TokenPrices
    long: TokenPrices | None = None
    above: int = LONG_CONTEXT

    def is_long(self, total_input: int) -> bool:
        """Whether a request with so many input tokens, cached ones included, costs what a long one costs."""
        return self.long is not None and total_input > self.above

    def at(self, total_input: int) -> TokenPrices:
        """The prices of a request with so many input tokens, cached ones included."""
        return self.long if self.long is not None and total_input > self.above else self.usual


@dataclass(frozen=True, slots=True)
class OwnPrices:
    """The operator's own prices, which go before those of the price list.

    ``entries``: (name or glob, price) in the order of the configuration; for globs see
    :mod:`ccmproxy.policy.model_globs`. The case of letters does not matter.
    """

    entries: tuple[tuple[str, OwnPrice], ...] = ()

    def find(self, model: str) -> OwnPrice | None:
        """The price of ``model``: of the entry with its very name, else of the first glob that matches; else None."""
        if not self.entries or not model:
            return None
        wanted = model.lower()
        for pattern, price in self.entries:
            if pattern.lower() == wanted:
                return price
        for pattern, price in self.entries:
            if _glob(pattern.lower()).fullmatch(wanted):
                return price
        return None


@functools.lru_cache(maxsize=1024)
def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(glob_expression(pattern), re.DOTALL)


@dataclass(frozen=True, slots=True)
class ServiceTier:
    """One way of a provider to serve requests, which has prices of its own.

    ``name``: the word for it in answers, in lower case. ``variant``: (name, value) under which the price list keeps its
    prices; None: it costs what the list has as the usual price. ``factor``: what the usual prices are multiplied by
    where the list has none for it at that time, if the provider publishes such a rule for all of its models; None where
    it does not, and then the cost is unknown. ``source``: of the rule, or of what the word means.
    """

    name: str
    variant: tuple[str, str] | None = None
    factor: Decimal | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Tariff:
    """By what a provider charges.

    ``provider``: its name in the price list. ``tiers``: every way to serve requests whose price is published. A request
    that was served in a way that is not among them has no known cost.
    """

    provider: str
    tiers: Sequence[ServiceTier]

    def tier(self, name: str) -> ServiceTier | None:
        """The tier that answers call ``name`` (empty: they say nothing, so it is the usual one); None if not known."""
        wanted = name.strip().lower()
        if not wanted:
            return ServiceTier("")
        return next((each for each in self.tiers if each.name == wanted), None)
