"""Rate-limit windows: what an upstream says of an account, merged into what is known (spec 4.7, 5, 8.3).

Pure values and rules. Utilization is in percent of a window (0-100, may exceed), times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

#: Length of the short window of both providers where the upstream does not say (seconds).
SHORT_WINDOW = 5 * 3600.0
#: Length of the weekly window where the upstream does not say (seconds).
WEEKLY_WINDOW = 7 * 86400.0

#: Two resets this close are the same one (seconds): upstreams compute it anew for each answer, on clocks of their own.
RESET_JITTER = 60.0
#: More than this is no utilization (percent): overage is seen slightly above 100.
LARGEST_UTILIZATION = 10_000.0
#: 2000-01-01: what lies earlier is no time of a reset (Unix seconds).
EARLIEST_TIME = 946_684_800.0
#: 2100-01-01: what lies later is no time, but milliseconds or garbage (Unix seconds).
LATEST_TIME = 4_102_444_800.0
#: No window is longer (seconds): a year and a bit.
LONGEST_WINDOW = 400 * 86400.0
#: No plan is this many times a Pro plan.
LARGEST_WEIGHT = 1e6
#: Windows of models, and named limits, that are kept per account; names come from the upstream, so they are bounded.
MOST_MODELS = 32


@dataclass(frozen=True, slots=True)
class Window:
    """One rate-limit window. ``utilization`` None = never heard of; ``resets_at`` 0 = unknown; ``length`` in seconds.

    Made from an upstream's words by :func:`make_window`, which lets no nonsense in.
    """

    utilization: float | None = None
    resets_at: float = 0.0
    length: float = 0.0


EMPTY = Window()
_NONE: Mapping[str, Window] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class NamedLimit:
    """A limit that an upstream keeps beside the account's own, for one model or feature, with windows of its own.

    ``name``: as people know it, often the model's (``GPT-5.3-Codex-Spark``); empty where it was not said.
    ``names_models``: the models whose names hold that name are held to the limit; False where the dialect knows that
    it tells no model from another.
    """

    name: str = ""
    short: Window = EMPTY
    weekly: Window = EMPTY
    names_models: bool = True


@dataclass(frozen=True, slots=True)
class Credits:
    """What an account may spend beyond its windows. ``balance`` in the upstream's own words; empty = not said."""

    has_credits: bool
    unlimited: bool
    balance: str = ""


_NONE_NAMED: Mapping[str, NamedLimit] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Limits:
    """All that is known of an account's windows.

    ``models``: windows that hold for one model family only, by the family's name (``opus``), which stands in the names
    of its models and of no others (:mod:`ccmproxy.state.model_names`). ``named``: limits beside the account's own, by
    the upstream's id for them. ``credits`` None = never heard of.
    """

    short: Window = EMPTY
    weekly: Window = EMPTY
    models: Mapping[str, Window] = field(default_factory=lambda: _NONE)
    named: Mapping[str, NamedLimit] = field(default_factory=lambda: _NONE_NAMED)
    credits: Credits | None = None


@dataclass(frozen=True, slots=True)
class LimitsUpdate:
    """What one answer of the upstream said. A window that it did not mention is None.

    ``rejected_until``: the answer says that the account is used up, until then (0 = not said to be).
    ``model_rejections``: model family -> until when its own window is used up. In ``named``, a window that was not
    mentioned is empty. ``organization``: id of the organization that these limits are of; empty = not said.
    ``plan_weight``: of a remote instance, None = not said.
    """

    short: Window | None = None
    weekly: Window | None = None
    models: Mapping[str, Window] = field(default_factory=lambda: _NONE)
    rejected_until: float = 0.0
    model_rejections: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    named: Mapping[str, NamedLimit] = field(default_factory=lambda: _NONE_NAMED)
    credits: Credits | None = None
    organization: str = ""
    plan_weight: float | None = None

    @property
    def has_data(self) -> bool:
        """True if the answer mentioned any window: only then does it put off polling (spec 4.7)."""
        return self.short is not None or self.weekly is not None or bool(self.models) or bool(self.named)


#: Of an answer that says nothing of limits.
NOTHING_SAID = LimitsUpdate()


# One window ---------------------------------------------------------------------------------------------------


def finite_number(value: object, largest: float) -> float | None:
    """``value`` as a float if it is a number within 0 … ``largest``; None for anything else, booleans included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Compared before it is converted: an int may be too large for a float. NaN compares false.
    return float(value) if 0 <= value <= largest else None


def parse_unix_time(text: str | None) -> float:
    """Unix seconds in a header's value; 0 for anything that is none, or lies outside of this century."""
    if text is None or not text.isascii():
        return 0.0
    try:
        at = float(text)
    except ValueError:
        return 0.0
    return at if EARLIEST_TIME <= at <= LATEST_TIME else 0.0


def parse_weight(value: bytes | None) -> float | None:
    """The plan weight in a header's value; None for anything that is no positive number."""
    try:
        weight = float(value or b"")
    except ValueError:
        return None
    return weight if 0 < weight <= LARGEST_WEIGHT else None


def make_window(utilization: object, resets_at: object = None, length: object = None) -> Window | None:
    """A window from an upstream's words: percent, Unix seconds, seconds.

    None if ``utilization`` is not a number of at least 0: such a window says nothing. A reset or length that is none
    (NaN, infinite, negative, after 2100, a boolean, a string) counts as not said.
    """
    used = finite_number(utilization, LARGEST_UTILIZATION)
    if used is None:
        return None
    return Window(
        used, finite_number(resets_at, LATEST_TIME) or 0.0, finite_number(length, LONGEST_WINDOW) or 0.0
    )


def is_expired(window: Window, now: float) -> bool:
    """The window's reset has passed: it counts as empty until new data comes (spec 5.1). Never without a reset."""
    return 0 < window.resets_at <= now


def current_utilization(window: Window, now: float) -> float:
    """Percent used at ``now``; 0 for an expired window and for one that was never heard of."""
    return 0.0 if window.utilization is None or is_expired(window, now) else window.utilization


def current_reset(window: Window, now: float) -> float:
    """When the window resets (Unix seconds); 0 if that is unknown or has passed."""
    return window.resets_at if window.resets_at > now else 0.0


def remaining(window: Window, cap: float, now: float) -> float:
    """What is left below ``cap``, in percent of the window; the whole cap if it is expired or unknown (spec 8.1)."""
    return max(0.0, cap - current_utilization(window, now))


# Merging ------------------------------------------------------------------------------------------------------


def merge_observed(limits: Limits, update: LimitsUpdate, now: float) -> Limits:
    """What response headers or in-stream events said, merged in (spec 4.7). The same object if nothing changed.

    Answers overtake one another, so within one window utilization never goes down. It may decrease

    * with a reset that is later by more than :data:`RESET_JITTER`: another window has begun. The reset that a window
      was first seen with is kept while later ones lie within the jitter of it, so that a reset that creeps is
      noticed in the end, and one that flickers changes nothing;
    * when the known window's reset has passed.

    A reset that is *earlier* by more than the jitter never replaces the known one (only polls may do that): the
    highest utilization is kept with the latest reset. An update that is itself expired is a late answer about a
    window that is over, and ignored, unless nothing is known yet.
    """
    return _merged(limits, update, lambda known, said: _observed(known, said, now))


def merge_polled(limits: Limits, update: LimitsUpdate) -> Limits:
    """What the usage endpoint said, in place of what was known, also downwards (spec 3.5).

    Windows that it did not mention stay. The same object if nothing changed.
    """
    return _merged(limits, update, _replaced)


def without_full(limits: Limits) -> Limits:
    """The same, where a short or weekly window that is full counts as never heard of.

    For what a remote instance says that is usable: it has room, so such a figure is not about what it would use. Where
    none of its credentials has any data, as just after its start, or with keys that have no windows at all, it has to
    say 100 % (spec 8.1).
    """
    short, weekly = (
        Window() if (window.utilization or 0.0) >= 100.0 else window
        for window in (limits.short, limits.weekly)
    )
    return replace(limits, short=short, weekly=weekly)


def _replaced(known: Window, said: Window | None) -> Window:
    if said is None or said.utilization is None or said == known:
        return known
    return said if said.length or not known.length else replace(said, length=known.length)


def _observed(known: Window, said: Window | None, now: float) -> Window:
    if said is None or said.utilization is None:
        return known
    if known.utilization is None:
        return _replaced(known, said)
    if is_expired(said, now):
        return known
    if is_expired(known, now):
        return _replaced(known, said)
    if known.resets_at and said.resets_at > known.resets_at + RESET_JITTER:
        return _replaced(known, said)
    resets_at = known.resets_at or said.resets_at
    if said.utilization <= known.utilization and resets_at == known.resets_at:
        return known
    return replace(known, utilization=max(known.utilization, said.utilization), resets_at=resets_at)


def _merged(limits: Limits, update: LimitsUpdate, merge: Callable[[Window, Window | None], Window]) -> Limits:
    """Every window of ``update`` put into ``limits`` by ``merge`` (known, said); the same object if nothing changed."""
    short, weekly = merge(limits.short, update.short), merge(limits.weekly, update.weekly)
    models = {
        family: merge(limits.models.get(family, EMPTY), window) for family, window in update.models.items()
    }
    named = {
        key: _merged_named(limits.named.get(key, _UNKNOWN_LIMIT), said, merge)
        for key, said in update.named.items()
    }
    merged = Limits(
        short,
        weekly,
        _put(limits.models, models, lambda window: window.resets_at),
        _put(limits.named, named, lambda limit: max(limit.short.resets_at, limit.weekly.resets_at)),
        update.credits or limits.credits,
    )
    return limits if merged == limits else merged


_UNKNOWN_LIMIT = NamedLimit()


def _merged_named(
    known: NamedLimit, said: NamedLimit, merge: Callable[[Window, Window | None], Window]
) -> NamedLimit:
    named = said if said.name else known
    short, weekly = merge(known.short, said.short), merge(known.weekly, said.weekly)
    return NamedLimit(named.name, short, weekly, named.names_models)


_ValueT = TypeVar("_ValueT")


def _put(
    known: Mapping[str, _ValueT], said: dict[str, _ValueT], resets_at: Callable[[_ValueT], float]
) -> Mapping[str, _ValueT]:
    """``known`` with ``said`` put in, bounded: what resets first goes first."""
    if all(known.get(key) == value for key, value in said.items()):
        return known
    kept = {**known, **said}
    while len(kept) > MOST_MODELS:
        del kept[min(kept, key=lambda key: resets_at(kept[key]))]
    return MappingProxyType(kept)
