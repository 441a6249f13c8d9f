"""Codex's requests, answers and errors, as the proxy needs to understand them (spec 4)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from zope.interface import implementer

from ccmproxy.http.content_coding import decompressed
from ccmproxy.dialects.codex.metering import CHAT, COMPACT, RATE_LIMITS, RESPONSES
from ccmproxy.dialects.codex.usage_meters import event_failure
from ccmproxy.dialects.codex.windows import HeaderLimits, read_headers
from ccmproxy.dialects.facts import RequestFacts, header_key, printable_key
from ccmproxy.dialects.json_values import (
    DECODE_ERRORS,
    NO_JSON,
    json_object,
    number,
    read_raw,
    text_decoder,
)
from ccmproxy.dialects.oauth import ApiKey, Authorization, RemoteToken
from ccmproxy.dialects.own_errors import error_head, error_type, exhausted_fields, exhausted_message
from ccmproxy.dialects.remote import remote_head
from ccmproxy.dialects.sse import first_event
from ccmproxy.dialects.verdicts import busy, used_up_resets, verdict_by_status
from ccmproxy.http.headers import override, request_headers
from ccmproxy.http.message import (
    Body,
    Headers,
    RequestHead,
    ResponseHead,
    first_value,
    list_items,
    without,
)
from ccmproxy.http.retry_after import retry_after
from ccmproxy.interfaces.facets import ITraffic
from ccmproxy.policy.answers import DEFAULT_BLOCK, AnswerKind, Verdict
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
#: Every spelling that is known: proxies in between drop names with underscores (F10).
_SESSION_HEADERS = (b"session-id", b"session_id", b"conversation_id")
_THREAD_HEADERS = (b"thread-id", b"thread_id")
#: Refusals that no window's reset lifts, but that no burst explains either.
_NOT_INCLUDED = frozenset({"usage_not_included", "insufficient_quota"})
#: Failures that another account may not meet. The others are the request's own fault.
_FAILURES = frozenset({"server_error", "server_is_overloaded", "slow_down", "unknown"})
_KEY_LIMIT = re.compile(rb"x-ratelimit-(?P<fact>reset|remaining)-(?P<limit>requests|tokens)")
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,6}(?:\.\d{1,9})?)s)?(?:(\d{1,9})ms)?")


class _Body(msgspec.Struct):
    """The fields that somebody here needs, undecoded: one of an unexpected type hides only itself."""

    model: msgspec.Raw = NO_JSON
    stream: msgspec.Raw = NO_JSON
    input: msgspec.Raw = NO_JSON
    messages: msgspec.Raw = NO_JSON
    prompt_cache_key: msgspec.Raw = NO_JSON


_body_decoder = msgspec.json.Decoder(_Body)
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
        session = header_key(headers, *_SESSION_HEADERS) or printable_key(
            read_raw(parsed.prompt_cache_key, text_decoder)
        )
        thread = header_key(headers, *_THREAD_HEADERS)
        items = read_raw(parsed.messages if operation == CHAT else parsed.input, _items_decoder)
        features = (*list_items(headers, b"openai-beta"), *list_items(headers, b"x-codex-beta-features"))
        return RequestFacts(
            model=printable_key(read_raw(parsed.model, text_decoder)),
            session=session,
            agent=thread if thread != session else None,
            stream=read_raw(parsed.stream, _flag_decoder),
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
        head = _own_head(429, "rate_limited", request_id, exhausted_fields(availability))
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
        if head.status == 429:
            if body is None:
                return Verdict(AnswerKind.NEEDS_BODY)
            return _classify_429(head.headers, body, now)
        return verdict_by_status(head.status, body)

    def classify_stream(self, head: ResponseHead, data: bytes, now: float) -> Verdict | None:
        """A stream that begins with its failure, but for reports of the account's state, which come when they like."""
        event = first_event(data, (RATE_LIMITS,))
        if event is None:
            return None
        failure = event_failure(event.name, event.data)
        if failure in (USAGE_LIMIT, "rate_limit_exceeded"):
            return busy()
        return Verdict(AnswerKind.STREAM_FAILED if failure in _FAILURES else AnswerKind.OK)


def _decode(document: bytes | None) -> _Body:
    try:
        return _body_decoder.decode(document) if document else _Body()
    except DECODE_ERRORS:
        return _Body()


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
    return Verdict(kind, now + DEFAULT_BLOCK, explicit=False) if is_used_up else busy(wait)


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
    return max(map(_duration, used_up_resets(headers, _KEY_LIMIT)), default=0.0)


def _duration(value: str) -> float:
    match = _DURATION.fullmatch(value)
    if match is None:
        return 0.0
    hours, minutes, seconds, milliseconds = (float(part) if part else 0.0 for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _error(body: bytes) -> dict[str, Any]:
    """The ``error`` object of an answer, with words only where words belong; empty where there is none."""
    error = (json_object(body) or {}).get("error")
    if not isinstance(error, dict):
        return {}
    return {name: value for name, value in error.items() if isinstance(value, str | int | float)}
