"""What Codex's refusals mean: as answers, events of a stream, or messages of a WebSocket (spec 4.6, 12). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from ccmproxy.dialects.codex.refusal_words import REFUSAL_WORDS
from ccmproxy.dialects.codex.windows import Limit, read_headers
from ccmproxy.dialects.json_values import json_object, number
from ccmproxy.dialects.verdicts import (
    busy,
    is_key_used_up,
    refused_model,
    used_up,
    used_up_resets,
    verdict_by_status,
)
from ccmproxy.http.message import Headers, first_value
from ccmproxy.http.retry_after import retry_after
from ccmproxy.policy.answers import AnswerKind, Verdict
from ccmproxy.state.limits import LATEST_TIME, parse_unix_time

#: ``error.type`` by which clients know that waiting, and nothing else, helps.
USAGE_LIMIT = "usage_limit_reached"
#: Code of the limit that WebSockets have: an open one of its age, a handshake of their number.
SOCKET_LIMIT = "websocket_connection_limit_reached"
#: Code of a burst, in a stream with the wait in its message.
RATE_LIMIT = "rate_limit_exceeded"
#: Words that say that something is used up: of an error, or of the field below (docs/clients/codex.md, section 3).
_USED_UP = frozenset(
    {
        USAGE_LIMIT,
        "workspace_owner_credits_depleted",
        "workspace_member_credits_depleted",
        "workspace_owner_usage_limit_reached",
        "workspace_member_usage_limit_reached",
    }
)
_REACHED_TYPE = b"x-codex-rate-limit-reached-type"
#: What errors of a stream are called that would have been an answer with one of these statuses.
_STATUSES = {
    USAGE_LIMIT: 429,
    RATE_LIMIT: 429,
    "usage_not_included": 429,
    "insufficient_quota": 429,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "unauthorized": 401,
    "token_expired": 401,
    "token_invalidated": 401,
    "token_revoked": 401,
    "deactivated_workspace": 403,
    "invalid_workspace_selected": 403,
}
#: What says nothing about a credential or a model.
_NO_REFUSAL = frozenset(
    {AnswerKind.OK, AnswerKind.CLIENT_ERROR, AnswerKind.OTHER, AnswerKind.NO_MORE_SOCKETS}
)
_KEY_LIMIT = re.compile(rb"x-ratelimit-(?P<fact>reset|remaining)-(?P<limit>requests|tokens)")
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,6}(?:\.\d{1,9})?)s)?(?:(\d{1,9})ms)?")
#: The wait in a burst's message, as the client reads it (observed: "try again in 1.5s").
_TRY_AGAIN = re.compile(r"try again in (\d{1,6}(?:\.\d{1,9})?)\s*(ms|s|seconds?|m|minutes?)\b", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}
_LONGEST_MESSAGE = 2000


def judge(
    status: int,
    headers: Headers,
    document: Mapping[str, object] | None,
    now: float,
    echo: str = "",
    model: str | None = None,
) -> Verdict:
    """Return what an answer means.

    ``document``: its body as :func:`ccmproxy.dialects.verdicts.read_refusal` returns it; None: not read yet. ``now``:
    Unix seconds. ``echo``: see :func:`ccmproxy.dialects.known_words.echo_of`. ``model``: the one that was asked for.
    """
    if document is not None and _is_socket_limit(document):
        return Verdict(AnswerKind.NO_MORE_SOCKETS)
    if status != 429:
        return verdict_by_status(status, document, REFUSAL_WORDS, echo)
    if document is None:
        return Verdict(AnswerKind.NEEDS_BODY)
    return _judge_429(headers, document, now, echo, model)


def _is_socket_limit(document: Mapping[str, object]) -> bool:
    error = document.get("error")
    return isinstance(error, dict) and error.get("code") == SOCKET_LIMIT


def judge_event(
    kind: str, payload: bytes, headers: Headers, now: float, echo: str = "", model: str | None = None
) -> Verdict | None:
    """Return what a ``response.failed`` or ``error`` event refuses, as an answer with its words would; None where it
    says nothing about a credential or a model. Never raises.

    ``kind``: the type of the event with the data ``payload``. ``headers``: those of the answer that the event came in.
    The other parameters: as for :func:`judge`.
    """
    event = json_object(payload) or {}
    response = event.get("response")
    if kind == "response.failed":
        error = response.get("error") if isinstance(response, dict) else None
    elif kind == "error":
        error = event.get("error") or event
    else:
        return None
    if not isinstance(error, dict):
        return None
    status = event_status(event)
    if status is None:
        words = (error.get("code"), error.get("type"))
        status = next(
            (_STATUSES[word] for word in words if isinstance(word, str) and word in _STATUSES), None
        )
    if status is None:
        return None
    verdict = judge(status, headers, {"error": error}, now, echo, model)
    if verdict.kind is AnswerKind.BUSY and verdict.wait is None:
        verdict = replace(verdict, wait=_told_wait(error.get("message")))
    return None if verdict.kind in _NO_REFUSAL else verdict


def event_status(event: Mapping[str, object]) -> int | None:
    """Return the HTTP status that an ``error`` event says it stands for; None where it says none of an error."""
    status = event.get("status", event.get("status_code"))
    if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:
        return None
    return status


def key_reset(headers: Headers) -> float:
    """Return in how many seconds the used-up limits of an API key renew (``x-ratelimit-reset-tokens: 6m0s``); 0 = not
    said."""
    return max(map(_duration, used_up_resets(headers, _KEY_LIMIT)), default=0.0)


# 429 ----------------------------------------------------------------------------------------------------------


def _judge_429(
    headers: Headers, document: Mapping[str, object], now: float, echo: str, model: str | None
) -> Verdict:
    """Whose limit it is, and until when: header, body, Retry-After, a default of ours, in this order (spec 4.6).

    It is a limit only if a window of the limit that refused is used up, or the error says so and names a reset, or
    nothing is left of a key's; else it is a burst (spec 12.1).
    """
    found = read_headers(headers, now)
    error = document.get("error")
    error = error if isinstance(error, dict) else {}
    says_used_up = _says_used_up(error, headers)
    limit = found.limits.get(found.active) or found.limits.get(found.own) or Limit()
    used = [window.resets_at for window in limit.windows if (window.utilization or 0.0) >= 100.0]
    wait = retry_after(headers, now)
    burst = busy(wait, document, REFUSAL_WORDS, echo, is_final=says_used_up)
    if burst.is_about_request:
        # What a plan does not include is no limit, whatever the figures beside it are.
        return burst
    if used or says_used_up:
        until = max(used, default=0.0) or (
            _shown_reset(headers, found.active, found.own, limit) if says_used_up else 0.0
        )
        if until <= now:
            until = _body_reset(error, now)
        if used or until > now or wait:
            kind, refused = AnswerKind.RATE_LIMITED, ""
            if found.active_name:
                kind, refused = AnswerKind.MODEL_RATE_LIMITED, refused_model(model, found.active_name)
            return used_up(kind, until, wait, now, refused)
    elif is_key_used_up(headers, _KEY_LIMIT):
        renews = key_reset(headers)
        return used_up(AnswerKind.RATE_LIMITED, now + renews if renews else 0.0, wait, now)
    return burst


def _says_used_up(error: Mapping[str, object], headers: Headers) -> bool:
    reached = first_value(headers, _REACHED_TYPE)
    words = (error.get("type"), error.get("code"), reached.decode("latin-1").strip() if reached else "")
    return any(isinstance(word, str) and word in _USED_UP for word in words)


def _shown_reset(headers: Headers, active: str, own: str, limit: Limit) -> float:
    """The reset that the header fields show of the limit that refused, where none of its windows is used up by its
    figures: of its primary window, else the later one; 0 = not said."""
    for key in (active, own):
        value = first_value(headers, f"x-{key.replace('_', '-')}-primary-reset-at".encode())
        resets_at = parse_unix_time(value.decode("latin-1")) if value is not None else 0.0
        if resets_at:
            return resets_at
    return max((window.resets_at for window in limit.windows), default=0.0)


def _body_reset(error: Mapping[str, object], now: float) -> float:
    for until in (
        number(error.get("resets_at")) or 0.0,
        now + (number(error.get("resets_in_seconds")) or 0.0),
    ):
        if now < until <= LATEST_TIME:
            return until
    return 0.0


def _duration(value: str) -> float:
    match = _DURATION.fullmatch(value)
    if match is None:
        return 0.0
    hours, minutes, seconds, milliseconds = (float(part) if part else 0.0 for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _told_wait(message: object) -> float | None:
    found = _TRY_AGAIN.search(message[:_LONGEST_MESSAGE]) if isinstance(message, str) else None
    if found is None:
        return None
    unit = found[2].lower()
    return float(found[1]) * _SECONDS["ms" if unit == "ms" else unit[0]]
