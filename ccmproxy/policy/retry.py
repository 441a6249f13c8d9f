"""The next step after one attempt: relay the response, retry, try another credential, or give up (spec 4.4).

Pure. The most important rule: there is no retry once a byte of a response was sent to the client.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from ccmproxy.policy.answers import AnswerKind

#: Where none can be reached, no further credential is tried after so long (seconds): clients give up.
UNREACHABLE_TIME = 30.0
#: Within this time after a request was sent (seconds), it becomes visible that the upstream had closed a kept-alive
#: connection before the request arrived. Later, the upstream may have acted on the request (spec 12.3, F67).
STALE_TIME = 1.0


class LeaseOutcome(Enum):
    """How the use of a credential for a request ended."""

    SERVED = auto()
    #: The response was relayed, but broke off before its end.
    BROKEN = auto()
    #: The upstream refused the request, for example with 429 or 401.
    REFUSED = auto()
    #: There was no connection, or it was lost before a response.
    UNREACHABLE = auto()
    #: The client disconnected.
    CANCELLED = auto()
    #: The credential stopped being usable before the response began.
    INTERRUPTED = auto()


class Failure(Enum):
    """How an attempt without a response ended."""

    #: The request was not sent completely, so the upstream cannot have acted on it.
    NOT_SENT = auto()
    #: The request was sent, then the connection was lost before the first byte of a response.
    LOST = auto()
    #: Like LOST, but the connection was a reused one and was lost at once: the upstream had most likely closed it
    #: before the request arrived.
    STALE = auto()
    #: Like LOST, because the reverse connection that carried the request was lost (spec 7.4).
    CARRIER_LOST = auto()
    #: The request was sent, and no response began within the time-out.
    TIMED_OUT = auto()
    #: The upstream's bytes were not HTTP.
    GARBLED = auto()
    #: There was no token for the request.
    NO_TOKEN = auto()
    #: The credential stopped being usable while the request waited for a response (spec 5.3).
    INTERRUPTED = auto()


class Step(Enum):
    """What to do after an attempt."""

    RELAY = auto()
    #: Retry on the same credential, on a fresh connection.
    AGAIN = auto()
    #: Retry on the same credential, with another token than the refused one (spec 3.4).
    RECOVER = auto()
    #: Try another credential; if there is none, answer according to this outcome.
    NEXT = auto()
    #: Make no further attempt: answer according to this outcome.
    GIVE_UP = auto()


@dataclass(slots=True)
class Progress:
    """Which retries have been made for one request: on the present credential, or on any (``repeated``: after the loss
    of a reused connection)."""

    reconnected: bool = False
    recovered: bool = False
    repeated: bool = False


def failure_of_loss(was_reused: bool, seconds: float, has_begun: bool) -> Failure:
    """Return how an attempt failed whose request was sent, and whose connection was lost before the response.

    ``was_reused``: the connection had served another request before; ``seconds``: since the request was sent;
    ``has_begun``: some byte of a response had arrived.
    """
    is_stale = was_reused and not has_begun and 0 <= seconds <= STALE_TIME
    return Failure.STALE if is_stale else Failure.LOST


def after_answer(kind: AnswerKind, progress: Progress) -> Step:
    """What to do with an answer whose head has arrived, and of which nothing has gone to the client yet.

    NEXT is only a wish: whether another credential is asked, and which answer the client gets in the end, is for
    :class:`ccmproxy.policy.opinions.Hearing` to say.
    """
    match kind:
        case AnswerKind.OK | AnswerKind.CLIENT_ERROR | AnswerKind.OTHER | AnswerKind.NEEDS_BODY:
            return Step.RELAY
        case AnswerKind.AUTH_FAILED:
            return Step.NEXT if progress.recovered else Step.RECOVER
        case _:
            return Step.NEXT


def after_failure(failure: Failure, progress: Progress, elapsed: float = 0.0) -> Step:
    """Return the next step after an attempt without a response.

    ``elapsed``: seconds that attempts have spent without sending the request. A request on which the upstream may have
    acted is not sent again: only the client knows whether that is safe.
    """
    match failure:
        case Failure.NOT_SENT:
            if elapsed >= UNREACHABLE_TIME:
                return Step.GIVE_UP
            return Step.NEXT if progress.reconnected else Step.AGAIN
        case Failure.CARRIER_LOST:
            # One retry, as the remote may be reachable over another path. It may have acted on the request, or still be
            # at work on it.
            return Step.NEXT if progress.reconnected else Step.AGAIN
        case Failure.STALE:
            # Once for the whole request: the upstream may have acted on it all the same (spec 12.3).
            return Step.GIVE_UP if progress.repeated else Step.AGAIN
        case Failure.NO_TOKEN | Failure.INTERRUPTED:
            return Step.NEXT
        case Failure.LOST | Failure.TIMED_OUT | Failure.GARBLED:
            return Step.GIVE_UP
