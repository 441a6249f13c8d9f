"""Requests between instances of ccmproxy: how one asks another, and the meaning of its answers and status. Pure.

Spec 4.4 (400s of externals), 5.5, 7.1, 8.2. The remote may be an older ccmproxy, or sing-box, which speaks the same
protocol but sends less.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import msgspec

from ccmproxy.dialects.json_values import DECODE_ERRORS
from ccmproxy.dialects.oauth import AnswerMalformed, RemoteToken
from ccmproxy.dialects.own_errors import BUSY_REASON
from ccmproxy.http.headers import HOPS, IDENTITY, hops, request_headers
from ccmproxy.http.message import Headers, RequestHead, ResponseHead, first_value, without
from ccmproxy.http.retry_after import retry_after
from ccmproxy.policy.answers import AnswerKind, Verdict
from ccmproxy.state.limits import (
    LARGEST_UTILIZATION,
    LATEST_TIME,
    SHORT_WINDOW,
    WEEKLY_WINDOW,
    LimitsUpdate,
    Window,
    finite_number,
    parse_unix_time,
)

#: The field, in lower case, that marks ccmproxy's own errors, as opposed to the upstream's.
ERROR_FIELD = b"x-ccm-error"
#: The field, in lower case, beside our own ``rate_limited``: when a credential is usable again (Unix seconds).
RESET_FIELD = b"x-ccm-reset-at"
#: The fields of which ccmproxy puts one on every response that it relays: a response with neither is sing-box's.
_REQUEST_ID_FIELDS = (b"x-ccm-request-id", b"x-ocm-request-id")
#: Errors of a remote that are about its credentials, like the 400 of spec 4.2.
_ABOUT_CREDENTIALS = frozenset({b"credential_unavailable"})
#: Transient errors of a remote: the request was not processed, and they say nothing about the next minutes.
_PASSING = frozenset(
    {b"shutting_down", b"too_many_hops", b"too_many_requests", b"upstream_auth", b"upstream_unreachable"}
)
#: Errors of a remote that are ours as well when we pass on its answer because nobody else could serve: another
#: instance that borrows from us concludes the same from them.
_OURS_TOO = _PASSING | {b"credential_unavailable", BUSY_REASON.encode("ascii")}


def relayed_mark(head: ResponseHead) -> Headers:
    """Return the ``X-CCM-Error`` that an answer of another instance keeps when it is relayed; mostly there is none.

    A word that we do not know, or that is about our token at the remote, would be taken for ours (spec 14).
    """
    reason = first_value(head.headers, ERROR_FIELD) if head.status >= 400 else None
    return [(b"X-CCM-Error", reason)] if reason in _OURS_TOO else []


def remote_head(
    head: RequestHead,
    authorization: RemoteToken,
    host: bytes,
    base_path: bytes,
    dropped: Collection[bytes] = (),
) -> RequestHead:
    """The head of a client's request to another instance: path and query kept, our token in place of the user's.

    ``dropped``: further fields that are removed, by their names in lower case. The header fields that the service
    overrides are meant for the provider, so they are not sent to a remote.
    """
    headers: Headers = [(b"Host", host), *without(request_headers(head.headers), dropped)]
    headers.append((b"Authorization", b"Bearer " + authorization.token.encode("utf-8")))
    headers.append((HOPS, b"%d" % (hops(head.headers) + 1)))
    headers.append(IDENTITY)
    return RequestHead(head.method, base_path + head.target, headers)


def is_ccmproxys(head: ResponseHead) -> bool:
    """Return whether an answer of another instance comes from a ccmproxy."""
    return any(first_value(head.headers, name) is not None for name in _REQUEST_ID_FIELDS)


def remote_verdict(head: ResponseHead, verdict: Verdict, now: float = 0.0) -> Verdict:
    """``verdict``, the dialect's, on an answer of another instance: is the error that instance's own (spec 4.4)?

    ``now``: Unix seconds; only a Retry-After that is a date needs it.
    """
    reason = first_value(head.headers, ERROR_FIELD)
    if head.status == 400:
        if reason in _ABOUT_CREDENTIALS or (reason is None and not is_ccmproxys(head)):
            return Verdict(AnswerKind.REMOTE_REJECTED)
    elif reason is None and head.status == 429 and verdict.kind is AnswerKind.BUSY and verdict.wait is None:
        # Of a provider that is busy, or of sing-box, which makes a 429 of a provider's 400 (spec 14).
        return replace(verdict, kind=AnswerKind.REMOTE_BUSY)
    elif reason == b"too_many_failures":
        # The remote does not know our token, and has rejected it too often.
        return Verdict(AnswerKind.REMOTE_REJECTED)
    elif reason in _PASSING:
        return Verdict(AnswerKind.REMOTE_BUSY)
    elif reason == BUSY_REASON.encode("ascii"):
        # In the words of its client, which may be a 503 (spec 12.2).
        return Verdict(AnswerKind.BUSY, wait=retry_after(head.headers, now))
    elif reason == b"rate_limited":
        value = first_value(head.headers, RESET_FIELD)
        until = parse_unix_time(value.decode("latin-1")) if value is not None else 0.0
        if until:
            return Verdict(AnswerKind.RATE_LIMITED, until)
    return verdict


@dataclass(frozen=True, slots=True)
class RemoteStatus:
    """The status that a remote reports. ``plan_weight`` 0: none of its credentials counts at the moment.

    ``usable``: None where the remote does not report it; ``reset_at``: Unix seconds, 0 = unknown. ``is_known``: false
    where the remote has no figures yet (spec 14); ``limits`` are empty then.
    """

    limits: LimitsUpdate
    plan_weight: float
    usable: bool | None = None
    reset_at: float = 0.0
    is_known: bool = True


#: The figures that every instance sends, with the largest value that makes sense.
_FIGURES = {
    "five_hour_utilization": LARGEST_UTILIZATION,
    "five_hour_reset": LATEST_TIME,
    "weekly_utilization": LARGEST_UTILIZATION,
    "weekly_reset": LATEST_TIME,
}
_FIELDS = {**_FIGURES, "plan_weight": 1e9}


def read_status(document: bytes) -> RemoteStatus:
    """Parse one object of the status endpoint or stream (spec 8.2).

    Raises AnswerMalformed, which quotes nothing of the object, also where a single field is missing or holds no
    plausible number (spec 7.5). Figures that are all null are unknown.
    """
    try:
        loaded = msgspec.json.decode(document)
    except DECODE_ERRORS:
        raise AnswerMalformed("the remote's status is not JSON") from None
    if not isinstance(loaded, dict):
        raise AnswerMalformed("the remote's status is no JSON object")
    values: dict[str, float] = {}
    is_known = any(name not in loaded or loaded[name] is not None for name in _FIGURES)
    for name, largest in _FIELDS.items():
        if not is_known and name in _FIGURES:
            continue
        value = finite_number(loaded.get(name), largest)
        if value is None:
            raise AnswerMalformed(f"the remote's status has no valid {name}")
        values[name] = value
    usable, reset_at = None, 0.0
    availability = loaded.get("availability")
    if isinstance(availability, dict) and isinstance(availability.get("state"), str):
        usable = availability["state"] == "usable"
        reset_at = finite_number(availability.get("reset_at"), LATEST_TIME) or 0.0
    if not is_known:
        return RemoteStatus(LimitsUpdate(), values["plan_weight"], usable, reset_at, is_known=False)
    limits = LimitsUpdate(
        short=Window(values["five_hour_utilization"], values["five_hour_reset"], SHORT_WINDOW),
        weekly=Window(values["weekly_utilization"], values["weekly_reset"], WEEKLY_WINDOW),
    )
    return RemoteStatus(limits, values["plan_weight"], usable, reset_at)
