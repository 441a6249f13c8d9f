"""Claude's rate-limit windows in all forms that the upstream uses: header fields and the usage endpoint.

An account has a 5-hour and a weekly window, and possibly a further weekly window for the models of one family
(``opus``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from ccmproxy.dialects.facts import header_key
from ccmproxy.dialects.json_values import moment, number
from ccmproxy.dialects.model_families import names_models
from ccmproxy.http.message import Headers, first_value, lower_names
from ccmproxy.state.limits import (
    SHORT_WINDOW,
    WEEKLY_WINDOW,
    LimitsUpdate,
    Window,
    make_window,
    parse_unix_time,
    parse_weight,
)
from ccmproxy.state.model_names import is_of_family, name_words

#: Prefix of the header fields in which the upstream reports the state of one account.
FAMILY = b"anthropic-ratelimit-unified-"
#: The header field that names the organization of the account.
ORGANIZATION = b"anthropic-organization-id"
#: The header field in which another instance reports its plan weight.
PLAN_WEIGHT = b"x-ccm-plan-weight"

#: Words in the names of many models: a window named by such a word alone would close all models, so it closes none.
VENDOR_WORDS = frozenset({"claude", "anthropic", "model", "latest"})

#: Names of the window for what a plan serves from paid overage alone, in header fields and in claims. No model is
#: called so: a refusal that names it is about the model that was asked for.
OVERAGE = frozenset({"oi", "overage_included"})
_OVERAGE_FIELD = "oi"

#: ``5h-utilization``, ``7d-reset``, ``7d_opus-status``: window, model family, what is said of it.
_FIELD = re.compile(r"(5h|7d)(?:_([a-z0-9_]+))?-(utilization|reset|status)")
_CLAIM_WINDOWS = {"5h": "5h", "five_hour": "5h", "7d": "7d", "seven_day": "7d"}
_CLAIM_MODEL = re.compile(r"(?:7d|seven_day)_([a-z0-9_]+)")
#: Prefix, at the usage endpoint, of the names of the weekly windows of one model family.
_USAGE_OF_MODEL = "seven_day_"


def parse_family(headers: Headers) -> dict[str, str]:
    """The fields of the family by the part of the name after the prefix, in lower case; empty where there are none."""
    return {
        name[len(FAMILY) :].decode("latin-1"): pair[1].decode("latin-1").strip()
        for pair, name in zip(headers, lower_names(headers), strict=True)
        if name.startswith(FAMILY)
    }


@dataclass(frozen=True, slots=True)
class Claim:
    """The window that a refusal names.

    ``model``: the model family, if the window is limited to one; ``resets_at``: Unix seconds, 0 = unknown.
    """

    resets_at: float = 0.0
    model: str = ""


def family_claims(family: Mapping[str, str]) -> Claim:
    """The window because of which the upstream refused, and its reset (spec 4.6).

    A refusal concerns only one model family if the representative claim, or else the only rejected window, is that
    family's.
    """
    claim = family.get("representative-claim", "").lower()
    if match := _CLAIM_MODEL.fullmatch(claim):
        field = _OVERAGE_FIELD if match[1] in OVERAGE else match[1]
        return Claim(
            parse_unix_time(family.get(f"7d_{field}-reset")) or parse_unix_time(family.get("reset")), match[1]
        )
    if window := _CLAIM_WINDOWS.get(claim):
        return Claim(parse_unix_time(family.get(f"{window}-reset")) or parse_unix_time(family.get("reset")))
    rejected = [
        match
        for name, value in family.items()
        if value.lower() == "rejected" and (match := _FIELD.fullmatch(name))
    ]
    if rejected and all(match[2] for match in rejected):
        match = rejected[0]
        return Claim(parse_unix_time(family.get(f"{match[1]}_{match[2]}-reset")), match[2])
    return Claim(parse_unix_time(family.get("reset")))


def closed_window(family: Mapping[str, str], model: str | None = None) -> Claim | None:
    """Return the window that refuses, if the family says that one is used up; None: it does not (spec 12.1).

    A window is used up if its own status is ``rejected`` or its utilization is 100 % or more; so it is if the overall
    status is ``rejected`` and the window that is claimed is not said to be allowed. A claim or a reset alone says
    nothing: a burst carries them too. ``model``: the one that was asked for; another model's window does not refuse it.
    """
    claim = family_claims(family)
    claimed = _claimed_key(family)
    is_rejected = family.get("status", "").lower() == "rejected"
    raw = _windows_of(family)
    full = {key for key, fields in raw.items() if _is_full(fields)}
    if claimed in full:
        return claim
    if own := [key for key in full if not key[1]]:
        return Claim(max(parse_unix_time(raw[key].get("reset")) for key in own))
    words = None if model is None else name_words(model)
    for key in sorted(full):
        # A full overage window is there all the time: only an answer that is refused for good was refused by it.
        concerns = is_rejected if key[1] in OVERAGE else words is None or is_of_family(words, key[1])
        if concerns:
            return Claim(
                parse_unix_time(raw[key].get("reset")) or parse_unix_time(family.get("reset")), key[1]
            )
    if not is_rejected:
        return None
    told = [raw[claimed]] if claimed in raw else raw.values()
    statuses = [fields["status"].lower() for fields in told if "status" in fields]
    return None if statuses and all(status.startswith("allowed") for status in statuses) else claim


def _claimed_key(family: Mapping[str, str]) -> tuple[str, str]:
    claim = family.get("representative-claim", "").lower()
    if match := _CLAIM_MODEL.fullmatch(claim):
        return "7d", _OVERAGE_FIELD if match[1] in OVERAGE else match[1]
    return _CLAIM_WINDOWS.get(claim, ""), ""


def _windows_of(family: Mapping[str, str]) -> dict[tuple[str, str], dict[str, str]]:
    """What is said of each window: ``("7d", "opus")`` → ``{"utilization": …, "reset": …, "status": …}``."""
    raw: dict[tuple[str, str], dict[str, str]] = {}
    for name, value in family.items():
        if match := _FIELD.fullmatch(name):
            raw.setdefault((match[1], match[2] or ""), {})[match[3]] = value
    return raw


def _is_full(fields: Mapping[str, str]) -> bool:
    if fields.get("status", "").lower() == "rejected":
        return True
    # The fraction itself: a window at 99.6 % is shown as 100, and has room.
    try:
        return 1.0 <= float(fields.get("utilization", "0")) < math.inf
    except ValueError:
        return False


@lru_cache(maxsize=256)
def read_headers(said: tuple[tuple[bytes, bytes], ...]) -> LimitsUpdate:
    """The limits in these fields, of the family and beside it, independent of the time; malformed ones are ignored.

    The result is cached, because an account's responses repeat the same fields for many requests.
    """
    headers = list(said)
    family = parse_family(headers)
    raw = _windows_of(family)
    windows = {key: _header_window(key[0], fields) for key, fields in raw.items()}
    rejected = {key for key, fields in raw.items() if fields.get("status", "").lower() == "rejected"}
    model_rejections = {key[1]: parse_unix_time(raw[key].get("reset")) for key in rejected if key[1]}
    is_rejected = family.get("status", "").lower() == "rejected"
    claim = closed_window(family) if is_rejected else None
    if claim is not None and claim.model:
        model_rejections.setdefault(claim.model, claim.resets_at)
    # The account is used up if one of its own windows is, or if the overall status says so and names no model.
    rejected_until = [parse_unix_time(raw[key].get("reset")) for key in rejected if not key[1]]
    if claim is not None and not claim.model:
        rejected_until.append(claim.resets_at)
    return LimitsUpdate(
        short=windows.get(("5h", "")),
        weekly=windows.get(("7d", "")),
        models={
            family_name: window
            for (_, family_name), window in windows.items()
            if window is not None and _closes_models(family_name)
        },
        rejected_until=max(rejected_until, default=0.0),
        model_rejections={name: until for name, until in model_rejections.items() if _closes_models(name)},
        organization=header_key(headers, ORGANIZATION) or "",
        plan_weight=parse_weight(first_value(headers, PLAN_WEIGHT)),
    )


def read_usage(answer: Mapping[str, object]) -> LimitsUpdate:
    """The limits in ``{five_hour: {utilization, resets_at}, seven_day: …, seven_day_opus: …}``; windows may be null."""
    models = {
        family: window
        for key, value in answer.items()
        if key.startswith(_USAGE_OF_MODEL)
        and names_models(family := key.removeprefix(_USAGE_OF_MODEL), VENDOR_WORDS)
        and (window := _usage_window(value, WEEKLY_WINDOW)) is not None
    }
    return LimitsUpdate(
        short=_usage_window(answer.get("five_hour"), SHORT_WINDOW),
        weekly=_usage_window(answer.get("seven_day"), WEEKLY_WINDOW),
        models=models,
    )


def _closes_models(family: str) -> bool:
    """Return whether some models are called so: a window of another name closes none of itself."""
    return family not in OVERAGE and names_models(family, VENDOR_WORDS)


def _header_window(name: str, fields: Mapping[str, str]) -> Window | None:
    utilization = None
    if "utilization" in fields:
        try:
            percent = float(fields["utilization"]) * 100
        except ValueError:
            return None
        if not math.isfinite(percent) or percent < 0:
            return None
        # Round before ceil: 0.07 * 100 is slightly more than 7 in binary, and must not become 8.
        utilization = float(math.ceil(round(percent, 6)))
    resets_at = parse_unix_time(fields.get("reset"))
    if utilization is None and not resets_at:
        return None
    return make_window(utilization, resets_at, SHORT_WINDOW if name == "5h" else WEEKLY_WINDOW)


def _usage_window(value: object, length: float) -> Window | None:
    if not isinstance(value, dict):
        return None
    return make_window(number(value.get("utilization")), moment(value.get("resets_at")) or 0.0, length)
