"""One client request, from its head to the last byte of its answer (spec 4.1 points 4 to 9)."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from ccmproxy.http.message import Body
from ccmproxy.interfaces.credentials import ILease
from ccmproxy.policy.answers import AnswerKind, Verdict
from ccmproxy.policy.balancing import NoCredential
from ccmproxy.policy.opinions import (
    Charge,
    ChargeKind,
    Hearing,
    Opinion,
    RefusalClass,
    Ruling,
    class_of,
    most_sends,
)
from ccmproxy.policy.refusals import Refusal, of_body, of_failure, of_nobody
from ccmproxy.policy.retry import Failure, LeaseOutcome, Step
from ccmproxy.policy.waits import LONGEST_SHORT_WAIT
from ccmproxy.proxy.answer import Answer
from ccmproxy.proxy.answering import Answering
from ccmproxy.proxy.caller import Caller
from ccmproxy.proxy.charges import input_of
from ccmproxy.proxy.proxied_request import ProxiedRequest
from ccmproxy.proxy.tries import NoAnswer, Tries
from ccmproxy.state.inputs import RequestRefused

#: After so long a client may come again whose request was sent often enough, while there is room elsewhere (seconds).
AGAIN_TIME = 1.0


class Exchange:
    """Answers one request. The forwarder creates it, and the registry holds it until it is over.

    A sequence of tries until an answer is the client's: what a refusal is about, and whether another credential is
    asked, is decided in :mod:`ccmproxy.policy.opinions`; what becomes of the answer that is delivered, by
    ``answering``. Nothing is tried any more once the answer's head went to the client.
    """

    log = Logger()

    __slots__ = (
        "_answering",
        "_asked",
        "_context",
        "_hearing",
        "_held",
        "_lease",
        "_leases",
        "_most_sends",
        "_tries",
        "_unreached",
        "_why_no_token",
    )

    def __init__(self, asked: ProxiedRequest, answering: Answering) -> None:
        self._asked = asked
        self._answering = answering
        self._context = asked.context
        #: What was said to the request so far; None: nothing, or that it is served.
        self._hearing: Hearing | None = None
        self._tries: Tries | None = None
        self._lease: ILease | None = None
        #: The first refusal, which the client may get in the end; its lease is open.
        self._held: Answer | None = None
        #: Leases of all credentials that were asked, by tag: charges are learnt when it is clear what they are.
        self._leases: dict[str, ILease] = {}
        self._most_sends = 1
        #: Why there was no token to send the request with.
        self._why_no_token = ""
        #: Seconds that attempts took which could not be sent.
        self._unreached = 0.0

    @property
    def caller(self) -> Caller:
        """The caller that sent the request."""
        return self._asked.caller

    @property
    def credential(self) -> str:
        """Tag of the current or last credential of the request; empty: none yet."""
        return self._asked.credential

    def start(self) -> None:
        """Begin to receive the body; everything else follows from its arrival."""
        registry = self._context.registry
        registry.begin(self)
        self._asked.on_concluded = partial(registry.end, self)
        request = self._asked.request
        request.on_gone(self._client_gone)
        request.receive_body(self._context.options.max_body, self._body_received, self._body_failed)

    def leave(self) -> None:
        """The credential or the caller of the request was removed."""
        self._answering.leave()

    # The client's side

    def _client_gone(self) -> None:
        asked = self._asked
        asked.is_gone = True
        held, self._held = self._held, None
        if held is not None:
            held.drop(LeaseOutcome.CANCELLED)
        attempt = self._tries.attempt if self._tries is not None else None
        if attempt is not None:
            attempt.client_gone()
        elif not asked.tries:
            asked.conclude(499, "client_gone")
        # Otherwise the sequence waits for a token, and checks is_gone when it continues.

    def _body_failed(self, error: Exception) -> None:
        self._asked.refuse(of_body(error))

    def _body_received(self, body: Body) -> None:
        asked, context = self._asked, self._context
        if not self._answering.prepare(body):
            return
        traffic = context.dialect.traffic
        asked.facts = traffic.inspect(asked.request.head, body)
        provider = asked.caller.provider
        credentials = provider.credentials(asked.caller.allow_external)
        self._most_sends = most_sends(len(credentials))
        # A remote instance decides itself whether it has an API key.
        has_api_key = any(credential.is_api_key or credential.is_external for credential in credentials)
        problem = traffic.check(asked.facts, provider.is_single_account, has_api_key)
        if problem is not None:
            asked.refuse(Refusal(400, *problem))
            return
        context.polls.poll_stale(provider, credentials)
        Deferred.fromCoroutine(self._serve(body)).addErrback(self._crashed)

    def _crashed(self, failure: TwistedFailure) -> None:
        """Log an internal error with its traceback, and send an error answer if that is still possible."""
        asked = self._asked
        self.log.failure("request {request_id} failed in ccmproxy itself", failure, request_id=asked.id)
        self._answering.abort()
        if self._held is not None:
            self._held.drop(LeaseOutcome.BROKEN)
        attempt = self._tries.attempt if self._tries is not None else None
        if attempt is not None:
            attempt.discard()
            self._context.registry.streams.discard(attempt)
        if self._lease is not None:
            self._lease.close(LeaseOutcome.BROKEN)
        if asked.is_over:
            return
        if asked.has_begun:
            asked.request.abort()
            asked.conclude(500, "internal_error")
        else:
            asked.refuse(Refusal(500, "internal_error", "internal error in ccmproxy"))

    # Credentials

    async def _serve(self, body: Body) -> None:
        """Ask credentials until one serves the request, or there is none left to ask."""
        asked = self._asked
        asked.excluded = self._answering.unfit()
        outcome: Failure | Verdict | None = None
        interrupted: set[str] = set()
        was_interrupted = False
        while True:
            try:
                if not self._may_send():
                    raise NoCredential(asked.caller.availability(self._context.now(), asked.facts.model))
                lease = asked.caller.provider.select(asked.selection(self._wants_accounts()))
            except NoCredential as nobody:
                if interrupted and nobody.availability.worth_trying and self._may_send():
                    # An interrupted credential was only rebalanced, or is usable again: try such credentials once more.
                    asked.excluded -= interrupted
                    interrupted.clear()
                    continue
                self._nobody(nobody, outcome)
                return
            self._lease = self._leases[lease.tag] = lease
            asked.credential = lease.tag
            tries = self._tries = Tries(asked, self._answering, body, lease, self._unreached, self._may_send)
            result = await tries.run()
            self._unreached = tries.unreached
            if asked.is_gone:
                self._left(result)
                return
            asked.excluded.add(lease.tag)
            if isinstance(result, Answer):
                outcome = result.verdict
                if self._hear(result):
                    return
                continue
            outcome = result.outcome
            self._why_no_token = result.why_no_token or self._why_no_token
            if result.step is Step.GIVE_UP:
                self._give_up(outcome)
                return
            if outcome is Failure.INTERRUPTED and not was_interrupted:
                was_interrupted = True
                interrupted.add(lease.tag)

    def _may_send(self) -> bool:
        """Whether the request may be sent once more, to whomever (spec 12.1)."""
        return self._asked.sends < self._most_sends

    def _wants_accounts(self) -> bool:
        """Whether only another account is of use: what a key or a remote says of a login's refusal is no opinion."""
        first = self._hearing.first if self._hearing is not None else None
        return first is not None and first.verdict.kind in (AnswerKind.AUTH_FAILED, AnswerKind.DENIED)

    def _hear(self, answer: Answer) -> bool:
        """A credential has answered. Whether the client has its answer now."""
        asked, verdict = self._asked, answer.verdict
        if verdict.kind is AnswerKind.OK and asked.facts.is_for_models:
            self._context.opinions.was_served(asked.combination.model)
        hearing = self._hearing
        if hearing is None:
            if verdict.kind is AnswerKind.OK:
                # The usual case, in which there is nothing to find out.
                self._deliver(answer)
                return True
            hearing = self._hearing = Hearing()
        if verdict.kind is AnswerKind.MODEL_REFUSED and self._is_refused_by_all():
            self._drop_held()
            self._held = answer
            self._deliver_held()
            return True
        if hearing.begins_with(verdict.kind) and (refusal := class_of(verdict.kind)) is not None:
            hearing.may_seek = not self._waits_here(answer) and self._may_seek(answer.lease.tag, refusal)
        ruling = hearing.heard(
            Opinion(answer.lease.tag, verdict, answer.lease.identity, answer.lease.is_account)
        )
        self._charge(hearing.charges)
        if ruling is Ruling.DELIVER:
            self._drop_held()
            self._deliver(answer)
            return True
        is_first = hearing.first is not None and hearing.first.tag == answer.lease.tag
        if is_first or (self._held is None and verdict.kind is AnswerKind.REMOTE_BUSY):
            self._drop_held()
            self._held = answer
        else:
            answer.drop(LeaseOutcome.REFUSED)
        if ruling is Ruling.FIRST:
            self._deliver_held()
            return True
        return False

    def _may_seek(self, tag: str, refusal: RefusalClass) -> bool:
        """Whether others are asked after a refusal by ``tag``.

        Only accounts give second opinions, and only these are counted: where a key or a remote takes over, nobody is
        asked what it says of the refusal (spec 12.1).
        """
        asked, opinions = self._asked, self._context.opinions
        kind, now = self._kind_of_refusal(refusal), self._context.clock.seconds()
        if asked.another_can(tag, only_accounts=True):
            return opinions.may_seek(*kind, now)
        return asked.another_can(tag) and not opinions.is_about_request(*kind, now)

    def _drop_held(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.drop(LeaseOutcome.REFUSED)

    def _is_refused_by_all(self) -> bool:
        """Whether nobody has ever served the model, and all have refused it to this caller within the last minute."""
        opinions, kind = self._context.opinions, self._kind_of_refusal(RefusalClass.DENIED)
        return not opinions.has_served(self._asked.combination.model) and opinions.is_about_request(
            *kind, self._context.clock.seconds()
        )

    def _waits_here(self, answer: Answer) -> bool:
        """Whether a warm session is better told a short wait than moved to where nothing of it is known (spec 12.2)."""
        asked, context = self._asked, self._context
        wait = answer.verdict.wait
        provider = asked.caller.provider
        if answer.verdict.kind is not AnswerKind.BUSY or wait is None or wait > provider.patience:
            return False
        if asked.facts.session is None or not provider.is_warm(asked.selection(), answer.lease.tag):
            return False
        if not asked.client_waits():
            return False
        return context.told.may_tell(asked.caller.name, asked.facts.session, context.clock.seconds())

    def _charge(self, charges: list[Charge]) -> None:
        """Let the credentials learn what is charged to them so far.

        That an account may not use a model is kept for models that some account serves, so it may have to wait for the
        end of the request (spec 12.5).
        """
        asked = self._asked
        is_served = self._context.opinions.has_served(asked.combination.model)
        for charge in charges[:]:
            if charge.kind is not ChargeKind.MODEL or is_served:
                charges.remove(charge)
                self._leases[charge.tag].learn(input_of(charge, asked.combination, asked.caller.name))

    # Answers

    def _deliver(self, answer: Answer) -> None:
        """The point of no return: from here on the answer is this one, whole or broken."""
        asked = self._asked
        if answer.verdict.kind is AnswerKind.OK:
            answer.lease.served(asked.combination, answer.sent_at, asked.facts.billable)
            if asked.facts.billable:
                answer.lease.proved(answer.authorization)
        self._answering.deliver(answer)

    def _deliver_held(self) -> None:
        """The client gets the first refusal, as it came (a 401: with another status). If nobody else was or could be
        heard on it, it is remembered."""
        held, self._held = self._held, None
        assert held is not None
        asked, context, verdict = self._asked, self._context, held.verdict
        about = None
        if self._hearing is not None:
            self._hearing.nobody_left()
            about = self._hearing.about
        if about is not None:
            context.opinions.was_about_request(*self._kind_of_refusal(about), context.clock.seconds())
        elif verdict.kind is AnswerKind.MODEL_REFUSED:
            kind = self._kind_of_refusal(RefusalClass.DENIED)
            context.opinions.was_about_request(*kind, context.clock.seconds())
        elif not self._is_about_request(verdict) and verdict.kind in (AnswerKind.BUSY, AnswerKind.DENIED):
            held.lease.learn(
                RequestRefused(
                    asked.combination,
                    asked.caller.name,
                    verdict.wait,
                    verdict.sentence,
                    verdict.kind is AnswerKind.BUSY,
                )
            )
        asked.credential = held.lease.tag
        if verdict.kind is AnswerKind.AUTH_FAILED and held.head.status in (401, 403):
            head = asked.request.head
            if not asked.facts.is_for_models:
                held.lease.remember_about_request(held.authorization, head.method, head.path)
            body = held.attempt.held_body()
            held.drop(LeaseOutcome.REFUSED)
            answer, body = context.dialect.traffic.about_request(held.head, body, asked.id)
            asked.respond(answer, body, "failed")
            return
        self._answering.deliver(held)

    def _is_about_request(self, verdict: Verdict) -> bool:
        """Return whether its words say so of a refusal, or all who were asked for the like of it a moment ago."""
        refusal = class_of(verdict.kind)
        if verdict.is_about_request or refusal is None:
            return verdict.is_about_request
        now = self._context.clock.seconds()
        return self._context.opinions.is_about_request(*self._kind_of_refusal(refusal), now)

    def _kind_of_refusal(self, refusal: RefusalClass) -> tuple[str, str, str, RefusalClass]:
        """Return what makes refusals alike: the caller, the endpoint, the model and the class."""
        asked = self._asked
        return asked.caller.name, asked.combination.endpoint, asked.combination.model, refusal

    def _left(self, result: Answer | NoAnswer) -> None:
        """The client is gone."""
        if isinstance(result, Answer):
            result.drop(LeaseOutcome.CANCELLED)
        self._asked.conclude(499, "client_gone")

    def _give_up(self, outcome: Failure | Verdict) -> None:
        """Nothing may be tried any more. An earlier refusal tells more than that an answer was lost."""
        if self._held is not None:
            self._deliver_held()
        else:
            self._asked.refuse(of_failure(outcome))

    def _nobody(self, nobody: NoCredential, outcome: Failure | Verdict | None) -> None:
        """No credential is left: answer as the first refusal, the last outcome, or the provider's state demands."""
        asked, context = self._asked, self._context
        if self._held is not None:
            self._deliver_held()
            return
        now = context.now()
        wait = nobody.free_at - now if now < nobody.free_at <= now + LONGEST_SHORT_WAIT else None
        if not self._may_send() and nobody.availability.usable:
            # Others may well serve it, but one request is not sent to all accounts (spec 12.1).
            wait = AGAIN_TIME
        if wait is not None and not isinstance(outcome, Failure):
            asked.tell_to_wait(wait)
            return
        word = of_nobody(nobody.availability, outcome, self._why_no_token, context.dialect.retry_status)
        if isinstance(word, Refusal):
            asked.refuse(word)
            return
        aggregate = context.aggregates.aggregate_for(asked.caller)
        head, body = context.dialect.traffic.exhausted(asked.facts, word, aggregate, asked.id, now)
        asked.respond(head, body, "rate_limited", word)
