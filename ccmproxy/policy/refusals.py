"""What a client is told whose request was not served: by the last outcome, or the state of all (spec 4.2). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ccmproxy.http.failures import BodyMalformed, BodyTimeout, BodyTooLarge
from ccmproxy.policy.retry import AnswerKind, Failure, Verdict
from ccmproxy.state.availability import Availability

#: What a client is told that has to send its request again itself.
SEND_AGAIN = "current credential reached its usage limit; retry the request to use another credential"

_RATE_LIMITS = frozenset(
    {AnswerKind.RATE_LIMITED, AnswerKind.MODEL_RATE_LIMITED, AnswerKind.REQUEST_RATE_LIMITED}
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error of our own. ``reason``: the stable word; ``retry_after``: seconds, None = not said."""

    status: int
    reason: str
    message: str
    retry_after: int | None = None


_FAILURES = {
    Failure.NOT_SENT: Refusal(502, "upstream_unreachable", "the upstream cannot be reached"),
    Failure.LOST: Refusal(502, "upstream_lost", "the upstream closed the connection without an answer"),
    Failure.CARRIER_LOST: Refusal(502, "upstream_lost", "the reverse connection to the upstream was lost"),
    Failure.TIMED_OUT: Refusal(504, "upstream_timeout", "the upstream did not answer in time"),
    Failure.GARBLED: Refusal(502, "upstream_malformed", "the upstream's answer cannot be understood"),
}


def of_body(error: Exception) -> Refusal:
    """For a request whose body did not come whole."""
    match error:
        case BodyTooLarge():
            return Refusal(413, "body_too_large", str(error))
        case BodyTimeout():
            return Refusal(408, "body_timeout", "the request body did not arrive in time")
        case BodyMalformed():
            return Refusal(400, "body_malformed", "the request body is not framed as HTTP asks")
        case _:
            return Refusal(400, "body_failed", "the request body could not be read")


def of_failure(outcome: Failure | Verdict | None) -> Refusal:
    """For a request of which nothing may be tried any more."""
    found = _FAILURES.get(outcome) if isinstance(outcome, Failure) else None
    return found or _FAILURES[Failure.LOST]


def of_nobody(
    availability: Availability, outcome: Failure | Verdict | None, no_token: str, retry_status: int
) -> Refusal | Availability:
    """For a request that no credential is left for: ``availability`` of them all, and how the last try ended, if any.

    ``no_token``: why there was no token, where that was it. ``retry_status``: makes every client send the request
    again. An Availability as the result: everything is used up, and that is to be said in the dialect's words.
    """
    if isinstance(outcome, Failure) and outcome in _FAILURES:
        return _FAILURES[outcome]
    if outcome is Failure.INTERRUPTED and availability.worth_trying:
        return Refusal(retry_status, "interrupted", SEND_AGAIN, retry_after=1)
    if isinstance(outcome, Verdict):
        if outcome.kind is AnswerKind.AUTH_FAILED and availability.state != "unavailable":
            # Never 401: the client's own token is fine.
            return Refusal(502, "upstream_auth", "the upstream refuses the account's token")
        if outcome.kind in _RATE_LIMITS and availability.worth_trying:
            # Refused for a window that closes nothing known here: of another name, or without an end.
            return Availability("rate_limited", "model_window", reset_at=outcome.until)
    if availability.state == "rate_limited":
        return availability
    message = no_token if outcome is Failure.NO_TOKEN else availability.message
    return Refusal(400, "credential_unavailable", message or "no credential is available")
