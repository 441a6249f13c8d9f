"""What ccmproxy's own errors have in common in all dialects (spec 4.2). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from math import ceil

from ccmproxy.http.message import Headers, ResponseHead, lower_names
from ccmproxy.policy.allowed_models import NOT_ALLOWED
from ccmproxy.state.availability import Availability
from ccmproxy.state.durations import format_duration

#: The word of a short wait (spec 12.2): the client tries again by itself.
BUSY_REASON = "busy"
#: The reason word of a limit that holds for one model alone.
MODEL_LIMIT = "model_window"
#: For a login that the provider refuses for this request alone, where it says no more.
NOT_FOR_LOGIN = "the provider refuses this request to logins like the one that serves it"
#: Fields of a provider's answer without which its body cannot be read.
_OF_BODY = frozenset({b"content-type", b"content-encoding"})

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    431: "invalid_request_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_type(status: int, reason: str) -> str:
    """The value of ``error.type`` for an error of our own."""
    return "billing_error" if reason == "user_limit" else _TYPES.get(status, "api_error")


def error_head(
    status: int, reason: str, product: str, request_id: str, extra: Sequence[tuple[bytes, bytes]] = ()
) -> ResponseHead:
    """Head of a JSON error.

    ``X-CCM-Error`` has the same name in every dialect, because other instances look for it (spec 4.4). An error that
    does not go away by itself carries ``x-should-retry: false``: otherwise clients would keep retrying.
    """
    headers: Headers = [
        (b"Content-Type", b"application/json"),
        (b"X-CCM-Error", reason.encode("ascii")),
        (f"X-{product}-Request-Id".encode("ascii"), request_id.encode("ascii")),
    ]
    if status in (401, 508) or reason in ("user_limit", NOT_ALLOWED):
        headers.append((b"x-should-retry", b"false"))
    headers.extend(extra)
    return ResponseHead(status, _phrase(status), headers)


def relayed_head(
    status: int, headers: Headers, product: str, request_id: str, extra: Sequence[tuple[bytes, bytes]] = ()
) -> ResponseHead:
    """Return the head for a provider's body that is relayed with another status than it came with (spec 12.3).

    Of its own ``headers`` those pass that the body needs. No ``X-CCM-Error``: the words are the provider's.
    """
    kept: Headers = [
        pair for pair, name in zip(headers, lower_names(headers), strict=True) if name in _OF_BODY
    ]
    kept.append((f"X-{product}-Request-Id".encode("ascii"), request_id.encode("ascii")))
    kept.extend(extra)
    return ResponseHead(status, _phrase(status), kept)


def exhausted_fields(availability: Availability, now: float) -> Headers:
    """Header fields of the 429 for a client whose credentials are all rate-limited; they tell it not to retry.

    ``X-CCM-Reset-At`` and ``X-CCM-Reset-In``, present where the end is known, are for other instances: clients learn
    the reset in their dialect. ``X-CCM-Limit`` tells them that only the requested model is used up. ``now``: Unix
    seconds.
    """
    fields: Headers = [(b"x-should-retry", b"false")]
    if availability.reset_at > 0:
        fields.append((b"X-CCM-Reset-At", b"%d" % ceil(availability.reset_at)))
        fields.append((b"X-CCM-Reset-In", b"%d" % ceil(availability.left(now))))
    if availability.reason == MODEL_LIMIT:
        fields.append((b"X-CCM-Limit", MODEL_LIMIT.encode("ascii")))
    return fields


def exhausted_message(availability: Availability, now: float) -> str:
    """The message for a client when every credential is rate-limited."""
    message = "all credentials rate-limited"
    if availability.reset_at > now:
        message += f", earliest reset in {format_duration(availability.reset_at - now)}"
    return message


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"Overloaded" if status == 529 else b"Error"
