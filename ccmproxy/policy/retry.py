"""What to do with the outcome of one attempt: relay it, try again, try another credential, or give up (spec 4.4).

Pure. The one rule above all others: once a byte of a response has gone to the client, nothing is tried again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

#: Until when a used-up account is left alone if the answer names no time (spec 4.6; seconds).
DEFAULT_BLOCK = 300.0
#: The same for a 429 that says nothing of limits at all: a burst, not a quota (F5; seconds).
BURST_BLOCK = 60.0
#: Where none can be reached, no further credential is tried after so long (seconds): clients give up.
UNREACHABLE_TIME = 30.0


class AnswerKind(Enum):
    """Class of an upstream answer, as the dialect reads it."""

    OK = auto()
    #: 429 on account of the whole credential.
    RATE_LIMITED = auto()
    #: 429 that concerns one model's window of that account.
    MODEL_RATE_LIMITED = auto()
    #: 429 that concerns this request alone; nothing is marked.
    REQUEST_RATE_LIMITED = auto()
    #: A stream that begins with the news that nothing will come (F13); nothing is marked.
    STREAM_FAILED = auto()
    #: 401, or 403 that says the token was revoked.
    AUTH_FAILED = auto()
    #: A remote instance has no credential to serve us with (spec 4.4): it is left alone for a while.
    REMOTE_REJECTED = auto()
    #: A remote instance cannot serve this request for now, and nothing else is known of it; nothing is marked.
    REMOTE_BUSY = auto()
    #: 400: relayed unchanged, the client acts on it.
    CLIENT_ERROR = auto()
    #: Everything else: relayed.
    OTHER = auto()
    #: The body is needed to tell (a 403, a 429 with its reset in the body): read it and ask again.
    NEEDS_BODY = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer's class. For RATE_LIMITED, ``until`` (Unix seconds) and whether the upstream named it itself."""

    kind: AnswerKind
    until: float = 0.0
    explicit: bool = True


class LeaseOutcome(Enum):
    """How the use of a credential ended, as the credential sees it."""

    SERVED = auto()
    #: Relayed, but broke off before its end.
    BROKEN = auto()
    #: The upstream refused it: 429, 401.
    REFUSED = auto()
    #: No connection, or lost before an answer.
    UNREACHABLE = auto()
    #: The client went away.
    CANCELLED = auto()
    #: The credential stopped being usable before the answer began.
    INTERRUPTED = auto()


class Failure(Enum):
    """How an attempt ended that brought no answer."""

    #: The upstream cannot have acted on it.
    NOT_SENT = auto()
    #: Sent, then lost before a first byte of an answer.
    LOST = auto()
    #: The same, with the reverse connection that carried it (spec 7.4).
    CARRIER_LOST = auto()
    #: Sent, and no first byte within the time allowed.
    TIMED_OUT = auto()
    #: What came was not HTTP.
    GARBLED = auto()
    #: There was no token to send it with.
    NO_TOKEN = auto()
    #: The credential stopped being usable while it waited (spec 5.3).
    INTERRUPTED = auto()


class Step(Enum):
    """What to do after an attempt."""

    RELAY = auto()
    #: Once more on the same credential, on a fresh connection.
    AGAIN = auto()
    #: Once more on the same credential, with a token that was not refused (spec 3.4).
    RECOVER = auto()
    #: On another credential; if there is none, answer for this outcome.
    NEXT = auto()
    #: Nothing may be tried any more: answer for this outcome.
    GIVE_UP = auto()


@dataclass(slots=True)
class Progress:
    """What has been tried on one credential for one request."""

    reconnected: bool = False
    recovered: bool = False


def after_answer(kind: AnswerKind, progress: Progress) -> Step:
    """What to do with an answer whose head has arrived, and of which nothing has gone to the client yet."""
    match kind:
        case AnswerKind.OK | AnswerKind.CLIENT_ERROR | AnswerKind.OTHER | AnswerKind.NEEDS_BODY:
            return Step.RELAY
        case AnswerKind.AUTH_FAILED:
            return Step.NEXT if progress.recovered else Step.RECOVER
        case (
            AnswerKind.RATE_LIMITED
            | AnswerKind.MODEL_RATE_LIMITED
            | AnswerKind.REQUEST_RATE_LIMITED
            | AnswerKind.STREAM_FAILED
            | AnswerKind.REMOTE_REJECTED
            | AnswerKind.REMOTE_BUSY
        ):
            return Step.NEXT


def after_failure(failure: Failure, progress: Progress, elapsed: float = 0.0) -> Step:
    """What to do when no answer came, ``elapsed`` seconds after the request did.

    A request that the upstream may have acted on is not sent a second time: the client knows best whether it may be.
    """
    match failure:
        case Failure.NOT_SENT:
            if elapsed >= UNREACHABLE_TIME:
                return Step.GIVE_UP
            return Step.NEXT if progress.reconnected else Step.AGAIN
        case Failure.CARRIER_LOST:
            # Once more where the remote can be reached otherwise. It may have been at work, and may still be.
            return Step.NEXT if progress.reconnected else Step.AGAIN
        case Failure.NO_TOKEN | Failure.INTERRUPTED:
            return Step.NEXT
        case Failure.LOST | Failure.TIMED_OUT | Failure.GARBLED:
            return Step.GIVE_UP
