"""Claude's refusals: error bodies, and the responses that faults put in place of the real one. Pure.

The combinations of status, type and message are those that users of the real service reported.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from ccmproxy.http.message import Headers
from ccmproxy.simulator.faults import Fault
from ccmproxy.simulator.replies import json_reply, retry_after_field, shapeless_reply
from ccmproxy.simulator.steps import Reply

EXPIRED = "OAuth token has expired. Please obtain a new token or refresh your existing token."
REVOKED = "OAuth token has been revoked. Please obtain a new token."
NO_OAUTH_FEATURE = "OAuth authentication is currently not supported."
RATE_LIMITED = "This request would exceed your account's rate limit. Please try again later."

#: Fault → status, error type, message, whether the client is told to retry.
_PLAIN: dict[str, tuple[int, str, str, bool]] = {
    "rate_limited": (429, "rate_limit_error", RATE_LIMITED, True),
    "overloaded": (529, "overloaded_error", "Overloaded", True),
    "server_error": (500, "api_error", "Internal server error", True),
    "unavailable": (503, "api_error", "Service temporarily unavailable", True),
    "unauthorized": (401, "authentication_error", "Invalid bearer token", False),
    "revoked": (403, "permission_error", REVOKED, False),
    "forbidden": (403, "permission_error", "Your account does not have permission to use this model.", False),
    "too_long": (
        400,
        "invalid_request_error",
        "prompt is too long: 215013 tokens > 200000 maximum",
        False,
    ),
    "too_large": (413, "request_too_large", "Request exceeds the maximum size", False),
}

_BROKEN = b'{"access_token":"x","five_hour":{"utiliz'

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def request_id(rng: random.Random) -> str:
    """A new request id in the provider's format."""
    return "req_011C" + _word(rng, 20)


def object_id(prefix: str, rng: random.Random) -> str:
    """A new id of a message (``msg``) or tool call (``toolu``) in the provider's format."""
    return f"{prefix}_01{_word(rng, 22)}"


def _word(rng: random.Random, length: int) -> str:
    return "".join(rng.choices("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", k=length))


class ErrorAnswers:
    """Makes refusals, each with its own id."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def error(
        self,
        status: int,
        kind: str,
        message: str,
        headers: Iterable[tuple[bytes, bytes]] = (),
        *,
        retry: bool = False,
    ) -> Reply:
        """An error in the standard format; ``retry`` decides ``x-should-retry``."""
        identity = request_id(self._rng)
        return json_reply(
            status,
            {"type": "error", "error": {"type": kind, "message": message}, "request_id": identity},
            [
                (b"x-should-retry", b"true" if retry else b"false"),
                (b"request-id", identity.encode()),
                *headers,
            ],
        )

    def answer(self, fault: Fault, target: bytes, limits: Headers) -> Reply:
        """The response for ``fault`` (one of ANSWERS).

        ``limits``: the rate-limit headers of the account, for responses that carry any. ``exhausted`` uses them
        unchanged, so they must report the exhaustion.
        """
        if (reply := shapeless_reply(fault, target, _BROKEN)) is not None:
            return reply
        headers = retry_after_field(fault)
        match fault.name:
            case "exhausted":
                return self.error(429, "rate_limit_error", RATE_LIMITED, [*limits, *headers], retry=True)
            case "invalid_grant":
                return self.invalid_grant()
            case "status":
                kind = _TYPES.get(fault.code, "api_error" if fault.code >= 500 else "invalid_request_error")
                message = f"Simulated status {fault.code}"
                return self.error(fault.code, kind, message, headers, retry=fault.code >= 500)
            case name:
                status, kind, message, retry = _PLAIN[name]
                return self.error(status, kind, message, headers, retry=retry)

    def invalid_grant(self) -> Reply:
        """The token endpoint's refusal of a refresh token (RFC 6749 section 5.2)."""
        return self.oauth_error("invalid_grant", "Refresh token not found or invalid")

    def oauth_error(self, code: str, description: str) -> Reply:
        """A 400 of the token endpoint."""
        return json_reply(400, {"error": code, "error_description": description})
