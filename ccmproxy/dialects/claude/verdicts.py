"""What Claude's refusals mean, whether as an answer or as an event of a stream (spec 4.6, 12.1, 12.2). Pure."""

from __future__ import annotations

from ccmproxy.dialects.claude.key_limits import KEY_LIMIT, api_key_reset
from ccmproxy.dialects.claude.refusal_words import REFUSAL_WORDS
from ccmproxy.dialects.claude.windows import OVERAGE, closed_window, parse_family
from ccmproxy.dialects.json_values import json_object
from ccmproxy.dialects.verdicts import busy, is_key_used_up, refused_model, used_up, verdict_by_status
from ccmproxy.http.message import Headers
from ccmproxy.http.retry_after import retry_after
from ccmproxy.policy.answers import AnswerKind, Verdict

#: The statuses that the types of errors stand for.
_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "rate_limit_error": 429,
}
#: What says nothing about a credential or a model.
_NO_REFUSAL = frozenset({AnswerKind.OK, AnswerKind.CLIENT_ERROR, AnswerKind.OTHER})


def judge(
    status: int, headers: Headers, document: object, now: float, echo: str = "", model: str | None = None
) -> Verdict:
    """Return what an answer means.

    ``document``: its body as :func:`ccmproxy.dialects.verdicts.read_refusal` returns it; None: not read yet. ``now``:
    Unix seconds. ``echo``: see :func:`ccmproxy.dialects.known_words.echo_of`. ``model``: the one that was asked for.
    """
    if status != 429:
        return verdict_by_status(status, document, REFUSAL_WORDS, echo)
    wait = retry_after(headers, now)
    family = parse_family(headers)
    closed = closed_window(family, model) if family else None
    if closed is not None and closed.model:
        refused = model or "" if closed.model in OVERAGE else refused_model(model, closed.model)
        return used_up(AnswerKind.MODEL_RATE_LIMITED, closed.resets_at, wait, now, refused)
    if closed is not None:
        return used_up(AnswerKind.RATE_LIMITED, closed.resets_at, wait, now)
    if is_key_used_up(headers, KEY_LIMIT):
        return used_up(AnswerKind.RATE_LIMITED, api_key_reset(headers), wait, now)
    if document is None:
        return Verdict(AnswerKind.NEEDS_BODY)
    return busy(wait, document, REFUSAL_WORDS, echo)


def judge_error_event(
    payload: bytes, headers: Headers, now: float, echo: str = "", model: str | None = None
) -> Verdict | None:
    """Return what an ``error`` event with the data ``payload`` refuses, as an answer of the status that its type stands
    for would; None where it says nothing about a credential or a model. Never raises.

    ``headers``: those of the answer that the event came in. The other parameters: as for :func:`judge`.
    """
    document = json_object(payload) or {}
    error = document.get("error")
    kind = error.get("type") if isinstance(error, dict) else None
    status = _STATUSES.get(kind) if isinstance(kind, str) else None
    if status is None:
        return None
    verdict = judge(status, headers, document, now, echo, model)
    return None if verdict.kind in _NO_REFUSAL else verdict
