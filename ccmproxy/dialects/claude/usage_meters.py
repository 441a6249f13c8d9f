"""Token usage of Claude's responses: of a whole message, or of the events of a stream (spec 9)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ccmproxy.dialects.claude.verdicts import judge_error_event
from ccmproxy.dialects.json_values import DECODE_ERRORS
from ccmproxy.dialects.meters import count
from ccmproxy.dialects.sse import EventScanner
from ccmproxy.dialects.usage import MeterReading, Tokens
from ccmproxy.dialects.verdicts import in_stream
from ccmproxy.http.message import Headers
from ccmproxy.policy.answers import Verdict


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
    """The reading of a whole JSON message."""
    message = _Message()
    try:
        message = _message_decoder.decode(body)
    except DECODE_ERRORS:
        pass
    counts = _Counts()
    counts.update(message.usage)
    return counts.reading(message.model, complete=True)


def error_event_type(payload: bytes) -> str:
    """The type of the error in an ``error`` event; ``unknown`` where it cannot be parsed."""
    try:
        return _error_decoder.decode(payload).error.type
    except DECODE_ERRORS:
        return "unknown"


class StreamMeter:
    """Usage of an event stream: ``message_start`` begins it, ``message_delta`` carries cumulative figures.

    Complete with ``message_stop``; an ``error`` event is kept by its type (F13), and read as a refusal (F51).

    ``headers``: those of the answer. ``now`` returns Unix seconds. ``asked_model``: the one that was asked for.
    """

    __slots__ = (
        "_asked_model",
        "_complete",
        "_counts",
        "_error",
        "_headers",
        "_model",
        "_now",
        "_refusal",
        "_scanner",
    )

    def __init__(self, headers: Headers, now: Callable[[], float], asked_model: str | None = None) -> None:
        self._scanner = EventScanner(
            frozenset({b"message_start", b"message_delta", b"message_stop", b"error"})
        )
        self._counts = _Counts()
        self._model: str | None = None
        self._complete = False
        self._error = ""
        self._headers = headers
        self._now = now
        self._asked_model = asked_model
        self._refusal: Verdict | None = None

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
                    self._refusal = in_stream(
                        judge_error_event(payload, self._headers, self._now(), model=self._asked_model)
                    )
            except DECODE_ERRORS:
                continue

    def end(self) -> None:
        """Do nothing: only ``message_stop`` makes a stream complete, not its end (F22)."""

    def reading(self) -> MeterReading:
        return self._counts.reading(
            self._model, complete=self._complete, error=self._error, refusal=self._refusal
        )


class _Counts:
    """Cumulative figures of one message: each report replaces the figures that it names and leaves the rest."""

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

    def reading(
        self, model: str | None, *, complete: bool, error: str = "", refusal: Verdict | None = None
    ) -> MeterReading:
        tokens = Tokens(
            input=self.input,
            output=self.output,
            cache_read=self.read,
            cache_creation=self.creation,
            cache_creation_5m=self.creation_5m,
            cache_creation_1h=self.creation_1h,
        )
        return MeterReading(tokens, model, self.tier, complete, error, self.reported, refusal)
