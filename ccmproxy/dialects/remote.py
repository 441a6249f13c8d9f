"""Requests between instances of ccmproxy: how one asks another, and the meaning of its answers and status. Pure.

Spec 4.4 (400s of externals), 5.5, 7.1, 8.2. The remote may be an older ccmproxy, or sing-box, which speaks the same
protocol but sends less.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import msgspec

from ccmproxy.dialects.json_values import DECODE_ERRORS, NO_JSON, read_raw, text_decoder
from ccmproxy.dialects.oauth import AnswerMalformed, RemoteToken
from ccmproxy.dialects.own_errors import BUSY_REASON, MODEL_LIMIT
from ccmproxy.http.headers import HOPS, IDENTITY, hops, request_headers
from ccmproxy.http.message import Headers, RequestHead, ResponseHead, first_value, without
from ccmproxy.http.retry_after import LONGEST, parse_retry_after, retry_after
from ccmproxy.policy.allowed_models import NOT_ALLOWED
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
#: The fields, in lower case, beside our own ``rate_limited``: when a credential is usable again, in Unix seconds and in
#: seconds from now. The latter is right whatever the clocks of the two machines say.
RESET_FIELD = b"x-ccm-reset-at"
RESET_IN_FIELD = b"x-ccm-reset-in"
#: The field, in lower case, beside our own ``rate_limited``: that only the requested model is used up.
LIMIT_FIELD = b"x-ccm-limit"
#: The fields of which ccmproxy puts one on every response that it relays: a response with neither is sing-box's.
_REQUEST_ID_FIELDS = (b"x-ccm-request-id", b"x-ocm-request-id")
#: The error of a remote that has no credential to serve the request with (spec 4.2).
_NO_CREDENTIAL = b"credential_unavailable"
#: Errors of a remote which say that the request was not processed, and nothing of what others are told there: most
#: pass within minutes, one is about our own token there and the model that was asked for.
_PASSING = frozenset(
    {
        NOT_ALLOWED.encode("ascii"),
        b"credential_delayed",
        b"shutting_down",
        b"too_many_bodies",
        b"too_many_hops",
        b"too_many_requests",
        b"upstream_auth",
        b"upstream_unreachable",
    }
)
#: Errors of a remote that are ours as well when we pass on its answer because nobody else could serve: another
#: instance that borrows from us concludes the same from them.
_OURS_TOO = _PASSING | {_NO_CREDENTIAL, BUSY_REASON.encode("ascii")}
#: What a provider says of one of the remote's accounts. The remote has learnt it itself, and may have other accounts.
_ABOUT_ITS_ACCOUNT = frozenset(
    {
        AnswerKind.ACCOUNT_REFUSED,
        AnswerKind.MODEL_REFUSED,
        AnswerKind.AUTH_FAILED,
        AnswerKind.RATE_LIMITED,
        AnswerKind.MODEL_RATE_LIMITED,
    }
)
#: Availabilities that are no matter of used-up windows, although the remote reports full ones (spec 8.1).
_OUT_OF_SERVICE = frozenset({"temporarily_blocked", "unavailable"})


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

    What a provider says of one of the remote's accounts is nothing that the remote itself is charged with.
    ``now``: Unix seconds, of our own clock.
    """
    reason = first_value(head.headers, ERROR_FIELD)
    if reason is None:
        relayed = is_ccmproxys(head)
        if not relayed and head.status == 400:
            return Verdict(AnswerKind.REMOTE_REJECTED)
        if relayed and head.status != 401 and verdict.kind in _ABOUT_ITS_ACCOUNT:
            return Verdict(AnswerKind.REMOTE_BUSY, sentence=verdict.sentence)
        if head.status == 429 and verdict.kind is AnswerKind.BUSY and verdict.wait is None:
            # Of a provider that is busy, or of sing-box, which makes a 429 of a provider's 400 (spec 14).
            return replace(verdict, kind=AnswerKind.REMOTE_BUSY)
    elif head.status == 400:
        if reason == _NO_CREDENTIAL:
            return Verdict(AnswerKind.REMOTE_UNAVAILABLE)
    elif reason == b"too_many_failures":
        # The remote does not know our token, and has rejected it too often.
        return Verdict(AnswerKind.REMOTE_REJECTED)
    elif reason in _PASSING:
        return Verdict(AnswerKind.REMOTE_BUSY)
    elif reason == BUSY_REASON.encode("ascii"):
        # In the words of its client, which may be a 503 (spec 12.2).
        return Verdict(AnswerKind.BUSY, wait=retry_after(head.headers, now))
    elif reason == b"rate_limited":
        until = _told_reset(head.headers, now)
        if first_value(head.headers, LIMIT_FIELD) == MODEL_LIMIT.encode("ascii"):
            # Nothing is remembered: another of its accounts may have room for the model at any time.
            return Verdict(AnswerKind.MODEL_RATE_LIMITED, until)
        if until:
            return Verdict(AnswerKind.RATE_LIMITED, until)
    return verdict


def _told_reset(headers: Headers, now: float) -> float:
    """Return when a credential of the remote is usable again (Unix seconds of our clock, 0 = it does not say)."""
    told_in = first_value(headers, RESET_IN_FIELD)
    # As in Retry-After: a number of seconds.
    seconds = parse_retry_after(told_in.decode("latin-1"), now) if told_in is not None else None
    if seconds is not None:
        return now + seconds
    told_at = first_value(headers, RESET_FIELD)
    return parse_unix_time(told_at.decode("latin-1")) if told_at is not None else 0.0


@dataclass(frozen=True, slots=True)
class RemoteStatus:
    """The status that a remote reports. ``plan_weight`` 0: none of its credentials counts at the moment.

    ``usable``: None where the remote does not report it. ``reset_at``: when this changes, by the remote's clock (Unix
    seconds, 0 = unknown); ``reset_in``: the same in seconds from now, None where the remote does not say.
    ``cannot_serve``: the remote is unusable for another reason than used-up windows; it may still be the one that knows
    why. ``is_known``: false where the remote has no figures yet (spec 14); ``limits`` are empty then.
    """

    limits: LimitsUpdate
    plan_weight: float
    usable: bool | None = None
    reset_at: float = 0.0
    cannot_serve: bool = False
    is_known: bool = True
    reset_in: float | None = None

    def unusable_until(self, now: float) -> float:
        """Return until when the remote's windows are used up (Unix seconds of our clock), 0 if they are not or it does
        not say. ``now``: Unix seconds."""
        if self.usable is not False or self.cannot_serve:
            return 0.0
        until = self.reset_at if self.reset_in is None else now + self.reset_in
        return until if until > now else 0.0


class _Availability(msgspec.Struct):
    """The part of a status that is about availability."""

    state: msgspec.Raw = NO_JSON
    reason: msgspec.Raw = NO_JSON
    reset_at: msgspec.Raw = NO_JSON
    reset_in: msgspec.Raw = NO_JSON


class _Status(msgspec.Struct):
    """The fields that are looked at; whatever else a remote sends, however much, is skipped (F64)."""

    five_hour_utilization: msgspec.Raw = NO_JSON
    five_hour_reset: msgspec.Raw = NO_JSON
    weekly_utilization: msgspec.Raw = NO_JSON
    weekly_reset: msgspec.Raw = NO_JSON
    plan_weight: msgspec.Raw = NO_JSON
    availability: msgspec.Raw = NO_JSON


#: Finds out whether it is JSON, and builds nothing of it.
_json_decoder = msgspec.json.Decoder(msgspec.Raw)
_status_decoder = msgspec.json.Decoder(_Status)
_availability_decoder = msgspec.json.Decoder(_Availability)
_number_decoder = msgspec.json.Decoder(float)

#: The figures that every instance sends, with the largest value that makes sense.
_FIGURES = {
    "five_hour_utilization": LARGEST_UTILIZATION,
    "five_hour_reset": LATEST_TIME,
    "weekly_utilization": LARGEST_UTILIZATION,
    "weekly_reset": LATEST_TIME,
}
_FIELDS = {**_FIGURES, "plan_weight": 1e9}


def _number(raw: msgspec.Raw, largest: float) -> float | None:
    """Return the number in a field if it is from 0 to ``largest``, else None."""
    value: float | None = read_raw(raw, _number_decoder)
    return finite_number(value, largest)


def read_status(document: bytes) -> RemoteStatus:
    """Parse one object of the status endpoint or stream (spec 8.2).

    Raises AnswerMalformed, which quotes nothing of the object, also where a single field is missing or holds no
    plausible number (spec 7.5). Figures that are all null are unknown.
    """
    try:
        # As text, so that what is skipped has to be UTF-8 as well.
        found = _json_decoder.decode(document.decode("utf-8"))
    except DECODE_ERRORS:
        raise AnswerMalformed("the remote's status is not JSON") from None
    loaded = read_raw(found, _status_decoder)
    if loaded is None:
        raise AnswerMalformed("the remote's status is no JSON object")
    values: dict[str, float] = {}
    is_known = any(bytes(getattr(loaded, name)) != b"null" for name in _FIGURES)
    for name, largest in _FIELDS.items():
        if not is_known and name in _FIGURES:
            continue
        value = _number(getattr(loaded, name), largest)
        if value is None:
            raise AnswerMalformed(f"the remote's status has no valid {name}")
        values[name] = value
    usable, reset_at, reset_in, cannot_serve = None, 0.0, None, False
    availability = read_raw(loaded.availability, _availability_decoder)
    if availability is not None and (state := read_raw(availability.state, text_decoder)) is not None:
        usable = state == "usable"
        if read_raw(availability.reason, text_decoder) != "poll_failed":
            reset_at = _number(availability.reset_at, LATEST_TIME) or 0.0
            reset_in = _number(availability.reset_in, LONGEST)
            cannot_serve = state in _OUT_OF_SERVICE
        # Else the remote still serves, and its figures still count; the time is that of its own next try.
    limits = LimitsUpdate()
    if is_known:
        limits = LimitsUpdate(
            short=Window(values["five_hour_utilization"], values["five_hour_reset"], SHORT_WINDOW),
            weekly=Window(values["weekly_utilization"], values["weekly_reset"], WEEKLY_WINDOW),
        )
    return RemoteStatus(limits, values["plan_weight"], usable, reset_at, cannot_serve, is_known, reset_in)
