"""Codex's rate-limit windows in all forms that the upstream uses: header fields, events, the usage endpoint.

An account has several limits, each with an id: ``codex`` is the account's own, every other limit applies to a model or
feature. A limit has two windows, primary and secondary, of any length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ccmproxy.dialects.facts import header_key, printable_key
from ccmproxy.dialects.json_values import number, text
from ccmproxy.dialects.model_families import names_models
from ccmproxy.http.message import Headers, lower_names
from ccmproxy.state.limits import (
    EMPTY,
    MOST_MODELS,
    SHORT_WINDOW,
    WEEKLY_WINDOW,
    Credits,
    LimitsUpdate,
    NamedLimit,
    Window,
    make_window,
    parse_unix_time,
)

#: Words in the names of many models: a limit named by such a word alone would close all models, so it closes none.
VENDOR_WORDS = frozenset({"gpt", "codex", "openai", "model", "latest"})

#: Id of the account's own limit.
OWN_LIMIT = "codex"
ACTIVE_LIMIT = b"x-codex-active-limit"
CREDITS = b"x-codex-credits-"
#: Longest window that counts as the short one (seconds).
LONGEST_SHORT = 86400.0
#: Longest name of a limit, which is the name of a model or feature; the rest is cut off (characters).
LONGEST_NAME = 100

_FIELD = re.compile(
    r"x-([a-z0-9_-]{1,80}?)-(primary|secondary)-(used-percent|window-minutes|reset-at|reset-after-seconds)"
)
_NAME = re.compile(r"x-([a-z0-9_-]{1,80})-limit-name")


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit as a response reports it. ``name``: empty where the limit has none."""

    name: str = ""
    primary: Window | None = None
    secondary: Window | None = None

    @property
    def windows(self) -> tuple[Window, ...]:
        """The windows that were reported."""
        return tuple(window for window in (self.primary, self.secondary) if window is not None)


@dataclass(frozen=True, slots=True)
class HeaderLimits:
    """The limits in the header fields of a response, by id.

    ``active``: id of the limit that the response names, else ``codex``. ``active_name``: the name of that limit, empty
    where it has none; a limit with a name applies to a model or feature.
    """

    limits: Mapping[str, Limit]
    active: str = OWN_LIMIT
    active_name: str = ""

    @property
    def own(self) -> str:
        """Id of the limit that is the account's own.

        If a response does not mention ``codex``, but names another limit without a name, that limit is the account's
        own.
        """
        if OWN_LIMIT in self.limits or self.active not in self.limits or self.active_name:
            return OWN_LIMIT
        return self.active


def read_headers(headers: Headers, now: float) -> HeaderLimits:
    """All limits that the response mentions (spec 4.7); malformed ones are ignored."""
    fields: dict[str, dict[str, str]] = {}
    names: dict[str, str] = {}
    for pair, lower in zip(headers, lower_names(headers), strict=True):
        if not lower.startswith(b"x-"):
            continue
        name = lower.decode("latin-1")
        value = pair[1].decode("latin-1").strip()
        if match := _FIELD.fullmatch(name):
            fields.setdefault(_id(match[1]), {})[f"{match[2]}-{match[3]}"] = value
        elif match := _NAME.fullmatch(name):
            names[_id(match[1])] = value[:LONGEST_NAME]
    limits = {
        key: Limit(
            names.get(key, ""),
            _header_window(said, "primary", SHORT_WINDOW, now),
            _header_window(said, "secondary", WEEKLY_WINDOW, now),
        )
        for key, said in fields.items()
    }
    named = header_key(headers, ACTIVE_LIMIT)
    key = _id(named) if named else OWN_LIMIT
    return HeaderLimits(
        {each: limit for each, limit in limits.items() if limit.windows},
        key,
        names.get(key, "") if key != OWN_LIMIT else "",
    )


def read_credits(headers: Headers) -> Credits | None:
    """The credits in the header fields of a response; None where it does not mention them."""
    said = {
        name[len(CREDITS) :]: pair[1].strip().lower()
        for pair, name in zip(headers, lower_names(headers), strict=True)
        if name.startswith(CREDITS)
    }
    flags = {b"true": True, b"1": True, b"false": False, b"0": False}
    has_credits, unlimited = (flags.get(said.get(key, b"")) for key in (b"has-credits", b"unlimited"))
    if has_credits is None or unlimited is None:
        return None
    return Credits(has_credits, unlimited, said.get(b"balance", b"").decode("latin-1")[:LONGEST_NAME])


def read_usage(answer: Mapping[str, object], now: float) -> LimitsUpdate:
    """The limits in ``{rate_limit: {primary_window, secondary_window}, additional_rate_limits, credits}``.

    Most members may be null.
    """
    limits = {}
    additional = answer.get("additional_rate_limits")
    for said in additional if isinstance(additional, list) else ():
        if isinstance(said, dict):
            name = text(said.get("limit_name")) or ""
            key = limit_id(said.get("metered_feature")) or limit_id(name)
            limit = _usage_limit(name[:LONGEST_NAME], said.get("rate_limit"), now)
            if key is not None and limit.windows:
                limits[key] = limit
    limits[OWN_LIMIT] = _usage_limit("", answer["rate_limit"], now)
    return limits_update(limits, OWN_LIMIT, json_credits(answer.get("credits")))


def _usage_limit(name: str, value: object, now: float) -> Limit:
    if not isinstance(value, dict):
        return Limit(name)
    windows = []
    for place, by_position in (("primary_window", SHORT_WINDOW), ("secondary_window", WEEKLY_WINDOW)):
        said = value.get(place)
        length = said.get("limit_window_seconds") if isinstance(said, dict) else None
        windows.append(json_window(said, length, by_position, now))
    return Limit(name, *windows)


def read_event(event: Mapping[str, object], now: float) -> LimitsUpdate:
    """The limit and the credits in a ``codex.rate_limits`` event."""
    name = text(event.get("limit_name")) or ""
    key = limit_id(event.get("metered_limit_name")) or limit_id(name) or OWN_LIMIT
    limits = {}
    said = event.get("rate_limits")
    if isinstance(said, dict):
        windows = [
            json_window(window, _seconds(window), by_position, now)
            for window, by_position in (
                (said.get("primary"), SHORT_WINDOW),
                (said.get("secondary"), WEEKLY_WINDOW),
            )
        ]
        limit = Limit(name[:LONGEST_NAME], *windows)
        if limit.windows:
            limits[key] = limit
    return limits_update(limits, OWN_LIMIT, json_credits(event.get("credits")))


def _seconds(window: object) -> float | None:
    minutes = number(window.get("window_minutes")) if isinstance(window, dict) else None
    return None if minutes is None else minutes * 60


def json_window(value: object, length: object, by_position: float, now: float) -> Window | None:
    """A window from JSON: ``used_percent``, ``reset_at`` (Unix seconds) or ``reset_after_seconds``.

    ``length``: the reported length, in seconds; ``by_position``: the usual length of a window in this position.
    """
    if not isinstance(value, dict):
        return None
    resets_at = number(value.get("reset_at")) or 0.0
    after = number(value.get("reset_after_seconds")) or 0.0
    if resets_at <= 0 < after:
        resets_at = now + after
    return _window(number(value.get("used_percent")), resets_at, number(length), by_position)


def json_credits(value: object) -> Credits | None:
    """The credits from JSON: ``has_credits``, ``unlimited``, ``balance``."""
    if not isinstance(value, dict):
        return None
    has_credits, unlimited = value.get("has_credits"), value.get("unlimited")
    if not isinstance(has_credits, bool) or not isinstance(unlimited, bool):
        return None
    return Credits(has_credits, unlimited, (text(value.get("balance")) or "")[:LONGEST_NAME])


def limits_update(limits: Mapping[str, Limit], own: str, credits: Credits | None) -> LimitsUpdate:
    """The reported limits as an update of a credential's state; ``own``: id of the account's own limit."""
    short, weekly = place(limits[own]) if own in limits else (None, None)
    named: dict[str, NamedLimit] = {}
    for key, limit in limits.items():
        if key != own and len(named) < MOST_MODELS:
            its_short, its_weekly = place(limit)
            is_models = not limit.name or names_models(limit.name, VENDOR_WORDS)
            named[key] = NamedLimit(limit.name, its_short or EMPTY, its_weekly or EMPTY, is_models)
    return LimitsUpdate(short, weekly, named=named, credits=credits)


def place(limit: Limit) -> tuple[Window | None, Window | None]:
    """The limit's windows as (short, weekly), by their lengths, not by their positions (F34).

    Of two windows the shorter one is the short one. A single window of up to a day is the short one, a longer one the
    weekly one; the other is then None.
    """
    primary, secondary = limit.primary, limit.secondary
    if primary is not None and secondary is not None:
        return (secondary, primary) if primary.length > secondary.length else (primary, secondary)
    window = primary or secondary
    if window is None:
        return None, None
    return (window, None) if window.length <= LONGEST_SHORT else (None, window)


def limit_id(value: object) -> str | None:
    """The id of a limit from JSON; None where it is missing."""
    key = printable_key(value) if isinstance(value, str) else None
    return _id(key) if key else None


def _id(word: str) -> str:
    """The id with underscores, as JSON spells it; header names spell it with hyphens."""
    return word.lower().replace("-", "_")


def _header_window(said: dict[str, str], place: str, by_position: float, now: float) -> Window | None:
    used = _decimal(said.get(f"{place}-used-percent"))
    minutes = _decimal(said.get(f"{place}-window-minutes"))
    resets_at = parse_unix_time(said.get(f"{place}-reset-at"))
    after = _decimal(said.get(f"{place}-reset-after-seconds")) or 0.0
    if not resets_at and after > 0:
        resets_at = now + after
    return _window(used, resets_at, None if minutes is None else minutes * 60, by_position)


def _window(used: float | None, resets_at: float, length: float | None, by_position: float) -> Window | None:
    if not (used or resets_at > 0 or length):
        return None  # all zero: how the upstream says that there is no such window
    window = make_window(used, resets_at, length)
    return replace(window, length=by_position) if window is not None and not window.length else window


def _decimal(value: str | None) -> float | None:
    if value is None or not value.isascii():
        return None
    try:
        return number(float(value))
    except ValueError:
        return None
