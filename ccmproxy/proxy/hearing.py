"""What credentials have answered to one request after the first refusal, and what that charges them with (spec 12.1).

What follows from the answers is decided in :mod:`ccmproxy.policy.opinions`; here they are held, heard and learnt from.
"""

from __future__ import annotations

from ccmproxy.interfaces.credentials import ILease
from ccmproxy.policy.answers import AnswerKind, Verdict
from ccmproxy.policy.opinions import KNOWN, ChargeKind, Hearing, Opinion, RefusalClass, Ruling, class_of
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.proxy.answer import Answer
from ccmproxy.proxy.charges import input_of
from ccmproxy.proxy.proxied_request import ProxiedRequest
from ccmproxy.state.inputs import RequestRefused

#: Answers of a remote instance that reach the client where nobody else serves: they say why the remote does not.
_REMOTES_OWN = frozenset({AnswerKind.REMOTE_BUSY, AnswerKind.REMOTE_UNAVAILABLE})


class RequestHearing:
    """Hears the answers to one request, of which the first is a refusal.

    ``held``: the refusal that the client may get in the end, whose lease is open; None if there is none.
    """

    __slots__ = ("_asked", "_context", "_hearing", "_leases", "held")

    def __init__(self, asked: ProxiedRequest) -> None:
        self._asked = asked
        self._context = asked.context
        self._hearing = Hearing()
        #: Leases of the credentials that were heard, by tag: charges are learnt when it is clear what they are.
        self._leases: dict[str, ILease] = {}
        self.held: Answer | None = None

    @property
    def wants_accounts(self) -> bool:
        """Whether only another account is of use: what a key or a remote says of a login's refusal is no opinion."""
        first = self._hearing.first
        return first is not None and first.verdict.kind in (AnswerKind.AUTH_FAILED, AnswerKind.DENIED)

    def hear(self, answer: Answer) -> Ruling:
        """Hear an answer, and let credentials learn what they are charged with so far.

        Returns whether it is the client's, another credential is to be asked, or the client gets the held one. Unless
        it is the client's, it is held or dropped.
        """
        verdict, lease, hearing = answer.verdict, answer.lease, self._hearing
        if verdict.kind is AnswerKind.MODEL_REFUSED and self._is_refused_by_all():
            self._hold(answer)
            return Ruling.FIRST
        refusal = class_of(verdict.kind) if verdict.kind not in KNOWN else None
        if hearing.begins_with(verdict.kind) and refusal is not None:
            hearing.may_seek = not self._waits_here(answer) and self._may_seek(lease.tag, refusal)
        self._leases[lease.tag] = lease
        ruling = hearing.heard(Opinion(lease.tag, verdict, lease.identity, lease.is_account))
        self._charge()
        if ruling is Ruling.DELIVER:
            first = hearing.first
            if first is not None and verdict.kind is AnswerKind.OK and not lease.is_account:
                # A key or a remote instance that takes over gives no evidence; that different callers meet it does.
                self._note_unexplained(self._leases[first.tag], first.verdict)
            self.drop_held()
            return ruling
        is_first = hearing.first is not None and hearing.first.tag == lease.tag
        if is_first or (self.held is None and verdict.kind in _REMOTES_OWN):
            self._hold(answer)
        else:
            answer.drop(LeaseOutcome.REFUSED)
        return ruling

    def conclude(self) -> Answer:
        """Return the held refusal, which the client gets: nobody else is asked any more.

        If nobody else was or could be heard on it, the credential learns of it; if all refuse the like, that is
        remembered.
        """
        held, self.held = self.held, None
        assert held is not None
        opinions, verdict = self._context.opinions, held.verdict
        self._hearing.nobody_left()
        about = self._hearing.about
        if about is None and verdict.kind is AnswerKind.MODEL_REFUSED:
            about = RefusalClass.DENIED
        if about is not None:
            opinions.was_about_request(*self._kind_of_refusal(about), self._context.clock.seconds())
        else:
            self._note_unexplained(held.lease, verdict)
        return held

    def _note_unexplained(self, lease: ILease, verdict: Verdict) -> None:
        """Let a credential learn of a refusal on which no other account was or could be heard (spec 12.1)."""
        if (
            verdict.kind in (AnswerKind.BUSY, AnswerKind.DENIED)
            and not lease.is_external  # which of its accounts it was, only the remote knows
            and not self._is_about_request(verdict)
        ):
            asked, is_busy = self._asked, verdict.kind is AnswerKind.BUSY
            lease.learn(
                RequestRefused(asked.combination, asked.caller.name, verdict.wait, verdict.sentence, is_busy)
            )

    def drop_held(self, outcome: LeaseOutcome = LeaseOutcome.REFUSED) -> None:
        """Drop the held refusal, if there is one: the client does not get it."""
        held, self.held = self.held, None
        if held is not None:
            held.drop(outcome)

    def _hold(self, answer: Answer) -> None:
        self.drop_held()
        self.held = answer

    def _charge(self) -> None:
        """Let the credentials learn what is charged to them so far.

        That an account may not use a model is kept for models that some account serves, so it may have to wait for the
        end of the request (spec 12.5).
        """
        asked, charges = self._asked, self._hearing.charges
        is_served = self._context.opinions.has_served(asked.combination.model)
        for charge in charges[:]:
            if charge.kind is not ChargeKind.MODEL or is_served:
                charges.remove(charge)
                self._leases[charge.tag].learn(input_of(charge, asked.combination, asked.caller.name))

    # Whether others are asked ---------------------------------------------------------------------------------

    def _may_seek(self, tag: str, refusal: RefusalClass) -> bool:
        """Return whether others are asked after a refusal by ``tag``.

        Only accounts give second opinions, and only these are counted: where a key or a remote takes over, nobody is
        asked what it says of the refusal (spec 12.1).
        """
        asked, context = self._asked, self._context
        if asked.another_can(tag, only_accounts=True):
            return context.opinions.may_seek(*self._kind_of_refusal(refusal), context.clock.seconds())
        return asked.another_can(tag) and not self._is_refused_alike(refusal)

    def _waits_here(self, answer: Answer) -> bool:
        """Return whether a warm session is better told a short wait than moved to where nothing of it is known
        (spec 12.2)."""
        asked, context = self._asked, self._context
        wait = answer.verdict.wait
        provider = asked.caller.provider
        if answer.verdict.kind is not AnswerKind.BUSY or wait is None:
            return False
        if provider.patience <= 0 or wait > provider.patience:
            return False
        if asked.facts.session is None or not provider.is_warm(asked.selection(), answer.lease.tag):
            return False
        if not asked.client_waits():
            return False
        return context.told.may_tell(asked.caller.name, asked.facts.session, context.clock.seconds())

    def _is_refused_by_all(self) -> bool:
        """Return whether nobody has ever served the model, and all have refused it to this caller within the last
        minute."""
        is_served = self._context.opinions.has_served(self._asked.combination.model)
        return not is_served and self._is_refused_alike(RefusalClass.DENIED)

    def _is_about_request(self, verdict: Verdict) -> bool:
        """Return whether its words say so of a refusal, or all who were asked for the like of it a moment ago."""
        refusal = class_of(verdict.kind)
        if verdict.is_about_request or refusal is None:
            return verdict.is_about_request
        return self._is_refused_alike(refusal)

    def _is_refused_alike(self, refusal: RefusalClass) -> bool:
        """Return whether all who were asked have refused the like of it within the last minute."""
        context = self._context
        return context.opinions.is_about_request(*self._kind_of_refusal(refusal), context.clock.seconds())

    def _kind_of_refusal(self, refusal: RefusalClass) -> tuple[str, str, str, RefusalClass]:
        """Return what makes refusals alike: the caller, the endpoint, the model and the class."""
        asked = self._asked
        return asked.caller.name, asked.combination.endpoint, asked.combination.model, refusal
