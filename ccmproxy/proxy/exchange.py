"""One client request, from its head to the last byte of its answer (spec 4.1 points 4 to 9)."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from ccmproxy.dialects.request_documents import NotQuick
from ccmproxy.http.message import Body
from ccmproxy.interfaces.credentials import ILease
from ccmproxy.policy.allowed_models import model_refusal
from ccmproxy.policy.answers import AnswerKind, Verdict
from ccmproxy.policy.balancing import NoCredential
from ccmproxy.policy.opinions import Ruling, most_sends
from ccmproxy.policy.refusals import Refusal, of_body, of_failure, of_nobody
from ccmproxy.policy.retry import Failure, LeaseOutcome, Step
from ccmproxy.policy.waits import LONGEST_SHORT_WAIT, told_wait
from ccmproxy.proxy.answer import Answer
from ccmproxy.proxy.answering import Answering
from ccmproxy.proxy.caller import Caller
from ccmproxy.proxy.hearing import RequestHearing
from ccmproxy.proxy.inspection import inspect_later
from ccmproxy.proxy.proxied_request import ProxiedRequest
from ccmproxy.proxy.tries import NoAnswer, Tries

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
        "_inspecting",
        "_lease",
        "_memory",
        "_most_sends",
        "_token_in",
        "_tries",
        "_unreached",
        "_why_no_token",
    )

    def __init__(self, asked: ProxiedRequest, answering: Answering) -> None:
        self._asked = asked
        self._answering = answering
        self._context = asked.context
        self._memory = asked.context.memory_of(asked.caller.name)
        #: What was said to the request since the first refusal; None: there was none.
        self._hearing: RequestHearing | None = None
        #: While a large body is looked into.
        self._inspecting: Deferred[None] | None = None
        self._tries: Tries | None = None
        self._lease: ILease | None = None
        self._most_sends = 1
        #: Why there was no token to send the request with.
        self._why_no_token = ""
        #: Seconds after which a credential without a token may have one again, None if there is none.
        self._token_in: float | None = None
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
        self._context.registry.begin(self)
        self._asked.on_concluded = self._concluded
        request = self._asked.request
        request.on_gone(self._client_gone)
        most = self._context.options.max_body
        request.receive_body(most, self._body_received, self._body_failed, self._memory.grow)

    def _concluded(self) -> None:
        self._forget_body()
        self._context.registry.end(self)

    def leave(self) -> None:
        """The credential or the caller of the request was removed."""
        self._answering.leave()

    # The client's side

    def _client_gone(self) -> None:
        asked = self._asked
        asked.is_gone = True
        if self._hearing is not None:
            self._hearing.drop_held(LeaseOutcome.CANCELLED)
        attempt = self._tries.attempt if self._tries is not None else None
        if attempt is not None:
            attempt.client_gone()
        elif not asked.tries:
            asked.conclude(499, "client_gone")
            if self._inspecting is not None:
                self._inspecting.cancel()
        # Otherwise the sequence waits for a token, and checks is_gone when it continues.

    def _body_failed(self, error: Exception) -> None:
        self._asked.refuse(of_body(error))

    def _body_received(self, body: Body) -> None:
        asked = self._asked
        if not self._answering.prepare(body):
            return
        try:
            asked.facts = self._context.dialect.traffic.inspect(
                asked.request.head, body, True, bool(asked.caller.models)
            )
        except NotQuick:
            self._inspecting = inspect_later(asked, body, self._inspected, self._crashed)
            return
        self._inspected(body)

    def _inspected(self, body: Body) -> None:
        asked, context = self._asked, self._context
        allowed = asked.caller.models
        refusal = model_refusal(allowed, asked.facts.models_asked) if allowed else None
        if refusal is not None:
            asked.refuse(refusal)
            return
        traffic = context.dialect.traffic
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
        if self._hearing is not None:
            self._hearing.drop_held(LeaseOutcome.BROKEN)
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
                wants_accounts = self._hearing is not None and self._hearing.wants_accounts
                lease = asked.caller.provider.select(asked.selection(wants_accounts))
            except NoCredential as nobody:
                if interrupted and nobody.availability.worth_trying and self._may_send():
                    # An interrupted credential was only rebalanced, or is usable again: try such credentials once more.
                    asked.excluded -= interrupted
                    interrupted.clear()
                    continue
                self._nobody(nobody, outcome)
                return
            self._lease = lease
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
            if result.token_in is not None:
                self._token_in = min(result.token_in, self._token_in or result.token_in)
            if result.step is Step.GIVE_UP:
                self._give_up(outcome)
                return
            if outcome is Failure.INTERRUPTED and not was_interrupted:
                was_interrupted = True
                interrupted.add(lease.tag)

    def _may_send(self) -> bool:
        """Whether the request may be sent once more, to whomever (spec 12.1)."""
        return self._asked.sends < self._most_sends

    def _hear(self, answer: Answer) -> bool:
        """A credential has answered. Whether the client has its answer now."""
        asked, kind = self._asked, answer.verdict.kind
        if kind is AnswerKind.OK and asked.facts.is_for_models:
            self._context.opinions.was_served(asked.combination.model)
        if self._hearing is None:
            if kind is AnswerKind.OK:
                # The usual case, in which there is nothing to find out.
                self._deliver(answer)
                return True
            self._hearing = RequestHearing(asked)
        match self._hearing.hear(answer):
            case Ruling.DELIVER:
                self._deliver(answer)
                return True
            case Ruling.FIRST:
                self._deliver_held(self._hearing)
                return True
            case Ruling.NEXT:
                return False

    # Answers

    def _deliver(self, answer: Answer) -> None:
        """The point of no return: from here on the answer is this one, whole or broken."""
        asked = self._asked
        if answer.verdict.kind is AnswerKind.OK:
            sent_at = self._context.unix_time(answer.sent_at)
            answer.lease.served(asked.combination, sent_at, asked.facts.billable)
        self._forget_body()
        self._answering.deliver(answer)

    def _forget_body(self) -> None:
        """The body is not sent again. The answer may take many times as long as it took to find one, and what remains
        of a request that failed may be a reference cycle, which stays until garbage is collected."""
        if self._tries is not None:
            self._tries.forget_body()
        self._memory.release()

    def _deliver_held(self, hearing: RequestHearing) -> None:
        """The client gets the first refusal, as it came (a 401: with another status)."""
        held = hearing.conclude()
        asked, context, verdict = self._asked, self._context, held.verdict
        asked.credential = held.lease.tag
        self._forget_body()
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

    def _left(self, result: Answer | NoAnswer) -> None:
        """The client is gone."""
        if isinstance(result, Answer):
            result.drop(LeaseOutcome.CANCELLED)
        self._asked.conclude(499, "client_gone")

    def _give_up(self, outcome: Failure | Verdict) -> None:
        """Nothing may be tried any more. An earlier refusal tells more than that an answer was lost."""
        if self._hearing is not None and self._hearing.held is not None:
            self._deliver_held(self._hearing)
        else:
            self._asked.refuse(of_failure(outcome))

    def _nobody(self, nobody: NoCredential, outcome: Failure | Verdict | None) -> None:
        """No credential is left: answer as the first refusal, the last outcome, or the provider's state demands."""
        asked, context = self._asked, self._context
        hearing = self._hearing
        if hearing is not None and (held := hearing.held) is not None:
            if (
                held.verdict.kind is not AnswerKind.REMOTE_UNAVAILABLE
                or nobody.availability.state != "rate_limited"
            ):
                self._deliver_held(hearing)
                return
            # Others serve again at a known time, which tells the client more.
            hearing.drop_held()
        now = context.now()
        wait = nobody.free_at - now if now < nobody.free_at <= now + LONGEST_SHORT_WAIT else None
        if not self._may_send() and nobody.availability.usable:
            # Others may well serve it, but one request is not sent to all accounts (spec 12.1).
            wait = AGAIN_TIME
        if wait is not None and not isinstance(outcome, Failure):
            asked.tell_to_wait(wait)
            return
        self._look_for_passing_causes(now)
        word = of_nobody(
            nobody.availability,
            outcome,
            self._why_no_token,
            context.dialect.retry_status,
            told_wait(self._token_in, context.random) if self._token_in is not None else None,
        )
        if isinstance(word, Refusal):
            asked.refuse(word)
            return
        aggregate = context.aggregates.aggregate_for(asked.caller)
        head, body = context.dialect.traffic.exhausted(asked.facts, word, aggregate, asked.id, now)
        asked.respond(head, body, "rate_limited", word)

    def _look_for_passing_causes(self, now: float) -> None:
        """Note that a credential which was not tried, as it has no token, may have one again soon (spec 12.4)."""
        caller, model = self._asked.caller, self._asked.facts.model
        for each in caller.provider.credentials(caller.allow_external):
            availability = each.snapshot(now, model).availability
            if availability.is_passing and self._token_in is None:
                self._token_in = availability.left(now)
                self._why_no_token = f"credential {each.tag} is unavailable: {availability.message}"
