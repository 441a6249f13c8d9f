"""Claude's limits and usage: from headers, bodies and in-stream events, and back into headers (spec 4.7, 8.3, 9)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

import msgspec
from zope.interface import implementer

from ccmproxy.dialects.facts import RequestFacts, printable_key
from ccmproxy.dialects.logins import DECODE_ERRORS
from ccmproxy.dialects.meters import count, fitting_meter
from ccmproxy.dialects.sse import EventRewriter, EventScanner
from ccmproxy.dialects.usage import MeterReading, Tokens, UsageMeter
from ccmproxy.http.headers import response_headers
from ccmproxy.http.message import Headers, ResponseHead, first_value, lower_names
from ccmproxy.interfaces.facets import IMetering
from ccmproxy.state.aggregate import Aggregate
from ccmproxy.state.limits import (
    SHORT_WINDOW,
    WEEKLY_WINDOW,
    LimitsUpdate,
    Window,
    make_window,
    parse_unix_time,
    parse_weight,
)

#: The headers in which the upstream tells the state of one account begin so.
FAMILY = b"anthropic-ratelimit-unified-"
#: And here it tells whose account that is.
ORGANIZATION = b"anthropic-organization-id"
#: And here another instance tells how big it is.
PLAN_WEIGHT = b"x-ccm-plan-weight"
_BESIDE = frozenset({ORGANIZATION, PLAN_WEIGHT})

_KEY_RESET = re.compile(
    rb"anthropic-ratelimit-(?:requests|tokens|input-tokens|output-tokens)-(reset|remaining)"
)
#: ``5h-utilization``, ``7d-reset``, ``7d_opus-status``: window, model family, what is said of it.
_FIELD = re.compile(r"(5h|7d)(?:_([a-z0-9_]+))?-(utilization|reset|status)")
_CLAIM_WINDOWS = {"5h": "5h", "five_hour": "5h", "7d": "7d", "seven_day": "7d"}
_CLAIM_MODEL = re.compile(r"(?:7d|seven_day)_([a-z0-9_]+)")
LARGEST_EVENT = 1024 * 1024


def parse_family(headers: Headers) -> dict[str, str]:
    """The fields of the family, by what follows the prefix, in lower case; empty where there are none."""
    return {
        name[len(FAMILY) :].decode("latin-1"): pair[1].decode("latin-1").strip()
        for pair, name in zip(headers, lower_names(headers), strict=True)
        if name.startswith(FAMILY)
    }


@dataclass(frozen=True, slots=True)
class Claim:
    """Which window a refusal names. ``model``: the family where it is one model's; ``resets_at`` 0 = not said."""

    resets_at: float = 0.0
    model: str = ""


def family_claims(family: dict[str, str]) -> Claim:
    """Why the upstream refused, and until when (spec 4.6).

    A refusal is one model's alone if the representative claim, or else the only rejected window, is that model's.
    """
    claim = family.get("representative-claim", "").lower()
    if match := _CLAIM_MODEL.fullmatch(claim):
        return Claim(
            parse_unix_time(family.get(f"7d_{match[1]}-reset")) or parse_unix_time(family.get("reset")),
            match[1],
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


def api_key_reset(headers: Headers) -> float:
    """When the used-up limit of an API key renews (RFC 3339 in ``anthropic-ratelimit-tokens-reset``); 0 = unknown."""
    fields = {
        match[0].removesuffix(match[1]): value.decode("latin-1")
        for name, value in headers
        if (match := _KEY_RESET.fullmatch(name.lower())) and match[1] == b"reset"
    }
    used_up = {
        match[0].removesuffix(match[1])
        for name, value in headers
        if (match := _KEY_RESET.fullmatch(name.lower()))
        and match[1] == b"remaining"
        and value.strip() == b"0"
    }
    times = [_rfc3339(text) for name, text in fields.items() if name in used_up]
    return max(times, default=0.0)


def aggregate_headers(aggregate: Aggregate, now: float) -> Headers:
    """The state of the whole pool in the words of one account (spec 8.3), as of this second."""
    return list(_aggregate_fields(aggregate, int(now)))


@lru_cache(maxsize=128)
def _aggregate_fields(aggregate: Aggregate, now: int) -> tuple[tuple[bytes, bytes], ...]:
    view = aggregate.view(now)
    fields: list[tuple[str, str]] = [
        ("status", view.status),
        ("5h-utilization", f"{aggregate.short_utilization / 100:.6f}"),
        ("7d-utilization", f"{aggregate.weekly_utilization / 100:.6f}"),
    ]
    resets = {"5h": aggregate.short_reset, "7d": aggregate.weekly_reset}
    fields += [(f"{window}-reset", str(int(at))) for window, at in resets.items() if at]
    claim = "5h" if view.claim == "short" else "7d"
    fields.append(("representative-claim", {"5h": "five_hour", "7d": "seven_day"}[claim]))
    if resets[claim]:
        fields.append(("reset", str(int(resets[claim]))))
    if view.short_surpassed:
        fields.append(("5h-surpassed-threshold", "true"))
    if view.weekly_surpassed:
        fields.append(("7d-surpassed-threshold", "true"))
    headers = [(FAMILY + name.encode(), value.encode()) for name, value in fields]
    headers.append((b"X-CCM-Plan-Weight", f"{aggregate.plan_weight:g}".encode()))
    return tuple(headers)


@implementer(IMetering)
class ClaudeMetering:
    """Metering facet of the Claude dialect. Stateless; its meters are not."""

    def limits_from_headers(self, headers: Headers, now: float) -> LimitsUpdate:
        """All windows of the family that the answer mentions; anything malformed is as if it were not there."""
        said = tuple(
            pair
            for pair, name in zip(headers, lower_names(headers), strict=True)
            if name.startswith(FAMILY) or name in _BESIDE
        )
        if all(pair[0].lower() in _BESIDE for pair in said):
            return _NOTHING_SAID
        update = _read_family(said)
        if not (update.rejected_until or update.model_rejections):
            return update
        return replace(
            update,
            rejected_until=update.rejected_until if update.rejected_until > now else 0.0,
            model_rejections={
                family: until for family, until in update.model_rejections.items() if until > now
            },
        )

    def public_headers(self, headers: Headers, aggregate: Aggregate | None, now: float) -> Headers:
        """The upstream's fields less its account's state, plus the pool's (spec 8.3)."""
        forwarded = response_headers(headers)
        kept = [
            pair
            for pair, name in zip(forwarded, lower_names(forwarded), strict=True)
            if not name.startswith(FAMILY) and name != PLAN_WEIGHT
        ]
        if aggregate is not None:
            kept += aggregate_headers(aggregate, now)
        return kept

    def rewriter(
        self,
        head: ResponseHead,
        observe: Callable[[LimitsUpdate], None],
        aggregate: Callable[[], Aggregate | None],
        now: Callable[[], float],
    ) -> EventRewriter | None:
        """None: the events of a message say nothing of the account."""
        return None

    def meter(self, facts: RequestFacts, head: ResponseHead) -> UsageMeter:
        """A meter that fits the answer's media type."""
        return fitting_meter(facts, head, StreamMeter, read_message)


_NOTHING_SAID = LimitsUpdate()


@lru_cache(maxsize=256)
def _read_family(said: tuple[tuple[bytes, bytes], ...]) -> LimitsUpdate:
    """The limits in these fields, whenever; an account's answers say the same for many requests on end."""
    family = parse_family(list(said))
    raw: dict[tuple[str, str], dict[str, str]] = {}
    for name, value in family.items():
        if match := _FIELD.fullmatch(name):
            raw.setdefault((match[1], match[2] or ""), {})[match[3]] = value
    windows = {key: _window(key[0], fields) for key, fields in raw.items()}
    rejected = {key for key, fields in raw.items() if fields.get("status", "").lower() == "rejected"}
    model_rejections = {key[1]: parse_unix_time(raw[key].get("reset")) for key in rejected if key[1]}
    claim = family_claims(family)
    overall = family.get("status", "").lower() == "rejected"
    if overall and claim.model:
        model_rejections.setdefault(claim.model, claim.resets_at)
    # The account is used up if one of its own windows is, or if the overall status says so for no model alone.
    rejected_until = [parse_unix_time(raw[key].get("reset")) for key in rejected if not key[1]]
    if overall and not claim.model:
        rejected_until.append(claim.resets_at)
    return LimitsUpdate(
        short=windows.get(("5h", "")),
        weekly=windows.get(("7d", "")),
        models={key[1]: window for key, window in windows.items() if key[1] and window is not None},
        rejected_until=max(rejected_until, default=0.0),
        model_rejections=model_rejections,
        organization=_organization(said),
        plan_weight=parse_weight(first_value(list(said), PLAN_WEIGHT)),
    )


def _organization(headers: tuple[tuple[bytes, bytes], ...]) -> str:
    value = first_value(list(headers), ORGANIZATION)
    return printable_key(value.decode("latin-1").strip()) or "" if value is not None else ""


def _window(name: str, fields: dict[str, str]) -> Window | None:
    utilization = None
    if "utilization" in fields:
        try:
            percent = float(fields["utilization"]) * 100
        except ValueError:
            return None
        if not math.isfinite(percent) or percent < 0:
            return None
        # Rounded first: 0.07 * 100 is a little more than 7 in binary, and must not become 8.
        utilization = float(math.ceil(round(percent, 6)))
    resets_at = parse_unix_time(fields.get("reset"))
    if utilization is None and not resets_at:
        return None
    return make_window(utilization, resets_at, SHORT_WINDOW if name == "5h" else WEEKLY_WINDOW)


def _rfc3339(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text.strip())
        # Without an offset the text would be read in the machine's own zone.
        return moment.timestamp() if moment.tzinfo else 0.0
    except (ValueError, OverflowError):
        return 0.0


# Usage --------------------------------------------------------------------------------------------------------


class _CacheCreation(msgspec.Struct):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    service_tier: str | None = None


class _Message(msgspec.Struct):
    model: str | None = None
    usage: _Usage | None = None


class _MessageStart(msgspec.Struct):
    message: _Message


class _MessageDelta(msgspec.Struct):
    usage: _Usage | None = None


class _Error(msgspec.Struct):
    type: str = "unknown"


class _ErrorEvent(msgspec.Struct):
    error: _Error


_message_decoder = msgspec.json.Decoder(_Message)
_start_decoder = msgspec.json.Decoder(_MessageStart)
_delta_decoder = msgspec.json.Decoder(_MessageDelta)
_error_decoder = msgspec.json.Decoder(_ErrorEvent)


def read_message(body: bytes) -> MeterReading:
    """The reading of a whole message in JSON."""
    message = _Message()
    try:
        message = _message_decoder.decode(body)
    except DECODE_ERRORS:
        pass
    counts = _Counts()
    counts.update(message.usage)
    return counts.reading(message.model, complete=True)


def error_event_type(payload: bytes) -> str:
    """The type of the error that an ``error`` event tells; ``unknown`` where it cannot be understood."""
    try:
        return _error_decoder.decode(payload).error.type
    except DECODE_ERRORS:
        return "unknown"


class StreamMeter:
    """Usage of an event stream: ``message_start`` begins it, ``message_delta`` carries cumulative figures.

    Complete with ``message_stop``; an ``error`` event is kept by its type (F13).
    """

    __slots__ = ("_complete", "_counts", "_error", "_model", "_scanner")

    def __init__(self) -> None:
        self._scanner = EventScanner(
            frozenset({b"message_start", b"message_delta", b"message_stop", b"error"}),
            max_event=LARGEST_EVENT,
        )
        self._counts = _Counts()
        self._model: str | None = None
        self._complete = False
        self._error = ""

    @property
    def at_boundary(self) -> bool:
        return self._scanner.at_boundary

    def feed(self, data: bytes) -> None:
        for name, payload in self._scanner.feed(data):
            try:
                if name == b"message_delta":
                    self._counts.update(_delta_decoder.decode(payload).usage)
                elif name == b"message_start":
                    message = _start_decoder.decode(payload).message
                    self._model = message.model
                    self._counts.update(message.usage)
                elif name == b"message_stop":
                    self._complete = True
                elif not self._error:
                    self._error = error_event_type(payload)
            except DECODE_ERRORS:
                continue

    def end(self) -> None:
        """A stream's end says nothing: only ``message_stop`` makes it complete (F22)."""

    def reading(self) -> MeterReading:
        return self._counts.reading(self._model, complete=self._complete, error=self._error)


class _Counts:
    """Cumulative figures of one message: each report replaces what it names and leaves the rest."""

    __slots__ = ("creation", "creation_1h", "creation_5m", "input", "output", "read", "reported", "tier")

    def __init__(self) -> None:
        self.input = self.output = self.read = self.creation = self.creation_5m = self.creation_1h = 0
        self.tier: str | None = None
        self.reported = False

    def update(self, usage: _Usage | None) -> None:
        if usage is None:
            return
        self.reported = True
        self.tier = usage.service_tier or self.tier
        self.input = count(usage.input_tokens, self.input)
        self.output = count(usage.output_tokens, self.output)
        self.read = count(usage.cache_read_input_tokens, self.read)
        self.creation = count(usage.cache_creation_input_tokens, self.creation)
        if parts := usage.cache_creation:
            self.creation_5m = count(parts.ephemeral_5m_input_tokens, self.creation_5m)
            self.creation_1h = count(parts.ephemeral_1h_input_tokens, self.creation_1h)
            self.creation = max(self.creation, self.creation_5m + self.creation_1h)

    def reading(self, model: str | None, *, complete: bool, error: str = "") -> MeterReading:
        tokens = Tokens(
            input=self.input,
            output=self.output,
            cache_read=self.read,
            cache_creation=self.creation,
            cache_creation_5m=self.creation_5m,
            cache_creation_1h=self.creation_1h,
        )
        return MeterReading(tokens, model, self.tier, complete, error, self.reported)
