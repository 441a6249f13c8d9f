"""Consumption of an account's allowance: rate-limit windows that fill with tokens and empty with time. Pure.

Allowances are made up (the providers do not publish theirs), but have the known proportions between plans.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ccmproxy.dialects.usage import Tokens
from ccmproxy.state.limits import SHORT_WINDOW, WEEKLY_WINDOW

#: Units that the smallest plan may use in five hours, and in a week. One unit costs as much as one input token of the
#: smallest model, so that a cached coding turn of a large model takes about one percent of the smallest plan.
SHORT_ALLOWANCE = 8_000_000.0
WEEKLY_ALLOWANCE = 64_000_000.0

#: Cost of one token relative to an uncached input token of the same model.
OUTPUT_COST = 5.0
CACHE_READ_COST = 0.1
CACHE_WRITE_5M_COST = 1.25
CACHE_WRITE_1H_COST = 2.0


def cost(tokens: Tokens, model_weight: float) -> float:
    """Units that a response takes from a window. ``model_weight``: price of the model relative to the smallest one."""
    return model_weight * (
        tokens.input
        + tokens.output * OUTPUT_COST
        + tokens.cache_read * CACHE_READ_COST
        + tokens.cache_creation_5m * CACHE_WRITE_5M_COST
        + tokens.cache_creation_1h * CACHE_WRITE_1H_COST
    )


def weight_of(model: str, weights: Mapping[str, float], usual: float) -> float:
    """Price of ``model`` relative to the smallest one, by the first word that occurs in its name; else ``usual``."""
    return next((weight for word, weight in weights.items() if word in model), usual)


@dataclass(slots=True)
class UsageWindow:
    """One window: begins with its first use, ends ``length`` seconds later, and is then empty.

    ``allowance`` and ``used`` in units. ``resets_at`` in Unix seconds, None while the window has not begun.
    ``recurring``: the next window begins where the last one ended, used or not (the weekly window); otherwise with the
    next use (the 5-hour window).
    """

    length: float
    allowance: float
    recurring: bool = False
    used: float = 0.0
    resets_at: float | None = None

    def pass_time(self, now: float) -> None:
        """Empty the window if its reset has passed."""
        if self.resets_at is None or now < self.resets_at:
            return
        self.used = 0.0
        if self.recurring:
            periods = (now - self.resets_at) // self.length + 1
            reset = self.resets_at + periods * self.length
            # Rounding may yield now itself, or a time after the end of the period that begins now.
            self.resets_at = reset if now < reset < now + self.length else now + self.length
        else:
            self.resets_at = None

    def begin(self, now: float) -> None:
        """Start the window if it has not begun."""
        self.pass_time(now)
        if self.resets_at is None:
            self.resets_at = now + self.length

    def consume(self, units: float, now: float) -> None:
        """Charge ``units`` to the window; the first use begins it. May exceed the allowance, like the real ones."""
        self.begin(now)
        self.used += units

    def set_utilization(self, percent: float, now: float, resets_in: float | None = None) -> None:
        """Set the window to ``percent`` full; ``resets_in`` seconds moves the reset, None keeps or begins it."""
        self.begin(now)
        self.used = self.allowance * percent / 100.0
        if resets_in is not None:
            self.resets_at = now + resets_in

    def utilization(self, now: float) -> float:
        """Fraction used (1.0 = full, may exceed)."""
        self.pass_time(now)
        return self.used / self.allowance

    def is_full(self, now: float) -> bool:
        """Whether the allowance is used up."""
        return self.utilization(now) >= 1.0


def short_window(size: float, speed: float) -> UsageWindow:
    """The 5-hour window of a plan. ``size``: relative to the smallest plan; ``speed``: how much faster time passes."""
    return UsageWindow(SHORT_WINDOW / speed, SHORT_ALLOWANCE * size)


def weekly_window(size: float, speed: float) -> UsageWindow:
    """The weekly window, with the same arguments."""
    return UsageWindow(WEEKLY_WINDOW / speed, WEEKLY_ALLOWANCE * size, recurring=True)
