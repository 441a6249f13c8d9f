"""Token usage of Codex's responses and chat completions: of a whole one, or of the events of a stream (spec 9)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ccmproxy.dialects.codex.verdicts import judge_event
from ccmproxy.dialects.codex.windows import LONGEST_NAME
from ccmproxy.dialects.json_values import DECODE_ERRORS
from ccmproxy.dialects.meters import count
from ccmproxy.dialects.sse import EventScanner
from ccmproxy.dialects.usage import MeterReading, Tokens
from ccmproxy.dialects.verdicts import in_stream
from ccmproxy.http.message import Headers
from ccmproxy.policy.answers import Verdict

#: Bound on an event (bytes): the last one repeats the whole response, tools and output included.
LARGEST_EVENT = 16 * 1024 * 1024


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    """Usage as a response reports it."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _ChatUsage(msgspec.Struct):
    """Usage as a chat completion reports it."""

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

#: The events that end a response, each in its own way; nothing follows them.
ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
_ENDING_NAMES = frozenset({*(name.encode() for name in ENDS), b"error", b"message"})
#: Every event that is inspected contains at least one of these, in its name or in its data.
_MARKERS = (b"response.completed", b"response.incomplete", b"response.failed", b"error")


def read_response(body: bytes) -> MeterReading:
    """The reading of a whole JSON response."""
    try:
        response = _response_decoder.decode(body)
    except DECODE_ERRORS:
        return _reading(None, True)
    error = _word(response.error) if response.error or response.status == "failed" else ""
    return _reading(response, True, error)


def read_completion(body: bytes) -> MeterReading:
    """The reading of a whole JSON chat completion."""
    try:
        completion = _completion_decoder.decode(body)
    except DECODE_ERRORS:
        return _reading(None, True)
    return _reading(completion, True, _word(completion.error) if completion.error else "")


def event_type(payload: bytes) -> str | None:
    """The type in an event's data; None if there is none."""
    try:
        return _type_decoder.decode(payload).type
    except DECODE_ERRORS:
        return None


def event_failure(name: bytes, payload: bytes) -> str | None:
    """The error code of an event that reports a failure; None for any other event."""
    kind = event_type(payload) or name.decode("latin-1")
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
    The type in an event's data counts, as it does for the clients; its name only where the data has none. A failure is
    read as a refusal, too (F51).

    ``headers``: those of the answer. ``now`` returns Unix seconds. ``model``: the one that was asked for.
    """

    __slots__ = ("_complete", "_error", "_refusals", "_response", "_scanner")

    def __init__(self, headers: Headers, now: Callable[[], float], model: str | None = None) -> None:
        self._scanner = EventScanner(_ENDING_NAMES, LARGEST_EVENT, _MARKERS)
        self._refusals = _Refusals(headers, now, model)
        self._response: _Response | None = None
        self._complete = False
        self._error = ""

    @property
    def at_boundary(self) -> bool:
        """Whether a keep-alive may be written: between two events, but not after the last one."""
        return self._scanner.at_boundary and not self._complete

    def feed(self, data: bytes) -> None:
        """Read the next bytes."""
        for name, payload in self._scanner.feed(data):
            kind = event_type(payload) or name.decode("latin-1")
            if kind in ENDS:
                self._complete = True
                event = _decode_event(payload)
                self._response = event.response or self._response
            if not self._error:
                self._error = event_failure(name, payload) or ""
                if self._error:
                    self._refusals.failed(kind, payload)

    def end(self) -> None:
        """Do nothing: only its last event makes a stream complete, not its end (F22)."""

    def reading(self) -> MeterReading:
        """What is known now."""
        return _reading(self._response, self._complete, self._error, self._refusals.first)


class ChatMeter:
    """Usage of a chat completion's stream, which the last chunk reports to clients that ask for it.

    Complete with ``[DONE]``, or where a stream without it ends after its finish reason. The parameters are those of
    :class:`ResponsesMeter`.
    """

    __slots__ = ("_complete", "_completion", "_error", "_finished", "_refusals", "_scanner", "at_boundary")

    def __init__(self, headers: Headers, now: Callable[[], float], model: str | None = None) -> None:
        self._refusals = _Refusals(headers, now, model)
        # Clients take every event for a chunk, so no sign of life may be written that is one (F18).
        self.at_boundary = False
        self._scanner = EventScanner(frozenset({b"message", b"error"}), LARGEST_EVENT)
        self._completion: _Completion | None = None
        self._finished = self._complete = False
        self._error = ""

    def feed(self, data: bytes) -> None:
        """Read the next bytes."""
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
                self._refusals.failed("error", payload)

    def end(self) -> None:
        """Note that the body has ended."""
        self._complete = self._complete or self._finished

    def reading(self) -> MeterReading:
        """What is known now."""
        return _reading(self._completion, self._complete, self._error, self._refusals.first)


class _Refusals:
    """What the first failure of a stream means for the credential that serves it."""

    __slots__ = ("_headers", "_model", "_now", "first")

    def __init__(self, headers: Headers, now: Callable[[], float], model: str | None) -> None:
        self._headers = headers
        self._now = now
        self._model = model
        self.first: Verdict | None = None

    def failed(self, kind: str, payload: bytes) -> None:
        self.first = in_stream(judge_event(kind, payload, self._headers, self._now(), model=self._model))


def _decode_event(payload: bytes) -> _Event:
    try:
        return _event_decoder.decode(payload)
    except DECODE_ERRORS:
        return _Event()


def _word(error: _Error | None) -> str:
    """The error's code or type, as a string."""
    return str((error.code or error.type if error else None) or "unknown")[:LONGEST_NAME]


def _reading(
    answer: _Response | _Completion | None, complete: bool, error: str = "", refusal: Verdict | None = None
) -> MeterReading:
    if answer is None:
        return MeterReading(Tokens(), None, None, complete, error, False, refusal)
    usage = answer.usage
    if isinstance(usage, _ChatUsage):
        usage = _Usage(
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.prompt_tokens_details,
            usage.completion_tokens_details,
        )
    reported = usage is not None
    return MeterReading(_tokens(usage), answer.model, answer.service_tier, complete, error, reported, refusal)


def _tokens(usage: _Usage | None) -> Tokens:
    """Subtract the tokens that were read from the cache, which OpenAI includes in the input (F21)."""
    if usage is None:
        return Tokens()
    read, written = usage.input_tokens_details, usage.output_tokens_details
    total = count(usage.input_tokens, 0)
    cached = min(total, count(read.cached_tokens, 0)) if read else 0
    output = count(usage.output_tokens, 0)
    reasoning = min(output, count(written.reasoning_tokens, 0)) if written else 0
    return Tokens(input=total - cached, output=output, cache_read=cached, reasoning=reasoning)
