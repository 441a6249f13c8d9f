"""What budgets are made of: units, amounts, a budget, and how it stands (spec 9.6). Pure.

Sums are kept as whole numbers, dollars as millionths of millionths, so that whatever is reserved can be taken back to
the last digit, however large or small the amounts beside it are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import tzinfo
from decimal import ROUND_CEILING, Context, Decimal
from enum import Enum, IntEnum

from ccmproxy.policy.budget_periods import Per, Period
from ccmproxy.policy.model_globs import glob_expression

#: Decimal places of a dollar that count; what is finer is rounded up. A token costs some 1e-8 to 1e-4 dollars.
PLACES_OF_USD = 12
#: More than so many dollars, tokens or requests count as so many: nobody owns more, and sums stay short.
MOST = 10**12
#: Models that a budget is on if it does not say which: all, a request that names none included.
ALL_MODELS: tuple[str, ...] = ("*",)

_PARTS_OF_USD: int = 10**PLACES_OF_USD
_LEAST_USD = Decimal(1).scaleb(-PLACES_OF_USD)
# The process's own context may be set to anything.
_CONTEXT = Context(prec=60)


class Unit(IntEnum):
    """What a budget counts. The number is the place of its count in ``Amount.counts``."""

    USD = 0
    TOKENS = 1
    REQUESTS = 2


class Action(Enum):
    """What a budget does when it is used up, by its word in the configuration."""

    REFUSE = "refuse"
    #: Only tells.
    WARN = "warn"


def counted(unit: Unit, value: Decimal | int) -> int:
    """Return ``value`` dollars, tokens or requests as the whole number that sums are kept in; at most that of MOST.

    Raises ValueError for what is below 0, infinite or no number, and for a part of a token or request.
    """
    number = Decimal(value)
    if not number.is_finite() or number < 0:
        raise ValueError(f"{value} is no amount")
    if unit is not Unit.USD:
        if number >= MOST:
            return MOST
        if number != int(number):
            raise ValueError(f"{value} is no whole number of {unit.name.lower()}")
        return int(number)
    if number >= MOST:
        return MOST * _PARTS_OF_USD
    if 0 < number < _LEAST_USD:
        return 1
    return int(number.scaleb(PLACES_OF_USD, _CONTEXT).to_integral_value(ROUND_CEILING))


def value_of(unit: Unit, count: int) -> Decimal:
    """Return the dollars, tokens or requests that a count stands for."""
    return Decimal(count).scaleb(-PLACES_OF_USD if unit is Unit.USD else 0, _CONTEXT)


@dataclass(frozen=True, slots=True)
class Amount:
    """What a request costs, or is expected to, in all units.

    ``usd``: at list prices (spec 9.3). ``tokens``: read and written. ``is_marked``: a model without a price is counted
    among ``usd``, at the dearest known price of its provider, which the caller has put in. ``counts``: by unit, see
    ``counted``. Raises ValueError for what is below 0, infinite or no number.
    """

    usd: Decimal = Decimal(0)
    tokens: int = 0
    requests: int = 1
    is_marked: bool = False
    counts: tuple[int, int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        counts = (
            counted(Unit.USD, self.usd),
            counted(Unit.TOKENS, self.tokens),
            counted(Unit.REQUESTS, self.requests),
        )
        object.__setattr__(self, "counts", counts)


@dataclass(frozen=True, slots=True)
class Budget:
    """So much of ``unit`` per period.

    ``limit``: dollars, tokens or requests; 0 allows nothing. ``models``: globs of the models that it is on (``*`` and
    ``?``, without regard to case), kept sorted; empty counts as all. ``warn_at``: percents of the limit that are told
    when they are reached; 100 always is. ``counted_limit``: the limit as sums are kept. Raises ValueError for a limit
    that is no amount, and for a percent that is not above 0.
    """

    per: Per
    limit: Decimal | int
    unit: Unit = Unit.USD
    models: tuple[str, ...] = ALL_MODELS
    warn_at: tuple[int, ...] = (80, 95)
    action: Action = Action.REFUSE
    counted_limit: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if any(percent <= 0 for percent in self.warn_at):
            raise ValueError("a percent of warn_at is above 0")
        is_on_all = not self.models or "*" in self.models
        object.__setattr__(self, "models", ALL_MODELS if is_on_all else tuple(sorted(set(self.models))))
        object.__setattr__(self, "counted_limit", counted(self.unit, self.limit))

    @property
    def percents(self) -> tuple[int, ...]:
        """The percents that are told, in rising order."""
        return tuple(sorted({*self.warn_at, 100}))

    def has_reached(self, percent: int, used: int) -> bool:
        """Return whether ``used`` (as sums are kept) is so many percent of the limit."""
        return used * 100 >= self.counted_limit * percent


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose budgets they are: a user's by name, or those that a group of users has together."""

    name: str
    is_group: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """How one budget stands at a moment.

    ``zone``: the one its days are counted in. ``period``: the current one; of five hours that have not begun, the one
    that would begin now. ``used_count``, ``reserved_count``: answers so far, and requests under way, as sums are kept.
    ``is_marked``: a model without a price is among what was used (see Amount).
    """

    owner: Owner
    budget: Budget
    zone: tzinfo
    period: Period
    used_count: int
    reserved_count: int
    is_marked: bool = False

    @property
    def used(self) -> Decimal:
        """What was used, in dollars, tokens or requests."""
        return value_of(self.budget.unit, self.used_count)

    @property
    def reserved(self) -> Decimal:
        """What requests under way have reserved, in dollars, tokens or requests."""
        return value_of(self.budget.unit, self.reserved_count)

    @property
    def is_used_up(self) -> bool:
        """Whether nothing is left, even if every reservation were taken back."""
        return self.used_count >= self.budget.counted_limit

    @property
    def is_full(self) -> bool:
        """Whether nothing is left beside what is reserved."""
        return self.used_count + self.reserved_count >= self.budget.counted_limit

    @property
    def fullness(self) -> float:
        """The part that is used or reserved; 1 is all, and a budget of 0 is infinitely full."""
        limit = self.budget.counted_limit
        return (self.used_count + self.reserved_count) / limit if limit else float("inf")

    @property
    def percent_reached(self) -> int | None:
        """The highest percent among those that are told that was used; None: not even the lowest."""
        reached = (each for each in self.budget.percents if self.budget.has_reached(each, self.used_count))
        return max(reached, default=None)


class ModelGlobs:
    """Globs of model names (:mod:`ccmproxy.policy.model_globs`), made into one pattern. Case does not count."""

    __slots__ = ("_pattern",)

    def __init__(self, globs: tuple[str, ...]) -> None:
        self._pattern = re.compile("|".join(map(glob_expression, globs)), re.IGNORECASE | re.DOTALL)

    def matches(self, model: str) -> bool:
        """Return whether ``model`` is one of them. Of a request that names none it is empty."""
        return self._pattern.fullmatch(model) is not None
