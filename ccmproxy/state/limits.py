"""Rate-limit windows: an upstream's reports about an account, and how they are merged (spec 4.7, 5, 8.3).

Pure values and rules. Utilization is in percent of a window (usually 0-100, but it may exceed 100); times are Unix
seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

#: Length of the short window of both providers, if the upstream does not report it (seconds).
SHORT_WINDOW = 5 * 3600.0
#: Length of the weekly window, if the upstream does not report it (seconds).
WEEKLY_WINDOW = 7 * 86400.0

#: Two resets that differ by no more than this are the same (seconds): upstreams recompute the reset for each response,
#: on different clocks.
RESET_JITTER = 60.0
#: Largest number that is accepted as a utilization (percent). Overage has been observed slightly above 100.
LARGEST_UTILIZATION = 10_000.0
#: 2000-01-01: an earlier time is not accepted as a reset (Unix seconds).
EARLIEST_TIME = 946_684_800.0
#: 2100-01-01: a later time is not accepted, as it is in milliseconds or garbage (Unix seconds).
LATEST_TIME = 4_102_444_800.0
#: Largest number that is accepted as the length of a window (seconds): a little over a year.
LONGEST_WINDOW = 400 * 86400.0
#: Largest number that is accepted as a plan weight (multiples of a Pro plan).
LARGEST_WEIGHT = 1e6
#: Number of model windows, and of named limits, that are kept per account. Bounded, as the upstream chooses the names.
MOST_MODELS = 32


@dataclass(frozen=True, slots=True)
class Window:
    """One rate-limit window.

    ``utilization``: percent, None = never reported. ``resets_at``: Unix seconds, 0 = unknown. ``length``: seconds, 0 =
    unknown. :func:`make_window` creates windows from an upstream's values, and rejects invalid ones.
    """

    utilization: float | None = None
    resets_at: float = 0.0
    length: float = 0.0


EMPTY = Window()
_NONE: Mapping[str, Window] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class NamedLimit:
    """A separate limit for one model or feature, with its own windows, in addition to the account's windows.

    ``name``: the public name, often that of the model (``GPT-5.3-Codex-Spark``); empty if not reported.
    ``names_models``: whether the limit applies to the models whose names contain ``name``; False if the dialect knows
    that the name does not identify models.
    """

    name: str = ""
    short: Window = EMPTY
    weekly: Window = EMPTY
    names_models: bool = True


@dataclass(frozen=True, slots=True)
class Credits:
    """Credits that an account may use beyond its windows. ``balance``: the upstream's text; empty = not reported."""

    has_credits: bool
    unlimited: bool
    balance: str = ""


_NONE_NAMED: Mapping[str, NamedLimit] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Limits:
    """Everything that is known about an account's windows.

    ``models``: windows that apply to one model family only, by the family's name (``opus``), which occurs in the names
    of its models and of no others (:mod:`ccmproxy.state.model_names`). ``named``: additional limits, by the upstream's
    id for them. ``credits``: None = never reported.
    """

    short: Window = EMPTY
    weekly: Window = EMPTY
    models: Mapping[str, Window] = field(default_factory=lambda: _NONE)
    named: Mapping[str, NamedLimit] = field(default_factory=lambda: _NONE_NAMED)
    credits: Credits | None = None


@dataclass(frozen=True, slots=True)
class LimitsUpdate:
    """The limits that one response of the upstream reported. A window that it did not mention is None.

    ``rejected_until``: until when the response says that the account is used up (Unix seconds, 0 = it does not say so).
    ``model_rejections``: model family -> until when its own window is used up. In ``named``, a window that was not
    mentioned is empty. ``organization``: id of the organization whose limits these are; empty = not reported.
    ``plan_weight``: weight of a remote instance, None = not reported.
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
        """Whether the response mentioned any window: only then is the next poll postponed (spec 4.7)."""
        return self.short is not None or self.weekly is not None or bool(self.models) or bool(self.named)


#: The update of a response that reports nothing about limits.
NOTHING_SAID = LimitsUpdate()


# One window ---------------------------------------------------------------------------------------------------


def finite_number(value: object, largest: float) -> float | None:
    """Return ``value`` as a float if it is a number from 0 to ``largest``, else None. Booleans are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # The comparison comes before the conversion, as an int may be too large for a float. NaN compares false.
    return float(value) if 0 <= value <= largest else None


def parse_unix_time(text: str | None) -> float:
    """Parse Unix seconds from a header's value. Returns 0 for anything else, and for times outside of this century."""
    if text is None or not text.isascii():
        return 0.0
    try:
        at = float(text)
    except ValueError:
        return 0.0
    return at if EARLIEST_TIME <= at <= LATEST_TIME else 0.0


def parse_weight(value: bytes | None) -> float | None:
    """Parse a plan weight from a header's value. Returns None if it is no number from above 0 to LARGEST_WEIGHT."""
    try:
        weight = float(value or b"")
    except ValueError:
        return None
    return weight if 0 < weight <= LARGEST_WEIGHT else None


def make_window(utilization: object, resets_at: object = None, length: object = None) -> Window | None:
    """Create a window from an upstream's values: percent, Unix seconds, seconds.

    Returns None if ``utilization`` is not a number from 0 to LARGEST_UTILIZATION, as such a window has no information.
    An invalid reset or length (NaN, infinite, negative, too large, a boolean, a string) counts as not reported.
    """
    used = finite_number(utilization, LARGEST_UTILIZATION)
    if used is None:
        return None
    return Window(
        used, finite_number(resets_at, LATEST_TIME) or 0.0, finite_number(length, LONGEST_WINDOW) or 0.0
    )


def is_expired(window: Window, now: float) -> bool:
    """Return whether the window's reset has passed, so that it counts as empty until new data arrives (spec 5.1).

    A window without a known reset never expires.
    """
    return 0 < window.resets_at <= now


def current_utilization(window: Window, now: float) -> float:
    """Return the percentage used at ``now``; 0 for an expired window and for one that was never reported."""
    return 0.0 if window.utilization is None or is_expired(window, now) else window.utilization


def current_reset(window: Window, now: float) -> float:
    """Return when the window resets (Unix seconds); 0 if the reset is unknown or has passed."""
    return window.resets_at if window.resets_at > now else 0.0


def remaining(window: Window, cap: float, now: float) -> float:
    """Return how much is left below ``cap``, in percent of the window (spec 8.1).

    For an expired window, or one that was never reported, that is the whole cap.
    """
    return max(0.0, cap - current_utilization(window, now))


# Merging ------------------------------------------------------------------------------------------------------


def merge_observed(limits: Limits, update: LimitsUpdate, now: float) -> Limits:
    """Merge the report of response headers or in-stream events (spec 4.7). Returns ``limits`` itself if unchanged.

    Responses may arrive out of order, so the utilization never goes down within one window. It may decrease only

    * if the reported reset is later by more than :data:`RESET_JITTER`, so that another window has begun. The reset that
      was first seen for a window is kept while later resets are within the jitter of it. So a slowly drifting reset is
      noticed eventually, and a fluctuating reset changes nothing;
    * if the reset of the known window has passed.

    A reset that is *earlier* by more than the jitter never replaces the known one (only polls may do that): the
    highest utilization is kept with the latest reset. An update whose window has expired is a late response about a
    past window, and is ignored unless nothing is known yet.
    """
    return _merged(limits, update, lambda known, said: _observed(known, said, now))


def merge_polled(limits: Limits, update: LimitsUpdate, now: float = 0.0) -> Limits:
    """Replace what was known by what the usage endpoint reported, even by lower values (spec 3.5).

    Windows that it did not mention stay, as do those that it reports with a reset before ``now`` (Unix seconds)
    although a later one is known (spec 12.5). Returns ``limits`` itself if nothing changed.
    """
    return _merged(limits, update, lambda known, said: _polled(known, said, now))


def without_full(limits: Limits) -> Limits:
    """Return ``limits`` with full short and weekly windows replaced by windows that were never reported.

    This is for the report of a remote instance that says it is usable. Such an instance has capacity, so a full window
    does not describe what it would use: sing-box, and older instances of ccmproxy, report 100 % while none of their
    credentials has any data, as just after the start, or with API keys, which have no windows.
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


def _polled(known: Window, said: Window | None, now: float) -> Window:
    is_late = said is not None and is_expired(said, now) and known.resets_at > now
    return known if is_late else _replaced(known, said)


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
    """Merge each window of ``update`` into ``limits`` by ``merge`` (known, reported).

    Returns ``limits`` itself if nothing changed.
    """
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
    """Return ``known`` updated with ``said``. If there are too many entries, those that reset first are dropped."""
    if all(known.get(key) == value for key, value in said.items()):
        return known
    kept = {**known, **said}
    while len(kept) > MOST_MODELS:
        del kept[min(kept, key=lambda key: resets_at(kept[key]))]
    return MappingProxyType(kept)
