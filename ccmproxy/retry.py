"""What to do with the outcome of one attempt: relay it, try again, try another credential, or give up (spec 4.4).

Pure. The one rule above all others: once a byte of a response has gone to the client, nothing is tried again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class AnswerKind(Enum):
    """Class of an upstream answer, as the dialect reads it."""

    OK = auto()
    #: 429 on account of the whole credential.
    RATE_LIMITED = auto()
    #: 429 that concerns one model's window of that account.
    MODEL_RATE_LIMITED = auto()
    #: 429 that concerns this request alone; nothing is marked.
    REQUEST_RATE_LIMITED = auto()
    #: 401, or 403 that says the token was revoked.
    AUTH_FAILED = auto()
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
