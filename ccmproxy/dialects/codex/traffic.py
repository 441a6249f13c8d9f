"""Codex's requests, answers and errors, as the proxy needs to understand them (spec 4)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from zope.interface import implementer

from ccmproxy.dialects.codex.decompression import decompressed
from ccmproxy.dialects.codex.metering import CHAT, COMPACT, RATE_LIMITS, RESPONSES, event_failure
from ccmproxy.dialects.codex.windows import HeaderLimits, read_headers
from ccmproxy.dialects.facts import RequestFacts, printable_key
from ccmproxy.dialects.logins import DECODE_ERRORS, number, token_rejected
from ccmproxy.dialects.oauth import ApiKey, Authorization, RemoteToken
from ccmproxy.dialects.own_errors import error_head, error_type, exhausted_message, reset_field
from ccmproxy.dialects.remote import remote_head
from ccmproxy.dialects.sse import first_event
from ccmproxy.http.headers import override, request_headers
from ccmproxy.http.message import (
    Body,
    Headers,
    RequestHead,
    ResponseHead,
    first_value,
    list_items,
    lower_names,
    without,
)
from ccmproxy.http.retry_after import retry_after
from ccmproxy.interfaces.facets import ITraffic
from ccmproxy.policy.retry import BURST_BLOCK, DEFAULT_BLOCK, AnswerKind, Verdict
from ccmproxy.state.aggregate import Aggregate
from ccmproxy.state.availability import Availability
from ccmproxy.state.limits import LATEST_TIME, parse_unix_time

ACCOUNT_ID = b"chatgpt-account-id"
#: A response's value for it is sent back during the same turn; only the account that issued it knows it.
TURN_STATE = b"x-codex-turn-state"
#: ``error.type`` by which clients know that waiting, and nothing else, helps.
USAGE_LIMIT = "usage_limit_reached"
#: Named to clients in the place of an account's plan: the sentence that they show for it sends people to their
#: administrator, who runs this proxy, and not to a shop (observed).
TOLD_PLAN = "team"

_VERSION = b"/v1"
_BILLABLE = frozenset({RESPONSES, COMPACT, CHAT})
_SESSION_HEADERS = (b"session-id", b"session_id", b"conversation_id")
_THREAD_HEADERS = (b"thread-id", b"thread_id")
#: Refusals that no window's reset lifts, but that no burst explains either.
_NOT_INCLUDED = frozenset({"usage_not_included", "insufficient_quota"})
#: Failures that another account may not meet. The others are the request's own fault.
_FAILURES = frozenset({"server_error", "server_is_overloaded", "slow_down", "unknown"})
_KEY_RESET = re.compile(rb"x-ratelimit-(reset|remaining)-(requests|tokens)")
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,6}(?:\.\d{1,9})?)s)?(?:(\d{1,9})ms)?")

#: A field that is not there.
_NO_JSON = msgspec.Raw()


class _Body(msgspec.Struct):
    """The fields that somebody here needs, undecoded: one of an unexpected type hides only itself."""

    model: msgspec.Raw = _NO_JSON
    stream: msgspec.Raw = _NO_JSON
    input: msgspec.Raw = _NO_JSON
    messages: msgspec.Raw = _NO_JSON
    prompt_cache_key: msgspec.Raw = _NO_JSON


_body_decoder = msgspec.json.Decoder(_Body)
_text_decoder = msgspec.json.Decoder(str)
_flag_decoder = msgspec.json.Decoder(bool)
_items_decoder = msgspec.json.Decoder(list[msgspec.Raw])


@implementer(ITraffic)
class CodexTraffic:
    """Traffic facet of the Codex dialect. Stateless."""

    def inspect(self, head: RequestHead, body: Body) -> RequestFacts:
        """Look into a request once, also into a compressed one. What cannot be understood stays None (spec 4.1)."""
        headers = head.headers
        operation = head.path.removeprefix(_VERSION + b"/").rstrip(b"/").decode("latin-1")
        parsed = _Body()
        if body.size and b"json" in (first_value(headers, b"content-type") or b"json").lower():
            parsed = _decode(decompressed(body.joined(), first_value(headers, b"content-encoding")))
        session = _first_key(headers, _SESSION_HEADERS) or printable_key(
            _field(parsed.prompt_cache_key, _text_decoder)
        )
        thread = _first_key(headers, _THREAD_HEADERS)
        items = _field(parsed.messages if operation == CHAT else parsed.input, _items_decoder)
        features = (*list_items(headers, b"openai-beta"), *list_items(headers, b"x-codex-beta-features"))
        return RequestFacts(
            model=printable_key(_field(parsed.model, _text_decoder)),
            session=session,
            agent=thread if thread != session else None,
            stream=_field(parsed.stream, _flag_decoder),
            messages=None if items is None else len(items),
            features=tuple(item.decode("latin-1") for item in features),
            billable=head.method == b"POST" and operation in _BILLABLE,
            operation=operation if operation in _BILLABLE else None,
        )

    def check(
        self, facts: RequestFacts, single_account: bool, has_api_key: bool = False
    ) -> tuple[str, str] | None:
        """Chat completions are an operation of the commercial API alone (spec 3.6)."""
        if facts.operation == CHAT and not has_api_key:
            return (
                "api_key_only",
                "chat completions need an API key; with a ChatGPT account use /v1/responses",
            )
        return None

    def error(
        self,
        status: int,
        reason: str,
        message: str,
        request_id: str,
        extra: Sequence[tuple[bytes, bytes]] = (),
    ) -> tuple[ResponseHead, bytes]:
        """``{"error": {"type", "code", "message", "param"}}``; the client shows ``x-request-id`` with it."""
        body = {
            "error": {
                "type": error_type(status, reason),
                "code": reason,
                "message": message,
                "param": None,
            }
        }
        return _own_head(status, reason, request_id, extra), json.dumps(body).encode()

    def exhausted(
        self,
        facts: RequestFacts,
        availability: Availability,
        aggregate: Aggregate | None,
        request_id: str,
        now: float,
    ) -> tuple[ResponseHead, bytes]:
        """429 that the CLI shows once and does not retry (observed: ``error.type``; the reset is read from
        ``resets_at``, by versions of 2025 from ``resets_in_seconds``). The SDK heeds ``x-should-retry``.
        """
        error: dict[str, object] = {
            "type": USAGE_LIMIT,
            "message": exhausted_message(availability, now),
            "plan_type": TOLD_PLAN,
        }
        if availability.reset_at > now:
            error["resets_at"] = math.ceil(availability.reset_at)
            error["resets_in_seconds"] = math.ceil(availability.reset_at - now)
        extra = ((b"x-should-retry", b"false"), *reset_field(availability))
        head = _own_head(429, "rate_limited", request_id, extra)
        return head, json.dumps({"error": error}).encode()

    def upstream_head(
        self,
        head: RequestHead,
        authorization: Authorization,
        host: bytes,
        base_path: bytes,
        overrides: Mapping[str, Sequence[str]],
        bound: bool = False,
    ) -> RequestHead:
        """The client's own fields, less what must not pass, plus the account's (spec 3.6, 4.3).

        A login's path is without ``/v1``; the commercial API's is unchanged. The account id is never the client's own.
        Accept-Encoding does not pass: usage, and events to be replaced, are read from the answer's body.
        """
        dropped = {ACCOUNT_ID, b"accept-encoding"}
        if not bound:
            dropped.add(TURN_STATE)
        if isinstance(authorization, RemoteToken):
            return remote_head(head, authorization, host, base_path, dropped)
        headers: Headers = [(b"Host", host), *without(request_headers(head.headers), dropped)]
        target = head.target
        if isinstance(authorization, ApiKey):
            secret = authorization.key
        else:
            secret = authorization.access_token
            target = target.removeprefix(_VERSION)
            if authorization.account_id is not None:
                headers.append((b"ChatGPT-Account-Id", authorization.account_id.encode("latin-1")))
        headers.append((b"Authorization", b"Bearer " + secret.encode("latin-1")))
        return RequestHead(head.method, base_path + target, override(headers, overrides))

    def classify(self, head: ResponseHead, body: bytes | None, now: float) -> Verdict:
        """Spec 4.4 and 4.6; a 429's body is asked for because only its ``error.type`` tells a quota from a burst."""
        status = head.status
        if status < 400:
            return Verdict(AnswerKind.OK)
        if status in (403, 429) and body is None:
            return Verdict(AnswerKind.NEEDS_BODY)
        if status == 429:
            return _classify_429(head.headers, body or b"", now)
        if token_rejected(status, body or b""):
            return Verdict(AnswerKind.AUTH_FAILED)
        return Verdict(AnswerKind.CLIENT_ERROR if status == 400 else AnswerKind.OTHER)

    def classify_stream(self, head: ResponseHead, data: bytes, now: float) -> Verdict | None:
        """A stream that begins with its failure, but for reports of the account's state, which come when they like."""
        event = first_event(data, (RATE_LIMITS,))
        if event is None:
            return None
        failure = event_failure(event.name, event.data)
        if failure in (USAGE_LIMIT, "rate_limit_exceeded"):
            return Verdict(AnswerKind.RATE_LIMITED, now + BURST_BLOCK, explicit=False)
        return Verdict(AnswerKind.STREAM_FAILED if failure in _FAILURES else AnswerKind.OK)


def _own_head(
    status: int, reason: str, request_id: str, extra: Sequence[tuple[bytes, bytes]]
) -> ResponseHead:
    named = (b"x-request-id", request_id.encode("ascii"))
    return error_head(status, reason, "OCM", request_id, (named, *extra))


# 429 ----------------------------------------------------------------------------------------------------------


def _classify_429(headers: Headers, body: bytes, now: float) -> Verdict:
    """Whose limit it is, and until when: header, body, Retry-After, a default of ours, in this order (spec 4.6)."""
    found = read_headers(headers, now)
    error = _error(body)
    words = {error.get("type"), error.get("code")}
    is_quota = USAGE_LIMIT in words
    kind = AnswerKind.MODEL_RATE_LIMITED if found.active_name else AnswerKind.RATE_LIMITED
    candidates = (
        _header_reset(headers, found, is_quota),
        number(error.get("resets_at")) or 0.0,
        now + (number(error.get("resets_in_seconds")) or 0.0),
    )
    for until in candidates:
        if now < until <= LATEST_TIME:
            return Verdict(kind, until)
    wait = retry_after(headers, now)
    if wait is not None:
        return Verdict(kind, now + wait)
    wait = key_reset(headers)
    if wait > 0:
        return Verdict(kind, now + wait)
    is_used_up = is_quota or bool(words & _NOT_INCLUDED) or _is_used_up(found)
    return Verdict(kind, now + (DEFAULT_BLOCK if is_used_up else BURST_BLOCK), explicit=False)


def _header_reset(headers: Headers, found: HeaderLimits, is_quota: bool) -> float:
    """When the limit that refused renews: the last of its used-up windows, else its primary one; 0 = not said.

    Where no window is used up, and the body does not speak of a usage limit, it is a burst that was refused: the reset
    of a window that has room has nothing to do with it (F5).
    """
    limit = found.limits.get(found.active) or found.limits.get(found.own)
    windows = limit.windows if limit is not None else ()
    used_up = [window.resets_at for window in windows if (window.utilization or 0.0) >= 100.0]
    if used_up:
        return max(used_up)
    if windows and not is_quota:
        return 0.0
    for key in (found.active, found.own):
        value = first_value(headers, f"x-{key.replace('_', '-')}-primary-reset-at".encode())
        resets_at = parse_unix_time(value.decode("latin-1")) if value is not None else 0.0
        if resets_at:
            return resets_at
    return max((window.resets_at for window in windows), default=0.0)


def _is_used_up(found: HeaderLimits) -> bool:
    return any(
        (window.utilization or 0.0) >= 100.0 for limit in found.limits.values() for window in limit.windows
    )


def key_reset(headers: Headers) -> float:
    """In how many seconds the used-up limits of an API key renew (``x-ratelimit-reset-tokens: 6m0s``); 0 = not said."""
    said = {
        (match[1], match[2]): pair[1].strip()
        for pair, name in zip(headers, lower_names(headers), strict=True)
        if (match := _KEY_RESET.fullmatch(name))
    }
    waits = [
        _duration(value.decode("latin-1"))
        for (what, of), value in said.items()
        if what == b"reset" and said.get((b"remaining", of)) == b"0"
    ]
    return max(waits, default=0.0)


def _duration(value: str) -> float:
    match = _DURATION.fullmatch(value)
    if match is None:
        return 0.0
    hours, minutes, seconds, milliseconds = (float(part) if part else 0.0 for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _error(body: bytes) -> dict[str, Any]:
    """The ``error`` object of an answer, with words only where words belong; empty where there is none."""
    try:
        answer = msgspec.json.decode(body)
    except DECODE_ERRORS:
        return {}
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        return {}
    return {name: value for name, value in error.items() if isinstance(value, str | int | float)}


# Bodies -------------------------------------------------------------------------------------------------------

_T = TypeVar("_T")


def _decode(document: bytes | None) -> _Body:
    try:
        return _body_decoder.decode(document) if document else _Body()
    except DECODE_ERRORS:
        return _Body()


def _field(raw: msgspec.Raw, decoder: msgspec.json.Decoder[_T]) -> _T | None:
    if not bytes(raw):
        return None
    try:
        return decoder.decode(raw)
    except DECODE_ERRORS:
        return None


def _first_key(headers: Headers, names: Sequence[bytes]) -> str | None:
    """The first of these fields that has a usable value (F10: proxies in between drop names with underscores)."""
    for name in names:
        value = first_value(headers, name)
        if value is not None and (key := printable_key(value.decode("latin-1").strip())):
            return key
    return None
