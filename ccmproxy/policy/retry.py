"""What to do with the outcome of one attempt: relay it, try again, try another credential, or give up (spec 4.4).

Pure. The one rule above all others: once a byte of a response has gone to the client, nothing is tried again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from ccmproxy.policy.answers import AnswerKind

#: Where none can be reached, no further credential is tried after so long (seconds): clients give up.
UNREACHABLE_TIME = 30.0


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
