"""What an answer cost, in USD at list prices or at the operator's own (spec 9.3). Pure.

A cost that is not known is None: never 0, and never that of another model.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Literal

from ccmproxy.policy.prices import OwnPrices, Tariff, TokenPrices
from ccmproxy.state.usage_record import UsageRecord

#: Whose price it was: that of the price list, of the operator, or nobody's.
Basis = Literal["listed", "own", "unknown"]

#: Exact for all counts and prices that there can be.
_ARITHMETIC = Context(prec=100, rounding=ROUND_HALF_EVEN)
_MILLION = Decimal(1_000_000)

#: More tokens than any record can hold (64 bits) count as so many: to make a decimal number of a million digits takes
#: half a minute.
_MOST_TOKENS = 2**63 - 1

#: The first and last moment (Unix seconds) that a price is looked up for: those that datetime can express.
_EARLIEST, _LATEST = 0.0, datetime(9999, 12, 31, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class CostParts:
    """What each kind of token cost, in USD. ``output`` includes reasoning."""

    input: Decimal
    cache_read: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal
    output: Decimal

    @property
    def total(self) -> Decimal:
        """All of it."""
        total = Decimal(0)
        for part in (self.input, self.cache_read, self.cache_write_5m, self.cache_write_1h, self.output):
            total = _ARITHMETIC.add(total, part)
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an answer cost, and how that was found.

    ``usd``: None where it is not known; then ``missing`` says what is not known (the model, or what it costs when it is
    served in that way), and ``parts`` and ``prices`` are None too. ``basis``: whose prices these are.
    ``list_version``: package and version of the price list that was asked; empty with the operator's own prices, which
    go before it. ``model``: what the price list calls the model; empty where it was not asked or knows none.
    ``is_long``: the price for long contexts applied. ``prices``: USD per million tokens.
    """

    usd: Decimal | None
    basis: Basis
    list_version: str = ""
    model: str = ""
    is_long: bool = False
    missing: Literal["", "model", "service tier"] = ""
    parts: CostParts | None = None
    prices: TokenPrices | None = None


def cost_of(record: UsageRecord, tariff: Tariff, own: OwnPrices | None = None) -> Cost:
    """What the answer of ``record`` cost when it began.

    ``tariff``: that of the provider. ``own``: the operator's prices, which hold for a model at any time and however it
    is served. Negative counts count as 0, and those that no record can hold as the
    largest that one can. Never raises.
    """
    tokens = _Tokens.of(record)
    if own is not None and (price := own.find(record.model)):
        prices = price.at(tokens.total_input)
        parts = tokens.priced(prices)
        return Cost(
            usd=parts.total,
            basis="own",
            is_long=price.is_long(tokens.total_input),
            parts=parts,
            prices=prices,
        )
    # The list takes time and memory to load, and who has prices of his own for everything never needs it.
    from ccmproxy.policy.price_list import VERSION, Listed, look_up

    tier = tariff.tier(record.service_tier)
    if tier is None:
        return Cost(usd=None, basis="unknown", list_version=VERSION, missing="service tier")
    listed = look_up(tariff, record.model, tier, _moment(record.started_at), tokens.total_input)
    if not isinstance(listed, Listed):
        return Cost(usd=None, basis="unknown", list_version=VERSION, missing=listed)
    parts = tokens.priced(listed.prices)
    return Cost(
        usd=parts.total,
        basis="listed",
        list_version=VERSION,
        model=listed.model,
        is_long=listed.is_long,
        parts=parts,
        prices=listed.prices,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokens:
    """The tokens of a record by what they cost, none of them negative."""

    input: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    output: int

    @classmethod
    def of(cls, record: UsageRecord) -> _Tokens:
        """Those of ``record``. Writes to the cache of which no lifetime is known have the usual one, of 5 minutes
        (https://platform.claude.com/docs/en/build-with-claude/prompt-caching)."""
        short, long = _count(record.cache_creation_5m), _count(record.cache_creation_1h)
        return cls(
            input=_count(record.input),
            cache_read=_count(record.cache_read),
            cache_write_5m=max(short, _count(record.cache_creation) - long),
            cache_write_1h=long,
            output=_count(record.output),
        )

    @property
    def total_input(self) -> int:
        """All tokens that were read, which determine whether the context is a long one."""
        return self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h

    def priced(self, prices: TokenPrices) -> CostParts:
        """What they cost at ``prices``."""
        return CostParts(
            input=_usd(self.input, prices.input),
            cache_read=_usd(self.cache_read, prices.cache_read),
            cache_write_5m=_usd(self.cache_write_5m, prices.cache_write),
            cache_write_1h=_usd(self.cache_write_1h, prices.cache_write_1h),
            output=_usd(self.output, prices.output),
        )


def _count(tokens: int) -> int:
    return min(max(0, tokens), _MOST_TOKENS)


def _usd(tokens: int, price: Decimal) -> Decimal:
    return _ARITHMETIC.divide(_ARITHMETIC.multiply(Decimal(tokens), price), _MILLION)


def _moment(seconds: float) -> datetime:
    """Unix seconds as a time; what is no possible time counts as the nearest that is, and what is no number as 1970."""
    if seconds != seconds:
        seconds = _EARLIEST
    return datetime.fromtimestamp(min(max(seconds, _EARLIEST), _LATEST), UTC)
