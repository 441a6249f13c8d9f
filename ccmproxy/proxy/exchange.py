"""One client request, from its head to the last byte of its answer (spec 4.1 points 4 to 9)."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from ccmproxy.dialects.oauth import Authorization
from ccmproxy.dialects.remote import remote_verdict
from ccmproxy.http.failures import (
    CarrierLost,
    RequestNotSent,
    ResponseLost,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from ccmproxy.http.message import Body, ResponseHead
from ccmproxy.interfaces.credentials import CredentialUnavailable, ILease
from ccmproxy.policy.balancing import NoCredential
from ccmproxy.policy.refusals import Refusal, of_body, of_failure, of_nobody
from ccmproxy.policy.retry import (
    AnswerKind,
    Failure,
    LeaseOutcome,
    Progress,
    Step,
    Verdict,
    after_answer,
    after_failure,
)
from ccmproxy.proxy.answering import Answering, is_event_stream
from ccmproxy.proxy.attempt import Attempt, ClientGone, Interrupted
from ccmproxy.proxy.caller import Caller
from ccmproxy.proxy.proxied_request import ProxiedRequest
from ccmproxy.state.availability import Availability

#: So long a stream's first event is waited for where another credential could answer instead (seconds, F13).
FIRST_EVENT_TIME = 3.0
_FAILURES = {
    RequestNotSent: Failure.NOT_SENT,
    CarrierLost: Failure.CARRIER_LOST,
    ResponseLost: Failure.LOST,
    UpstreamTimeout: Failure.TIMED_OUT,
    UpstreamProtocolError: Failure.GARBLED,
}
#: Answers that say nothing of the credential: if nobody else can serve, the client should see them as they came.
_CONCERN_ONE_REQUEST = frozenset(
    {AnswerKind.REQUEST_RATE_LIMITED, AnswerKind.STREAM_FAILED, AnswerKind.REMOTE_BUSY}
)


class Exchange:
    """Answers one request. Created by the forwarder; the registry knows it until it is over.

    A sequence of attempts until one may be relayed: what follows from each outcome is decided in
    :mod:`ccmproxy.policy.retry`, and what becomes of the answer that is relayed, by ``answering``. Nothing is tried any
    more once the answer's head went to the client.
    """

    log = Logger()

    __slots__ = (
        "_answering",
        "_asked",
        "_attempt",
        "_context",
        "_lease",
        "_no_token",
        "_unreached",
        "_was_interrupted",
    )

    def __init__(self, asked: ProxiedRequest, answering: Answering) -> None:
        self._asked = asked
        self._answering = answering
        self._context = asked.context
        self._attempt: Attempt | None = None
        self._lease: ILease | None = None
        #: Why there was no token to send the request with.
        self._no_token = ""
        #: Seconds that attempts took which could not be sent.
        self._unreached = 0.0
        self._was_interrupted = False

    @property
    def caller(self) -> Caller:
        """Who asks."""
        return self._asked.caller

    @property
    def credential(self) -> str:
        """Tag of the credential that it is on, or was last; empty: none yet."""
        return self._asked.credential

    def start(self) -> None:
        """Ask for the body; everything else follows from its arrival."""
        registry = self._context.registry
        registry.begin(self)
        self._asked.on_concluded = partial(registry.end, self)
        request = self._asked.request
        request.on_gone(self._client_gone)
        request.receive_body(self._context.options.max_body, self._body_received, self._body_failed)

    def leave(self) -> None:
        """Its credential or its caller was taken away."""
        self._answering.leave()

    # The client's side

    def _client_gone(self) -> None:
        asked = self._asked
        asked.is_gone = True
        if self._attempt is not None:
            self._attempt.client_gone()
        elif not asked.tries:
            asked.conclude(499, "client_gone")
        # Otherwise a token is being waited for; the sequence looks at is_gone when it goes on.

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
        # What a remote instance has is for that one to say.
        has_api_key = any(credential.is_api_key or credential.is_external for credential in credentials)
        problem = traffic.check(asked.facts, provider.is_single_account, has_api_key)
        if problem is not None:
            asked.refuse(Refusal(400, *problem))
            return
        context.polls.poll_stale(provider, credentials)
        Deferred.fromCoroutine(self._serve(body)).addErrback(self._crashed)

    def _crashed(self, failure: TwistedFailure) -> None:
        """A defect of ours: logged with its traceback, answered if that is still possible."""
        asked = self._asked
        self.log.failure("request {request_id} failed in ccmproxy itself", failure, request_id=asked.id)
        self._answering.abort()
        if self._attempt is not None:
            self._attempt.discard()
            self._context.registry.streams.discard(self._attempt)
        if self._lease is not None:
            self._lease.close(LeaseOutcome.BROKEN)
        if asked.is_over:
            return
        if asked.has_begun:
            asked.request.abort()
            asked.conclude(500, "internal_error")
        else:
            asked.refuse(Refusal(500, "internal_error", "internal error in ccmproxy"))

    # Attempts

    async def _serve(self, body: Body) -> None:
        """Try credentials until one answers, or none is left."""
        asked = self._asked
        excluded = asked.excluded = self._answering.unfit()
        outcome: Failure | Verdict | None = None
        held: tuple[ILease, ResponseHead] | None = None
        interrupted: set[str] = set()
        while True:
            try:
                lease = asked.caller.provider.select(asked.selection())
            except NoCredential as nobody:
                if interrupted and nobody.availability.worth_trying:
                    # Rebalanced away from one that could have served, or usable again: once more, not for ever.
                    excluded -= interrupted
                    interrupted.clear()
                    if outcome is Failure.INTERRUPTED:
                        outcome = None
                    continue
                if held is not None:
                    self._deliver(*held)
                else:
                    self._nobody(nobody.availability, outcome)
                return
            if held is not None:
                self._drop(held[0], LeaseOutcome.REFUSED)
                held = None
            self._lease = lease
            step, outcome, head = await self._use(lease, body)
            if asked.is_gone:
                if head is not None:
                    self._drop(lease, LeaseOutcome.CANCELLED)
                asked.conclude(499, "client_gone")
                return
            if step is Step.RELAY and head is not None:
                self._deliver(lease, head)
                return
            if step is Step.GIVE_UP:
                asked.refuse(of_failure(outcome))
                return
            if head is not None and isinstance(outcome, Verdict) and outcome.kind in _CONCERN_ONE_REQUEST:
                # Concerns this request alone: if nobody else can serve it, the client should see it as it came.
                held = (lease, head)
            elif head is not None:
                self._drop(lease, LeaseOutcome.REFUSED)
            if outcome is Failure.INTERRUPTED and not self._was_interrupted:
                self._was_interrupted = True
                interrupted.add(lease.tag)
            excluded.add(lease.tag)

    async def _use(self, lease: ILease, body: Body) -> tuple[Step, Failure | Verdict, ResponseHead | None]:
        """Try on one credential, repeated as far as that makes sense.

        With a head, the lease is still open and the attempt holds the answer; without, the lease is closed.
        """
        asked, clock = self._asked, self._context.clock
        progress = Progress()
        rejected: Authorization | None = None
        asked.credential = lease.tag
        while True:
            asked.tries += 1
            try:
                authorization = await (lease.recover(rejected) if rejected else lease.authorize())
            except CredentialUnavailable as error:
                self._log_failure("no token", lease, error)
                lease.close(LeaseOutcome.REFUSED)
                step = after_failure(Failure.NO_TOKEN, progress)
                if rejected is not None:
                    return step, Verdict(AnswerKind.AUTH_FAILED), None
                self._no_token = f"credential {lease.tag} is unavailable: {error}"
                return step, Failure.NO_TOKEN, None
            if asked.is_gone:
                lease.close(LeaseOutcome.CANCELLED)
                return Step.GIVE_UP, Failure.LOST, None
            tried = clock.seconds()
            try:
                head, verdict = await self._try(lease, authorization, body)
            except ClientGone:
                lease.close(LeaseOutcome.CANCELLED)
                return Step.GIVE_UP, Failure.LOST, None
            except Interrupted as interruption:
                self._log_failure("interrupted", lease, interruption)
                lease.close(LeaseOutcome.INTERRUPTED)
                return after_failure(Failure.INTERRUPTED, progress), Failure.INTERRUPTED, None
            except UpstreamError as error:
                failure = _FAILURES[type(error)]
                if failure is Failure.NOT_SENT:
                    self._unreached += clock.seconds() - tried
                step = after_failure(failure, progress, self._unreached)
                self._log_failure("no answer", lease, error)
                if step is Step.AGAIN:
                    progress.reconnected = True
                    continue
                lease.close(LeaseOutcome.UNREACHABLE)
                return step, failure, None
            step = after_answer(verdict.kind, progress)
            if step is not Step.RECOVER:
                return step, verdict, head
            progress.recovered = True
            rejected = authorization
            if self._attempt is not None:
                self._attempt.discard()

    def _log_failure(self, what: str, lease: ILease, error: Exception) -> None:
        self.log.info(
            "request {request_id} on {credential}: {what}: {error}",
            request_id=self._asked.id,
            credential=lease.tag,
            what=what,
            error=str(error),
        )

    async def _try(
        self, lease: ILease, authorization: Authorization, body: Body
    ) -> tuple[ResponseHead, Verdict]:
        """One attempt: the head of its answer, and what it means for the credential, which learns of it here."""
        asked, context = self._asked, self._context
        dialect, session = context.dialect, asked.facts.session
        request_head = asked.request.head
        head = dialect.traffic.upstream_head(
            request_head,
            authorization,
            lease.host,
            lease.base_path,
            context.options.overrides,
            context.bound_values.is_bound(request_head.headers, session, lease.tag),
        )
        attempt = self._attempt = Attempt(context.clock)
        lease.on_interrupt(partial(self._interrupted, attempt, lease))
        self._answering.send(attempt, lease, head, body)
        try:
            response = await attempt.answered
        finally:
            lease.on_interrupt(None)
        now = context.now()
        verdict = dialect.traffic.classify(response, None, now)
        if verdict.kind is AnswerKind.NEEDS_BODY:
            verdict = dialect.traffic.classify(response, await attempt.collect(), now)
        elif verdict.kind is AnswerKind.OK and asked.facts.billable and is_event_stream(response):
            if asked.another_can(lease.tag):
                verdict = await self._look_at_beginning(attempt, response, verdict)
        if lease.is_external:
            verdict = remote_verdict(response, verdict)
        context.bound_values.bind(response.headers, session, lease.tag)
        lease.observe(dialect.metering.limits_from_headers(response.headers, now))
        if verdict.kind is AnswerKind.RATE_LIMITED:
            lease.rate_limited(verdict.until, verdict.explicit)
        elif verdict.kind is AnswerKind.REMOTE_REJECTED:
            lease.reject()
        elif verdict.kind is AnswerKind.CLIENT_ERROR:
            lease.poll_if_stale()
        try:
            self._answering.judge(response)
        except UpstreamProtocolError:
            attempt.discard()
            raise
        return response, verdict

    def _interrupted(self, attempt: Attempt, lease: ILease, cause: Availability) -> None:
        """Rebalancing is no reason to leave where every other one was tried already."""
        if cause.reason == "rebalanced" and not self._asked.another_can(lease.tag):
            lease.on_interrupt(partial(self._interrupted, attempt, lease))
        else:
            attempt.interrupt(cause)

    async def _look_at_beginning(self, attempt: Attempt, response: ResponseHead, verdict: Verdict) -> Verdict:
        """A stream may begin with the news that nothing will come, which another credential may do better (F13)."""
        now = self._context.now
        classify = self._context.dialect.traffic.classify_stream

        def enough(data: bytes) -> bool:
            return classify(response, data, now()) is not None

        data = await attempt.collect(enough, FIRST_EVENT_TIME)
        return classify(response, data, now()) or verdict

    def _drop(self, lease: ILease, outcome: LeaseOutcome) -> None:
        if self._attempt is not None:
            self._attempt.discard()
        lease.close(outcome)

    # Answers

    def _deliver(self, lease: ILease, response: ResponseHead) -> None:
        """The point of no return: from here on the answer is this one, whole or broken."""
        assert self._attempt is not None
        self._answering.deliver(self._attempt, lease, response)

    def _nobody(self, availability: Availability, outcome: Failure | Verdict | None) -> None:
        """No credential is left: say it as the last outcome, or the provider's state, asks for (spec 4.2)."""
        asked, context = self._asked, self._context
        word = of_nobody(availability, outcome, self._no_token, context.dialect.retry_status)
        if isinstance(word, Refusal):
            asked.refuse(word)
            return
        aggregate = context.aggregates.aggregate_for(asked.caller)
        head, body = context.dialect.traffic.exhausted(asked.facts, word, aggregate, asked.id, context.now())
        asked.respond(head, body, "rate_limited")
