"""OpenAI's refusals: error bodies, and the responses that faults put in place of the real one. Pure.

Statuses, types, codes and messages are those that users of the real services reported.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ccmproxy.http.message import Headers
from ccmproxy.simulator.faults import Fault
from ccmproxy.simulator.replies import json_reply, retry_after_field, shapeless_reply
from ccmproxy.simulator.steps import Reply

EXPIRED = "Provided authentication token is expired. Please try signing in again."
REVOKED = "Your authentication token has been invalidated. Please try signing in again."
UNPARSEABLE = "Could not parse your authentication token. Please try signing in again."
TOO_LONG = "Your input exceeds the context window of this model. Please adjust your input and try again."
OVERLOADED = "Our servers are currently overloaded. Please try again later."
SERVER_ERROR = "The server had an error processing your request. Sorry about that!"
CONNECTION_LIMIT = (
    "Responses websocket connection limit reached (60 minutes)."
    " Create a new websocket connection to continue."
)


@dataclass(frozen=True, slots=True)
class ErrorWords:
    """One kind of refusal."""

    status: int
    type: str | None
    code: str | None
    message: str


#: Fault → its refusal.
_PLAIN = {
    "rate_limited": ErrorWords(429, "requests", "rate_limit_exceeded", "Rate limit reached for requests."),
    "overloaded": ErrorWords(503, "server_error", "server_is_overloaded", OVERLOADED),
    "server_error": ErrorWords(500, "server_error", None, SERVER_ERROR),
    "unavailable": ErrorWords(503, "server_error", None, "Service temporarily unavailable"),
    "unauthorized": ErrorWords(401, "invalid_request_error", "invalid_token", UNPARSEABLE),
    "revoked": ErrorWords(401, None, "token_invalidated", REVOKED),
    "forbidden": ErrorWords(
        403, "invalid_request_error", "forbidden", "You do not have access to this model."
    ),
    "too_long": ErrorWords(400, "invalid_request_error", "context_length_exceeded", TOO_LONG),
    "too_large": ErrorWords(413, "invalid_request_error", "request_too_large", "Request body is too large."),
    "connection_limit": ErrorWords(
        400, "invalid_request_error", "websocket_connection_limit_reached", CONNECTION_LIMIT
    ),
}

#: Code of a refused refresh → message. Clients treat three of the codes as final (spec 3.3).
REFRESH_REFUSALS = {
    "refresh_token_expired": "Could not refresh your authentication token: it has expired. Please sign in again.",
    "refresh_token_reused": "Your refresh token has already been used to generate a new access token."
    " Please try signing in again.",
    "refresh_token_invalidated": "Your refresh token has been invalidated. Please try signing in again.",
}

#: The default type of a fault that is an error event, and the code that it stands for here.
_UNNAMED = Fault("error_mid").type
_OVERLOADED_CODE = "server_is_overloaded"

_BROKEN = b'{"access_token":"x","rate_limit":{"primary_wi'

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def request_id(rng: random.Random) -> str:
    """A new request id in the provider's format."""
    return f"req_{rng.randbytes(16).hex()}"


def object_id(prefix: str, rng: random.Random) -> str:
    """A new id of a response (``resp``), item (``msg``, ``fc``, ``rs``) or tool call (``call``)."""
    return f"{prefix}_{rng.randbytes(25).hex()}"


def error_document(words: ErrorWords) -> dict[str, Any]:
    """A refusal as the body of a response."""
    return {
        "error": {
            "message": words.message,
            "type": words.type,
            "param": None,
            "code": words.code,
        }
    }


def failure(kind: str) -> dict[str, Any]:
    """``response.error`` of a response that failed with ``kind`` (an error code)."""
    code = _OVERLOADED_CODE if kind == _UNNAMED else kind
    message = OVERLOADED if code == _OVERLOADED_CODE else f"Simulated failure: {code}"
    return {"code": code, "message": message}


class ErrorAnswers:
    """Makes refusals, each with its own request id."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def identity(self) -> Headers:
        """The header with a new request id."""
        return [(b"x-request-id", request_id(self._rng).encode())]

    def error(
        self,
        status: int,
        kind: str | None,
        code: str | None,
        message: str,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> Reply:
        """An error in the standard format."""
        document = error_document(ErrorWords(status, kind, code, message))
        return json_reply(status, document, [*self.identity(), *headers])

    def detail(self, status: int, message: str) -> Reply:
        """An error in the format of ChatGPT's backend for invalid requests."""
        return json_reply(status, {"detail": message}, self.identity())

    def usage_limit(self, plan: str, resets_at: float, now: float, headers: Headers) -> Reply:
        """429: the account is used up until ``resets_at`` (Unix seconds)."""
        error = {
            "type": "usage_limit_reached",
            "message": "The usage limit has been reached",
            "plan_type": plan,
            "resets_at": round(resets_at),
            "resets_in_seconds": max(0, round(resets_at - now)),
        }
        return json_reply(429, {"error": error}, [*self.identity(), *headers])

    def refresh_refused(self, code: str) -> Reply:
        """The token endpoint's refusal of a refresh token."""
        return self.error(401, "invalid_request_error", code, REFRESH_REFUSALS[code])

    def answer(self, fault: Fault, target: bytes) -> Reply:
        """The response for ``fault`` (one of ANSWERS, but not ``exhausted``).

        The ``type`` of the fault, if given, becomes the error's code.
        """
        if (reply := shapeless_reply(fault, target, _BROKEN)) is not None:
            return reply
        headers = retry_after_field(fault)
        code = None if fault.type == _UNNAMED else fault.type
        match fault.name:
            case "invalid_grant":
                document = {"error": code or "invalid_grant", "error_description": "Invalid refresh token"}
                return json_reply(400, document, headers)
            case "status":
                kind = "server_error" if fault.code >= 500 else "invalid_request_error"
                words = ErrorWords(fault.code, _TYPES.get(fault.code, kind), code, "")
                message = f"Simulated status {fault.code}"
            case name:
                words = _PLAIN[name]
                message = words.message
        return self.error(words.status, words.type, code or words.code, message, headers)
