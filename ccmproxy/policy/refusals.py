"""The answer to a request that was not served, by its last outcome or by the state of the provider (spec 4.2). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ccmproxy.http.failures import BodyMalformed, BodyTimeout, BodyTooLarge, NoRoomForBody
from ccmproxy.policy.answers import AnswerKind, Verdict
from ccmproxy.policy.retry import Failure
from ccmproxy.state.availability import Availability

#: Message to a client that has to retry the request itself.
SEND_AGAIN = "current credential reached its usage limit; retry the request to use another credential"

#: The status and the word for a login that cannot be used for a passing cause. All clients wait for a Retry-After of up
#: to 60 s at this status, and try again.
DELAYED_STATUS = 503
DELAYED_REASON = "credential_delayed"

_RATE_LIMITS = frozenset({AnswerKind.RATE_LIMITED, AnswerKind.MODEL_RATE_LIMITED, AnswerKind.BUSY})


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer of the proxy itself. ``reason``: a stable word; ``retry_after``: seconds, None = no field."""

    status: int
    reason: str
    message: str
    retry_after: int | None = None


#: A 426 makes Codex use HTTP at once (observed).
NO_WEBSOCKET = Refusal(426, "no_websocket", "no credential opens a WebSocket now: use HTTP")
#: Of the requests with large bodies that come at a time (F63). Every client tries again after a 503 with Retry-After.
TOO_MANY_BODIES = Refusal(
    503,
    "too_many_bodies",
    "too many large request bodies are held at the moment; try again in 1 s",
    retry_after=1,
)

_FAILURES = {
    Failure.NOT_SENT: Refusal(502, "upstream_unreachable", "the upstream cannot be reached"),
    Failure.LOST: Refusal(502, "upstream_lost", "the upstream closed the connection without an answer"),
    Failure.STALE: Refusal(502, "upstream_lost", "the upstream closed the connection without an answer"),
    Failure.CARRIER_LOST: Refusal(502, "upstream_lost", "the reverse connection to the upstream was lost"),
    Failure.TIMED_OUT: Refusal(504, "upstream_timeout", "the upstream did not answer in time"),
    Failure.GARBLED: Refusal(502, "upstream_malformed", "the upstream's answer cannot be understood"),
}


def of_body(error: Exception) -> Refusal:
    """Return the refusal of a request whose body was not received completely."""
    match error:
        case BodyTooLarge():
            return Refusal(413, "body_too_large", str(error))
        case NoRoomForBody():
            return TOO_MANY_BODIES
        case BodyTimeout():
            return Refusal(408, "body_timeout", "the request body did not arrive in time")
        case BodyMalformed():
            return Refusal(400, "body_malformed", "the request body is not framed as HTTP asks")
        case _:
            return Refusal(400, "body_failed", "the request body could not be read")


def of_failure(outcome: Failure | Verdict | None) -> Refusal:
    """Return the refusal of a request after a failure that forbids another attempt."""
    found = _FAILURES.get(outcome) if isinstance(outcome, Failure) else None
    return found or _FAILURES[Failure.LOST]


def of_nobody(
    availability: Availability,
    outcome: Failure | Verdict | None,
    no_token: str,
    retry_status: int,
    token_in: int | None = None,
) -> Refusal | Availability:
    """Return the answer to a request for which no credential is left.

    ``availability``: of all credentials together. ``outcome``: of the last attempt, None if there was none.
    ``no_token``: why there was no token, if that was the outcome. ``retry_status``: a status that makes every client
    retry. ``token_in``: seconds after which the client is told to try again if a credential has no token for a passing
    cause (spec 12.4); None if there is no such credential. The result is an Availability if all capacity is used up,
    which the dialect reports in its own format.
    """
    if isinstance(outcome, Failure) and outcome in _FAILURES:
        return _FAILURES[outcome]
    if outcome is Failure.INTERRUPTED and availability.worth_trying:
        return Refusal(retry_status, "interrupted", SEND_AGAIN, retry_after=1)
    if isinstance(outcome, Verdict) and outcome.kind is AnswerKind.NO_MORE_SOCKETS:
        return NO_WEBSOCKET
    if token_in is not None:
        return Refusal(DELAYED_STATUS, DELAYED_REASON, no_token or availability.message, token_in)
    if isinstance(outcome, Verdict):
        if outcome.kind is AnswerKind.AUTH_FAILED and availability.worth_trying:
            # The status is never 401, because the client's own token is valid.
            return Refusal(502, "upstream_auth", "the upstream refuses the account's token")
        if outcome.kind in _RATE_LIMITS and availability.worth_trying:
            # The refusal is for a window that does not match any known limit, or that has no known end.
            return Availability("rate_limited", "model_window", reset_at=outcome.until)
    if availability.state == "rate_limited":
        return availability
    message = no_token if outcome is Failure.NO_TOKEN else availability.message
    return Refusal(400, "credential_unavailable", message or "no credential is available")
