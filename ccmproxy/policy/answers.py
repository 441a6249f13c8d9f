"""What an upstream's answer is about (spec 12): the classes that dialects sort answers into. Values only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

#: Until when a used-up account is left alone if the answer names no time (seconds, spec 4.6).
DEFAULT_BLOCK = 300.0


class AnswerKind(Enum):
    """Class of an upstream's answer, as the dialect reads it."""

    OK = auto()
    #: 429 with data: what the credential has left is used up, until the verdict's time.
    RATE_LIMITED = auto()
    #: The same of one model's window of that account.
    MODEL_RATE_LIMITED = auto()
    #: 429 without data (spec 12.2): a burst, or something about this request; nothing that a window explains.
    BUSY = auto()
    #: A stream that begins with the news that nothing will come (F13).
    STREAM_FAILED = auto()
    #: 401, or a 403 that says that the token was revoked.
    AUTH_FAILED = auto()
    #: 402, 403, or a 400 that speaks of an account: whose fault it is, its words do not tell.
    DENIED = auto()
    #: Known words: the account itself is refused (spec 12.3).
    ACCOUNT_REFUSED = auto()
    #: Known words: this model is not for this account.
    MODEL_REFUSED = auto()
    #: A remote instance does not accept our token, or is none that tells more (spec 4.4): it is left alone for a while.
    REMOTE_REJECTED = auto()
    #: A remote instance has no credential to serve us with, and its answer says why (spec 4.4).
    REMOTE_UNAVAILABLE = auto()
    #: A remote instance cannot serve this request for now, and nothing else is known of it; nothing is marked.
    REMOTE_BUSY = auto()
    #: The upstream opens no more WebSockets for this account, which says nothing of other requests (spec 12.2).
    NO_MORE_SOCKETS = auto()
    #: Another 400: relayed unchanged, the client acts on it.
    CLIENT_ERROR = auto()
    #: Everything else: relayed.
    OTHER = auto()
    #: The body is needed to tell: read it and ask again.
    NEEDS_BODY = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer's class, and what it says besides.

    ``until``: Unix seconds, for the two kinds of used-up windows; ``explicit``: the upstream named that time itself.
    ``wait``: seconds after which BUSY asks to be tried again, as it came, None = not said. ``is_about_request``: known
    words of the answer speak of the request, so that nothing is ever charged for it. ``is_final``: waiting does not
    help. ``sentence``: the provider's own, at most 200 characters. ``model``: of MODEL_RATE_LIMITED, the model that the
    used-up window closes, named as in ``LimitsUpdate.model_rejections``; empty where the figures of the answer's own
    header fields name it. ``is_revoked``: of AUTH_FAILED, known words say that the login was revoked.
    """

    kind: AnswerKind
    until: float = 0.0
    explicit: bool = True
    wait: float | None = None
    is_about_request: bool = False
    is_final: bool = False
    sentence: str = ""
    model: str = ""
    is_revoked: bool = False

    def without_known_words(self) -> Verdict:
        """Return the verdict on the same answer if its words may be the client's own, so that they prove nothing of the
        account (spec 12.1)."""
        if self.kind in (AnswerKind.ACCOUNT_REFUSED, AnswerKind.MODEL_REFUSED):
            return replace(self, kind=AnswerKind.DENIED)
        return self


#: Most answers.
SERVED = Verdict(AnswerKind.OK)
