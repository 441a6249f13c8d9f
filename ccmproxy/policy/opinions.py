"""Whose fault a refusal is: what several credentials say to one request, and what is charged for it (spec 12.1). Pure.

A refusal whose cause its own words and figures do not tell is put to a *second opinion*: what another login of the same
kind and of another identity answers to the same request. Served there, the refusal is charged to where it came from,
for this endpoint, model and set of betas only; refused there too, it is about the request, and nobody is charged.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from enum import Enum, auto

from ccmproxy.policy.answers import AnswerKind, Verdict
from ccmproxy.state.holds import Combination

#: Most sends of one request, for whatever reason, where there are many accounts.
MOST_SENDS = 8
#: How much more often than there are accounts a request may be sent: reconnects, refreshes.
EXTRA_SENDS = 2
#: After a refusal was found to be about the request, the like of it gets no second opinion for so long (seconds).
REMEMBERED_TIME = 60.0
#: As many such findings are remembered.
MOST_REMEMBERED = 1000
#: As many models are known to have been served; providers have fewer.
MOST_SERVED = 256
#: So many second opinions a caller may cause within so long (seconds).
MOST_SOUGHT = 6
SOUGHT_PERIOD = 60.0


class RefusalClass(Enum):
    """Refusals that are alike, as far as one is a second opinion on the other."""

    #: 429 that no window explains.
    BUSY = auto()
    #: 401 that a refresh did not mend.
    LOGIN = auto()
    #: 402, 403, and 400s that speak of an account.
    DENIED = auto()
    #: A stream that begins with an error.
    STREAM = auto()


#: How many accounts are asked in all before a refusal of a class is passed on.
MOST_ASKED = {
    RefusalClass.BUSY: 3,
    RefusalClass.LOGIN: 2,
    RefusalClass.DENIED: 2,
    RefusalClass.STREAM: 2,
}

_CLASSES = {
    AnswerKind.BUSY: RefusalClass.BUSY,
    AnswerKind.AUTH_FAILED: RefusalClass.LOGIN,
    AnswerKind.DENIED: RefusalClass.DENIED,
    AnswerKind.ACCOUNT_REFUSED: RefusalClass.DENIED,
    AnswerKind.MODEL_REFUSED: RefusalClass.DENIED,
    AnswerKind.STREAM_FAILED: RefusalClass.STREAM,
}
#: Answers that say by themselves what they are about: they are charged at once, and others are asked as usual.
KNOWN = frozenset({AnswerKind.ACCOUNT_REFUSED, AnswerKind.MODEL_REFUSED})
#: Answers after which the next credential is asked, although they are no opinion on an earlier refusal.
_PASSED_OVER = frozenset(
    {
        AnswerKind.RATE_LIMITED,
        AnswerKind.MODEL_RATE_LIMITED,
        AnswerKind.REMOTE_REJECTED,
        AnswerKind.REMOTE_UNAVAILABLE,
        AnswerKind.REMOTE_BUSY,
        AnswerKind.NO_MORE_SOCKETS,
    }
)


def class_of(kind: AnswerKind) -> RefusalClass | None:
    """The class of a refusal; None: it is none, or one that says by itself what an account has left."""
    return _CLASSES.get(kind)


class ChargeKind(Enum):
    """What a charge does to a credential."""

    #: The combination takes no cold work for a while.
    REST = auto()
    #: The combination is not served there for a while.
    DENY = auto()
    #: The model is not served there for a while.
    MODEL = auto()
    #: The account is refused: it is not chosen until it serves again.
    ACCOUNT = auto()


@dataclass(frozen=True, slots=True)
class Charge:
    """What the credential ``tag`` is charged with, whose login was of ``identity`` then (see Opinion). ``wait``:
    seconds that a rest was asked for, None = not said. ``sentence``: the provider's, for the operator."""

    tag: str
    kind: ChargeKind
    wait: float | None = None
    sentence: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one credential answered.

    ``identity``: of its login; empty where it is not known, and then it counts as another one. ``is_evidence``: it is
    an account like the one that was asked first; keys and remote instances are none.
    """

    tag: str
    verdict: Verdict
    identity: str = ""
    is_evidence: bool = True

    def is_of_same_login(self, other: Opinion) -> bool:
        """Return whether both are known to be of one identity's logins."""
        return bool(self.identity) and self.identity == other.identity


class Ruling(Enum):
    """What to do after an answer."""

    #: It is the one for the client.
    DELIVER = auto()
    #: Ask another credential.
    NEXT = auto()
    #: Ask nobody any more: the client gets the first refusal, as it came.
    FIRST = auto()


@dataclass(slots=True)
class Hearing:
    """All that is said to one request. Feed it every answer in order; ``charges`` is what follows so far.

    ``may_seek``: whether a second opinion on the first refusal may be sought. ``about``: the class of refusals that
    turned out to be about the request, once that is so.
    """

    may_seek: bool = True
    charges: list[Charge] = field(default_factory=list)
    about: RefusalClass | None = None
    _first: Opinion | None = None
    _refusals: list[Opinion] = field(default_factory=list)
    _asked: int = 0
    _agreed: bool = False
    _has_refused_account: bool = False

    @property
    def first(self) -> Opinion | None:
        """The first refusal that is not explained by what an account has left; None: there was none."""
        return self._first

    def heard(self, opinion: Opinion) -> Ruling:
        """A credential has answered."""
        verdict = opinion.verdict
        if self._first is not None and not self._is_same_login(opinion):
            self._asked += 1
        refusal = _CLASSES.get(verdict.kind)
        if refusal is None:
            if verdict.kind is AnswerKind.OK:
                self._served_by(opinion)
                return Ruling.DELIVER
            if verdict.kind in _PASSED_OVER or self._is_open():
                return self._go_on()
            return Ruling.DELIVER
        self._charge_known(opinion)
        if self._first is None or self.begins_with(verdict.kind):
            self._first, self._asked, self._agreed = opinion, 1, False
            self._refusals.append(opinion)
            if verdict.kind in KNOWN or self.may_seek:
                return Ruling.NEXT
            return Ruling.FIRST
        if refusal is _CLASSES[self._first.verdict.kind] and self._is_second(opinion):
            self._agreed = True
            self._refusals.append(opinion)
        return self._go_on()

    def begins_with(self, kind: AnswerKind) -> bool:
        """Return whether an answer of this kind is one on which others are to be heard.

        Known words about one account explain nothing of what another one refuses.
        """
        if kind not in _CLASSES:
            return False
        return self._first is None or (kind not in KNOWN and not self._is_open())

    def nobody_left(self) -> bool:
        """No credential is left to ask. Whether the client is to get the first refusal, as it came."""
        self._conclude()
        return self._first is not None

    def _is_open(self) -> bool:
        """Is there a first refusal that other answers are to explain? An overloaded provider explains none."""
        return self._first is not None and self._first.verdict.kind not in KNOWN

    def _go_on(self) -> Ruling:
        first = self._first
        if first is None or not self._is_open() or self._asked < MOST_ASKED[_CLASSES[first.verdict.kind]]:
            return Ruling.NEXT
        self._conclude()
        return Ruling.FIRST

    def _conclude(self) -> None:
        first = self._first
        if self._agreed and first is not None and self._is_open():
            self.about = _CLASSES[first.verdict.kind]

    def _is_second(self, opinion: Opinion) -> bool:
        """Is it another login of the same kind, and of another identity (F33)?"""
        assert self._first is not None
        return opinion.is_evidence and self._first.is_evidence and not self._is_same_login(opinion)

    def _is_same_login(self, opinion: Opinion) -> bool:
        """Is it another login of the account that was asked first? That one's answer is not counted either."""
        assert self._first is not None
        return opinion.is_of_same_login(self._first)

    def _charge_known(self, opinion: Opinion) -> None:
        verdict = opinion.verdict
        if verdict.kind is AnswerKind.MODEL_REFUSED:
            self._charge(opinion, ChargeKind.MODEL)
        elif verdict.kind is AnswerKind.ACCOUNT_REFUSED and not self._has_refused_account:
            # One request has at most one account refused, whatever its content makes the providers say.
            self._has_refused_account = True
            self._charge(opinion, ChargeKind.ACCOUNT)

    def _served_by(self, opinion: Opinion) -> None:
        """Somebody else serves what was refused before: so the refusal was about where it came from."""
        for refused in self._refusals:
            verdict = refused.verdict
            if verdict.kind in KNOWN or verdict.is_about_request or not opinion.is_evidence:
                continue
            if not refused.is_evidence or opinion.is_of_same_login(refused):
                continue
            if verdict.kind is AnswerKind.BUSY:
                self._charge(refused, ChargeKind.REST, verdict.wait)
            elif verdict.kind is not AnswerKind.STREAM_FAILED and not self._has_refused_account:
                # A stream that fails at its beginning is the provider's trouble, and nobody's charge. A denial may have
                # its account refused, and one request has at most one.
                self._has_refused_account = True
                self._charge(refused, ChargeKind.DENY)

    def _charge(self, refused: Opinion, kind: ChargeKind, wait: float | None = None) -> None:
        self.charges.append(Charge(refused.tag, kind, wait, refused.verdict.sentence, refused.identity))


def most_sends(accounts: int) -> int:
    """How often one request may be sent in all, where its caller may use so many accounts."""
    return min(accounts + EXTRA_SENDS, MOST_SENDS)


class OpinionMemory:
    """Which second opinions are not sought again just now, so that one caller's odd requests do not cost everybody's
    accounts a request each."""

    def __init__(self) -> None:
        self._about_request: OrderedDict[tuple[str, str, str, RefusalClass], float] = OrderedDict()
        self._sought: dict[str, deque[float]] = {}
        self._midway: OrderedDict[tuple[str, str], tuple[Combination, Opinion, float]] = OrderedDict()
        self._served: OrderedDict[str, None] = OrderedDict()

    def may_seek(self, caller: str, endpoint: str, model: str, refusal: RefusalClass, now: float) -> bool:
        """Whether a refusal of this class may be put to a second opinion at ``now`` (seconds of any clock); counts."""
        if self.is_about_request(caller, endpoint, model, refusal, now):
            return False
        recent = self._sought.setdefault(caller, deque())
        while recent and not 0 <= now - recent[0] < SOUGHT_PERIOD:
            recent.popleft()
        if len(recent) >= MOST_SOUGHT:
            return False
        recent.append(now)
        return True

    def is_about_request(
        self, caller: str, endpoint: str, model: str, refusal: RefusalClass, now: float
    ) -> bool:
        """Return whether all who were asked have refused the like of it within the last minute."""
        found = self._about_request.get((caller, endpoint, model, refusal))
        return found is not None and 0 <= now - found < REMEMBERED_TIME

    def was_served(self, model: str) -> None:
        """Note that some account has served a request for ``model``; empty: it named none."""
        if model in self._served:
            return
        self._served[model] = None
        if len(self._served) > MOST_SERVED:
            self._served.popitem(last=False)

    def has_served(self, model: str | None) -> bool:
        """Return whether some account has served ``model``. Nothing is kept for models that nobody serves: clients can
        make up as many names as they like (spec 12.5)."""
        return model in self._served

    def was_about_request(
        self, caller: str, endpoint: str, model: str, refusal: RefusalClass, now: float
    ) -> None:
        """All who were asked have refused it alike."""
        key = (caller, endpoint, model, refusal)
        self._about_request.pop(key, None)
        self._about_request[key] = now
        if len(self._about_request) > MOST_REMEMBERED:
            self._about_request.popitem(last=False)

    @property
    def has_midway(self) -> bool:
        """Whether any refusal in mid-stream is remembered."""
        return bool(self._midway)

    def was_refused_midway(
        self, caller: str, session: str, asked: Combination, opinion: Opinion, now: float
    ) -> None:
        """Remember a refusal after the first byte: the session's next request within a minute goes elsewhere, and
        counts as the second opinion. ``now``: seconds of any clock."""
        key = (caller, session)
        self._midway.pop(key, None)
        self._midway[key] = (asked, opinion, now)
        if len(self._midway) > MOST_REMEMBERED:
            self._midway.popitem(last=False)

    def is_refused_midway(self, caller: str, session: str, asked: Combination, now: float) -> bool:
        """Return whether the like of it was refused to this session in mid-stream within the last minute."""
        refused_for, _, at = self._midway.get((caller, session), (None, None, 0.0))
        return refused_for == asked and 0 <= now - at < REMEMBERED_TIME

    def served_after(
        self, caller: str, session: str, asked: Combination, opinion: Opinion, now: float
    ) -> Charge | None:
        """Return what is charged for a refusal in mid-stream, now that a credential has served the like of it.

        None where there was no such refusal within the last minute, or where ``opinion`` is no second one on it.
        """
        remembered = self._midway.pop((caller, session), None)
        if remembered is None:
            return None
        refused_for, refusal, at = remembered
        if refused_for != asked or not 0 <= now - at < REMEMBERED_TIME or refusal.tag == opinion.tag:
            return None
        hearing = Hearing()
        hearing.heard(refusal)
        hearing.heard(opinion)
        return hearing.charges[0] if hearing.charges else None
