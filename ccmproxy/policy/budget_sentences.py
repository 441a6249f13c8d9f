"""What people are told of their budgets, in one sentence of at most 200 characters (spec 9.6). Pure."""

from __future__ import annotations

import math
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal

from ccmproxy.policy.budget_periods import Per, period_of
from ccmproxy.policy.budget_terms import ALL_MODELS, MOST, PLACES_OF_USD, Budget, Standing, Unit
from ccmproxy.policy.budgets import HeldByOthers, Reached, UsedUp

#: So much of the globs of a budget is shown (characters); they can be long.
_MOST_OF_GLOBS = 60
_PERIODS = {Per.FIVE_HOURS: "5 hours", Per.DAY: "day", Per.WEEK: "week", Per.MONTH: "month"}


def of_admission(refused: UsedUp | HeldByOthers, now: float) -> str:
    """Return why a request was refused. ``now``: Unix seconds."""
    budget = _named(refused.standing)
    if isinstance(refused, HeldByOthers):
        wait = math.ceil(refused.wait)
        return f"what is left of {budget} is held by requests under way; try again in {wait} s"
    return f"{budget} is used up; it begins anew {_when(refused.standing, now)}"


def of_reached(reached: Reached, now: float) -> str:
    """Return that a part of a budget is used. ``now``: Unix seconds."""
    standing = reached.standing
    if reached.percent == 100:
        return f"{_named(standing)} is used up; it begins anew {_when(standing, now)}"
    return f"{reached.percent} % of {_named(standing)} is used; it begins anew {_when(standing, now)}"


def of_standing(standing: Standing, now: float) -> str:
    """Return what is used of a budget. ``now``: Unix seconds."""
    used = min(standing.used, Decimal(MOST))
    if standing.budget.unit is Unit.USD:
        # Whole cents, and rounded down: a budget that is not used up must not look as if it were.
        used = used.quantize(Decimal("0.01"), ROUND_FLOOR)
    return f"{quantity(standing.budget.unit, used)} of {_named(standing)} used; it begins anew {_when(standing, now)}"


def quantity(unit: Unit, value: Decimal | int) -> str:
    """Return dollars, tokens or requests in words: "$0.50", "1,000,000 tokens", "1 request"."""
    number = min(Decimal(value), Decimal(MOST))
    if unit is Unit.USD:
        return f"${_money(number)}"
    word = unit.name.lower()
    return f"{int(number):,} {word[:-1] if number == 1 else word}"


def _money(number: Decimal) -> str:
    if number == number.to_integral_value(ROUND_FLOOR):
        return f"{int(number):,}"
    text = f"{number:,.{PLACES_OF_USD}f}".rstrip("0")
    places = len(text.partition(".")[2])
    return text + "0" * max(0, 2 - places)


def _named(standing: Standing) -> str:
    budget = standing.budget
    whose = "your group's budget" if standing.owner.is_group else "your budget"
    amount = quantity(budget.unit, budget.limit)
    return f"{whose} of {amount} per {_PERIODS[budget.per]}{_models(budget)}"


def _models(budget: Budget) -> str:
    if budget.models == ALL_MODELS:
        return ""
    globs = ", ".join(budget.models)
    if len(globs) > _MOST_OF_GLOBS:
        globs = globs[: _MOST_OF_GLOBS - 1] + "…"
    return f" for {globs}"


def _when(standing: Standing, now: float) -> str:
    """The time of day at which the budget begins anew, and the date unless that is today or at the end of today."""
    # Rounded up to the minute: who comes at the time that is named must not be too early.
    end = math.ceil(standing.period.end / 60) * 60
    local = datetime.fromtimestamp(end, standing.zone)
    today = period_of(Per.DAY, now, standing.zone)
    clock = f"at {local:%H:%M}"
    return clock if today.start <= end <= today.end else f"{clock} on {local:%Y-%m-%d}"
