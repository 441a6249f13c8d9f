"""The meaning of Codex's WebSocket messages, and the header fields of its handshake (spec 10)."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import msgspec
from zope.interface import implementer

from ccmproxy.dialects.codex.metering import RATE_LIMITS, aggregate_event, limits_from_event
from ccmproxy.dialects.codex.usage_meters import ENDS, LARGEST_EVENT, event_type, read_response
from ccmproxy.dialects.codex.verdicts import SOCKET_LIMIT, event_status, judge_event
from ccmproxy.dialects.facts import printable_key, unusual_name
from ccmproxy.dialects.json_values import DECODE_ERRORS, NO_JSON, json_object, read_raw, text_decoder
from ccmproxy.dialects.named_models import TooManyTokens, named_models
from ccmproxy.dialects.request_documents import QUICK, NotQuick, has_few_elements
from ccmproxy.dialects.usage import MeterReading
from ccmproxy.dialects.verdicts import in_stream
from ccmproxy.dialects.websocket_messages import OUTPUT, PASSING, ClientFrame, RefusedTurn, UpstreamFrame
from ccmproxy.http.message import Headers, ResponseHead, lower_names
from ccmproxy.interfaces.credentials import ICredential
from ccmproxy.interfaces.facets import IFrames
from ccmproxy.state.aggregate import Aggregate

#: The path at which clients open a WebSocket.
_PATH = b"/v1/responses"
#: The protocol version that every known client requests, and that the upstream requires (observed).
_BETA = (b"OpenAI-Beta", b"responses_websockets=2026-02-06")
#: Fields of the upstream's 101 that are passed on to the client.
_ANSWER_FIELD = re.compile(rb"x-codex-.*|x-reasoning.*|openai-model")

#: How the upstream begins an event: lets most events be classified without parsing.
_TYPE_FIRST = b'{"type":"'
#: Longest event type that is searched for (bytes).
_LONGEST_TYPE = 80
_ENDS = frozenset(name.encode() for name in ENDS)
#: Events of a response that precede its output.
_BEFORE_OUTPUT = frozenset(
    {b"response.created", b"response.in_progress", b"response.queued", b"response.metadata"}
)
#: A message is decoded up to this size, if its beginning does not tell enough (bytes).
LARGEST_DECODED = 8 * 1024 * 1024
#: How a client's message that is not decoded begins when it begins a turn, as all clients write it (observed).
_BEGINS_TURN = re.compile(rb'\s*\{\s*"type"\s*:\s*"response\.create"')
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_FIELD_VALUE = re.compile(r"[\x20-\x7e]{0,1000}")


class _EndEvent(msgspec.Struct):
    response: msgspec.Raw = NO_JSON


class _ClientEvent(msgspec.Struct):
    """Undecoded fields, because judging one of the wrong type is left to the upstream."""

    type: msgspec.Raw = NO_JSON
    model: msgspec.Raw = NO_JSON
    generate: msgspec.Raw = NO_JSON


_end_decoder = msgspec.json.Decoder(_EndEvent)
_client_decoder = msgspec.json.Decoder(_ClientEvent)


@implementer(IFrames)
class CodexFrames:
    """WebSocket facet of the Codex dialect. Stateless."""

    def serves(self, path: bytes) -> bool:
        """Whether ``path`` is ``/v1/responses`` or begins with it."""
        return path.startswith(_PATH)

    def speaks(self, credential: ICredential) -> bool:
        """True: accounts, keys and other instances all offer a WebSocket."""
        return True

    def request_headers(self, headers: Headers) -> Headers:
        """The client's fields plus the protocol version, if the client did not name one."""
        return headers if b"openai-beta" in lower_names(headers) else [*headers, _BETA]

    def answer_headers(self, headers: Headers) -> Headers:
        """The fields of the upstream's 101 that clients may see."""
        return [
            pair
            for pair, name in zip(headers, lower_names(headers), strict=True)
            if _ANSWER_FIELD.fullmatch(name)
        ]

    def client_frame(self, data: bytes, all_models: bool = False) -> ClientFrame:
        """``response.create`` begins a turn; with ``generate: false`` it is a warm-up.

        Of a message that is too large to decode, or has too many elements, only the beginning is looked at (F63).
        """
        size = len(data)
        if size > LARGEST_DECODED or (size > QUICK and not has_few_elements(data)):
            return ClientFrame(_BEGINS_TURN.match(data) is not None, is_opaque=all_models)
        try:
            event = _client_decoder.decode(data)
        except DECODE_ERRORS:
            return ClientFrame(is_opaque=all_models)
        frame = ClientFrame()
        model = read_raw(event.model, text_decoder)
        if read_raw(event.type, text_decoder) == "response.create":
            is_warm_up = bytes(event.generate) == b"false"
            frame = ClientFrame(True, is_warm_up, printable_key(model), unusual_name(model))
        if not all_models:
            return frame
        try:
            # Also of what seems to begin no turn: its type may be there twice.
            return replace(frame, names=named_models(data, printable_key(model), quick=True))
        except (NotQuick, TooManyTokens):
            return replace(frame, is_opaque=True)

    def upstream_frame(self, data: bytes, now: float) -> UpstreamFrame:
        """Decode the messages that may carry state, usage or an error; classify all others by their type."""
        kind = _kind(data)
        if kind == RATE_LIMITS:
            return UpstreamFrame(is_hidden=True, limits=limits_from_event(data, now))
        if kind in _ENDS:
            reading = None
            if len(data) <= LARGEST_EVENT:
                try:
                    reading = read_response(bytes(_end_decoder.decode(data).response))
                except DECODE_ERRORS:
                    pass
            if kind == b"response.failed":
                return _failed(data, reading, now)
            return UpstreamFrame(is_output=True, ends_turn=True, reading=reading)
        if kind == b"error":
            return _error(data, now)
        if kind.startswith(b"response.") and kind not in _BEFORE_OUTPUT:
            return OUTPUT
        return PASSING

    def refusal(self, head: ResponseHead, body: bytes) -> bytes:
        """An ``error`` event, which clients take for an HTTP answer of its status, body and headers (observed)."""
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in head.headers
            if name.lower() != b"content-type"
        }
        event = {"type": "error", "status": head.status, **json.loads(body), "headers": headers}
        return json.dumps(event).encode()

    def aggregate(self, aggregate: Aggregate) -> bytes:
        """The aggregate as a ``codex.rate_limits`` event."""
        return aggregate_event(aggregate)


def _kind(data: bytes) -> bytes:
    """The type of an event; empty where there is none."""
    if data.startswith(_TYPE_FIRST):
        end = data.find(b'"', len(_TYPE_FIRST), len(_TYPE_FIRST) + _LONGEST_TYPE)
        kind = data[len(_TYPE_FIRST) : end] if end > 0 else b""
        if kind and b"\\" not in kind:
            return kind
    if len(data) > LARGEST_DECODED:
        return b""
    return (event_type(data) or "").encode("utf-8", "replace")


def _failed(data: bytes, reading: MeterReading | None, now: float) -> UpstreamFrame:
    """A response that failed; the connection's own limit may be the reason."""
    event = json_object(data) or {}
    response = event.get("response")
    if _is_connection_limit(response):
        return UpstreamFrame(connection_limit=True, is_output=True, ends_turn=True, reading=reading)
    verdict = in_stream(judge_event("response.failed", data, [], now))
    if reading is not None:
        reading = replace(reading, refusal=verdict)
    return UpstreamFrame(is_output=True, ends_turn=True, reading=reading, verdict=verdict)


def _error(data: bytes, now: float) -> UpstreamFrame:
    """An error event: clients take it for an HTTP answer of its status, body and headers (observed).

    One without a status means nothing to them, unless it says that the connection has lasted too long; what it says of
    the account is learnt all the same.
    """
    event = json_object(data)
    if event is None:
        return PASSING
    if _is_connection_limit(event):
        return UpstreamFrame(connection_limit=True, ends_turn=True)
    fields = _fields(event.get("headers"))
    verdict = in_stream(judge_event("error", data, fields, now))
    status = event_status(event)
    if status is None:
        return PASSING if verdict is None else UpstreamFrame(verdict=verdict)
    refusal = RefusedTurn(ResponseHead(status, b"", fields), data)
    return UpstreamFrame(refusal=refusal, ends_turn=True, verdict=verdict)


def _is_connection_limit(event: object) -> bool:
    error = event.get("error") if isinstance(event, dict) else None
    return isinstance(error, dict) and error.get("code") == SOCKET_LIMIT


def _fields(said: object) -> Headers:
    """The header fields that an error event repeats; those that could not stand in an answer are left out."""
    fields: Headers = []
    for name, value in said.items() if isinstance(said, dict) else ():
        if isinstance(value, bool):
            value = str(value).lower()
        elif isinstance(value, int | float):
            value = str(value)
        if not isinstance(value, str) or not _FIELD_VALUE.fullmatch(value) or not _FIELD_NAME.fullmatch(name):
            continue
        fields.append((name.encode("ascii"), value.encode("ascii")))
    return fields
