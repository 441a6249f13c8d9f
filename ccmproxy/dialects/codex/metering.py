"""Codex's limits and usage: from headers, bodies and in-stream events, and back into them (spec 4.5, 4.7, 8.3, 9)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import msgspec
from zope.interface import implementer

from ccmproxy.dialects.codex.windows import (
    LONGEST_NAME,
    OWN_LIMIT,
    Limit,
    json_credits,
    json_window,
    limit_id,
    limits_update,
    read_credits,
    read_headers,
)
from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.logins import DECODE_ERRORS, number, text
from ccmproxy.dialects.meters import count, fitting_meter, media_type
from ccmproxy.dialects.sse import EventRewriter, EventScanner
from ccmproxy.dialects.usage import MeterReading, Tokens, UsageMeter
from ccmproxy.http.headers import response_headers
from ccmproxy.http.message import Headers, ResponseHead, first_value, lower_names
from ccmproxy.interfaces.facets import IMetering
from ccmproxy.state.aggregate import Aggregate
from ccmproxy.state.limits import (
    LARGEST_WEIGHT,
    SHORT_WINDOW,
    WEEKLY_WINDOW,
    LimitsUpdate,
    finite_number,
    parse_weight,
)

#: The operations whose answers report usage; :class:`ccmproxy.dialects.facts.RequestFacts` names them so.
RESPONSES = "responses"
COMPACT = "responses/compact"
CHAT = "chat/completions"
#: The event that tells one account's state.
RATE_LIMITS = b"codex.rate_limits"
#: An event repeats the whole response, tools and output included (bytes).
LARGEST_EVENT = 16 * 1024 * 1024

#: What tells of one account (spec 8.3), its plan and the reason of its refusals included.
_ACCOUNT_FIELD = re.compile(
    rb"x-codex-(?:active-limit|plan-type|promo-message|rate-limit-reached-type|credits-.*)"
    rb"|x-.*-(?:primary|secondary)-.*|x-.*-limit-name|x-ocm-plan-weight"
)
#: Where another instance tells how big it is.
PLAN_WEIGHT = b"x-ocm-plan-weight"


def aggregate_headers(aggregate: Aggregate) -> Headers:
    """The state of the whole pool in the words of one account (spec 8.3)."""
    fields: Headers = []
    for place, window in _windows(aggregate).items():
        prefix = f"x-codex-{place}-"
        fields.append((f"{prefix}used-percent".encode(), f"{window['used_percent']:.2f}".encode()))
        fields.append((f"{prefix}window-minutes".encode(), str(window["window_minutes"]).encode()))
        if "reset_at" in window:
            fields.append((f"{prefix}reset-at".encode(), str(window["reset_at"]).encode()))
    fields.append((b"X-OCM-Plan-Weight", f"{aggregate.plan_weight:g}".encode()))
    return fields


def aggregate_event(aggregate: Aggregate) -> bytes:
    """The same as the JSON of a ``codex.rate_limits`` event: a line without its end, or a WebSocket message."""
    event = {
        "type": RATE_LIMITS.decode(),
        "metered_limit_name": OWN_LIMIT,
        "limit_name": None,
        "rate_limits": _windows(aggregate),
        "plan_weight": aggregate.plan_weight,
    }
    return json.dumps(event, separators=(",", ":")).encode()


def _windows(aggregate: Aggregate) -> dict[str, dict[str, float]]:
    windows = {}
    for place, used, seconds, resets_at in (
        ("primary", aggregate.short_utilization, SHORT_WINDOW, aggregate.short_reset),
        ("secondary", aggregate.weekly_utilization, WEEKLY_WINDOW, aggregate.weekly_reset),
    ):
        windows[place] = {"used_percent": round(used, 2), "window_minutes": int(seconds // 60)}
        if resets_at:
            windows[place]["reset_at"] = resets_at
    return windows


def limits_from_event(data: bytes, now: float) -> LimitsUpdate | None:
    """What a ``codex.rate_limits`` event says; None if ``data`` is no such event. Never raises."""
    try:
        event = msgspec.json.decode(data)
    except DECODE_ERRORS:
        return None
    if not isinstance(event, dict) or event.get("type") != RATE_LIMITS.decode():
        return None
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
    update = limits_update(limits, OWN_LIMIT, json_credits(event.get("credits")))
    weight = finite_number(event.get("plan_weight"), LARGEST_WEIGHT)
    return replace(update, plan_weight=weight) if weight else update


def _seconds(window: object) -> float | None:
    minutes = number(window.get("window_minutes")) if isinstance(window, dict) else None
    return None if minutes is None else minutes * 60


@implementer(IMetering)
class CodexMetering:
    """Metering facet of the Codex dialect. Stateless; its meters and rewriters are not."""

    def limits_from_headers(self, headers: Headers, now: float) -> LimitsUpdate:
        """All limits and the credits that the answer mentions; anything malformed is as if it were not there."""
        found = read_headers(headers, now)
        credits = read_credits(headers)
        if not found.limits and credits is None:
            return _NOTHING_SAID
        update = limits_update(found.limits, found.own, credits)
        weight = parse_weight(first_value(headers, PLAN_WEIGHT))
        return update if weight is None else replace(update, plan_weight=weight)

    def public_headers(self, headers: Headers, aggregate: Aggregate | None, now: float) -> Headers:
        """The upstream's fields less its account's state, plus the pool's (spec 8.3)."""
        forwarded = response_headers(headers)
        kept = [
            pair
            for pair, name in zip(forwarded, lower_names(forwarded), strict=True)
            if name[:2] != b"x-" or _ACCOUNT_FIELD.fullmatch(name) is None
        ]
        if aggregate is not None:
            kept += aggregate_headers(aggregate)
        return kept

    def rewriter(
        self,
        head: ResponseHead,
        observe: Callable[[LimitsUpdate], None],
        aggregate: Callable[[], Aggregate | None],
        now: Callable[[], float],
    ) -> EventRewriter | None:
        """In an event stream, ``codex.rate_limits`` events are replaced by the aggregate (F36), if there is one."""
        if media_type(head) != b"text/event-stream":
            return None
        if first_value(head.headers, b"content-encoding") not in (None, b"identity"):
            return None

        def replace(data: bytes) -> bytes | None:
            update = limits_from_event(data, now())
            if update is None:
                return None
            observe(update)
            pool = aggregate()
            if pool is None:
                return b""
            return b"event: " + RATE_LIMITS + b"\ndata: " + aggregate_event(pool) + b"\n\n"

        return EventRewriter(RATE_LIMITS, replace)

    def meter(self, facts: RequestFacts, head: ResponseHead) -> UsageMeter:
        """A meter that fits the answer's media type and operation."""
        if facts.operation == CHAT:
            return fitting_meter(facts, head, ChatMeter, read_completion)
        return fitting_meter(facts, head, ResponsesMeter, read_response)


_NOTHING_SAID = LimitsUpdate()


# Usage --------------------------------------------------------------------------------------------------------


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    """Of a response."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _ChatUsage(msgspec.Struct):
    """The same in the words of chat completions."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Error(msgspec.Struct):
    code: str | int | None = None
    type: str | None = None


class _Response(msgspec.Struct):
    model: str | None = None
    usage: _Usage | None = None
    service_tier: str | None = None
    status: str | None = None
    error: _Error | None = None


class _Event(msgspec.Struct):
    type: str | None = None
    response: _Response | None = None
    error: _Error | None = None
    code: str | int | None = None


class _EventType(msgspec.Struct):
    type: str | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    model: str | None = None
    usage: _ChatUsage | None = None
    service_tier: str | None = None
    choices: list[_Choice] | None = None
    error: _Error | None = None


_response_decoder = msgspec.json.Decoder(_Response)
_event_decoder = msgspec.json.Decoder(_Event)
_type_decoder = msgspec.json.Decoder(_EventType)
_completion_decoder = msgspec.json.Decoder(_Completion)

#: The events that end a response, each in its own way; after one of them nothing follows.
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
_ENDING_NAMES = frozenset({*(name.encode() for name in _ENDS), b"error", b"message"})
#: Of these, at least one stands in every event that is looked at, in its name or in its data.
_MARKERS = (b"response.completed", b"response.incomplete", b"response.failed", b"error")


def read_response(body: bytes) -> MeterReading:
    """The reading of a whole response in JSON."""
    try:
        response = _response_decoder.decode(body)
    except DECODE_ERRORS:
        return _reading(None, True)
    error = _word(response.error) if response.error or response.status == "failed" else ""
    return _reading(response, True, error)


def read_completion(body: bytes) -> MeterReading:
    """The reading of a whole chat completion in JSON."""
    try:
        completion = _completion_decoder.decode(body)
    except DECODE_ERRORS:
        return _reading(None, True)
    return _reading(completion, True, _word(completion.error) if completion.error else "")


def event_failure(name: bytes, payload: bytes) -> str | None:
    """What an event that reports a failure calls it; None for any other event."""
    kind = _type(payload) or name.decode("latin-1")
    if kind == "response.failed":
        event = _decode_event(payload)
        return _word(event.response.error if event.response else None)
    if kind == "error":
        event = _decode_event(payload)
        return _word(event.error or _Error(event.code))
    return None


class ResponsesMeter:
    """Usage of a response's event stream, which its last event reports.

    Complete with ``response.completed``, ``response.incomplete`` or ``response.failed``: clients leave on seeing it.
    The type in an event's data counts, as it does for the clients; its name only where the data has none.
    """

    __slots__ = ("_complete", "_error", "_response", "_scanner")

    def __init__(self) -> None:
        self._scanner = EventScanner(_ENDING_NAMES, LARGEST_EVENT, _MARKERS)
        self._response: _Response | None = None
        self._complete = False
        self._error = ""

    @property
    def at_boundary(self) -> bool:
        """Between two events, and before the last one: nobody waits for a sign of life after that."""
        return self._scanner.at_boundary and not self._complete

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        for name, payload in self._scanner.feed(data):
            kind = _type(payload) or name.decode("latin-1")
            if kind in _ENDS:
                self._complete = True
                event = _decode_event(payload)
                self._response = event.response or self._response
            if not self._error:
                self._error = event_failure(name, payload) or ""

    def end(self) -> None:
        """A stream's end says nothing: only its last event makes it complete (F22)."""

    def reading(self) -> MeterReading:
        """What is known now."""
        return _reading(self._response, self._complete, self._error)


class ChatMeter:
    """Usage of a chat completion's stream: in the last chunk, for clients that ask for it.

    Complete with ``[DONE]``, or where a stream without it ends after its finish reason.
    """

    __slots__ = ("_complete", "_completion", "_error", "_finished", "_scanner", "at_boundary")

    def __init__(self) -> None:
        # Clients take every event for a chunk, so no sign of life may be written that is one (F18).
        self.at_boundary = False
        self._scanner = EventScanner(frozenset({b"message", b"error"}), LARGEST_EVENT)
        self._completion: _Completion | None = None
        self._finished = self._complete = False
        self._error = ""

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        for _, payload in self._scanner.feed(data):
            if payload.strip() == b"[DONE]":
                self._complete = True
                continue
            try:
                chunk = _completion_decoder.decode(payload)
            except DECODE_ERRORS:
                continue
            if chunk.usage is not None or self._completion is None:
                self._completion = chunk
            if any(choice.finish_reason for choice in chunk.choices or ()):
                self._finished = True
            if chunk.error is not None and not self._error:
                self._error = _word(chunk.error)

    def end(self) -> None:
        """The body has ended."""
        self._complete = self._complete or self._finished

    def reading(self) -> MeterReading:
        """What is known now."""
        return _reading(self._completion, self._complete, self._error)


def _type(payload: bytes) -> str | None:
    """The type of an event, whatever else it holds; None if it has none."""
    try:
        return _type_decoder.decode(payload).type
    except DECODE_ERRORS:
        return None


def _decode_event(payload: bytes) -> _Event:
    try:
        return _event_decoder.decode(payload)
    except DECODE_ERRORS:
        return _Event()


def _word(error: _Error | None) -> str:
    """What an error calls itself."""
    return str((error.code or error.type if error else None) or "unknown")[:LONGEST_NAME]


def _reading(answer: _Response | _Completion | None, complete: bool, error: str = "") -> MeterReading:
    if answer is None:
        return MeterReading(Tokens(), None, None, complete, error, False)
    usage = answer.usage
    if isinstance(usage, _ChatUsage):
        usage = _Usage(
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.prompt_tokens_details,
            usage.completion_tokens_details,
        )
    reported = usage is not None
    return MeterReading(_tokens(usage), answer.model, answer.service_tier, complete, error, reported)


def _tokens(usage: _Usage | None) -> Tokens:
    """OpenAI counts what was read from the cache as part of the input; here it stands apart (F21)."""
    if usage is None:
        return Tokens()
    read, written = usage.input_tokens_details, usage.output_tokens_details
    total = count(usage.input_tokens, 0)
    cached = min(total, count(read.cached_tokens, 0)) if read else 0
    output = count(usage.output_tokens, 0)
    reasoning = min(output, count(written.reasoning_tokens, 0)) if written else 0
    return Tokens(input=total - cached, output=output, cache_read=cached, reasoning=reasoning)
