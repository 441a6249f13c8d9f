"""One client request, from its head to the last byte of its response (spec 4.1 points 4 to 9)."""

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
from ccmproxy.policy.answers import AnswerKind, Verdict
from ccmproxy.policy.balancing import NoCredential
from ccmproxy.policy.refusals import Refusal, of_body, of_failure, of_nobody
from ccmproxy.policy.retry import Failure, LeaseOutcome, Progress, Step, after_answer, after_failure
from ccmproxy.proxy.answering import Answering, is_event_stream
from ccmproxy.proxy.attempt import Attempt, ClientGone, Interrupted
from ccmproxy.proxy.caller import Caller
from ccmproxy.proxy.proxied_request import ProxiedRequest
from ccmproxy.state.availability import Availability

#: How long the first event of a stream is awaited if another credential could serve instead (seconds, F13).
FIRST_EVENT_TIME = 3.0
_FAILURES = {
    RequestNotSent: Failure.NOT_SENT,
    CarrierLost: Failure.CARRIER_LOST,
    ResponseLost: Failure.LOST,
    UpstreamTimeout: Failure.TIMED_OUT,
    UpstreamProtocolError: Failure.GARBLED,
}
#: Responses that concern the request alone and say nothing about the credential. If no other credential can serve, the
#: client gets the response unchanged.
_CONCERN_ONE_REQUEST = frozenset({AnswerKind.BUSY, AnswerKind.STREAM_FAILED, AnswerKind.REMOTE_BUSY})


class Exchange:
    """Answers one request. Created by the forwarder; kept in the registry until it is over.

    An exchange makes attempts until the response of one may be relayed. :mod:`ccmproxy.policy.retry` decides on the
    next step after each outcome, and ``answering`` delivers the response. There is no retry once the head of a response
    was sent to the client.
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
        #: Why there was no token for the request.
        self._no_token = ""
        #: Seconds spent on attempts whose request could not be sent.
        self._unreached = 0.0
        self._was_interrupted = False

    @property
    def caller(self) -> Caller:
        """The sender of the request."""
        return self._asked.caller

    @property
    def credential(self) -> str:
        """Tag of the current or last credential; empty if there was none yet."""
        return self._asked.credential

    def start(self) -> None:
        """Begin to receive the body; its arrival starts everything else."""
        registry = self._context.registry
        registry.begin(self)
        self._asked.on_concluded = partial(registry.end, self)
        request = self._asked.request
        request.on_gone(self._client_gone)
        request.receive_body(self._context.options.max_body, self._body_received, self._body_failed)

    def leave(self) -> None:
        """End soon if the exchange opened a WebSocket, because its credential or its caller was removed."""
        self._answering.leave()

    # The client's side

    def _client_gone(self) -> None:
        asked = self._asked
        asked.is_gone = True
        if self._attempt is not None:
            self._attempt.client_gone()
        elif not asked.tries:
            asked.conclude(499, "client_gone")
        # Otherwise the exchange waits for a token, and checks is_gone afterwards.

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
        """Try credentials until one serves the request, or none is left."""
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
                    # An interrupted credential was only rebalanced, or is usable again: try such credentials once more.
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
                # Keep the response: if no other credential can serve the request, the client gets it unchanged.
                held = (lease, head)
            elif head is not None:
                self._drop(lease, LeaseOutcome.REFUSED)
            if outcome is Failure.INTERRUPTED and not self._was_interrupted:
                self._was_interrupted = True
                interrupted.add(lease.tag)
            excluded.add(lease.tag)

    async def _use(self, lease: ILease, body: Body) -> tuple[Step, Failure | Verdict, ResponseHead | None]:
        """Make attempts on one credential, as long as a retry on it makes sense.

        Returns the next step, the outcome, and the head of a response or None. With a head, the lease is still open and
        the attempt holds the response; without a head, the lease is closed.
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
        """Make one attempt, and report to the lease what its response says about the credential.

        Returns the head of the response, and its classification. Raises UpstreamError, :class:`Interrupted` or
        :class:`ClientGone` when there is no response.
        """
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
        """Interrupt the attempt, except for rebalancing if no other credential is left to try."""
        if cause.reason == "rebalanced" and not self._asked.another_can(lease.tag):
            lease.on_interrupt(partial(self._interrupted, attempt, lease))
        else:
            attempt.interrupt(cause)

    async def _look_at_beginning(self, attempt: Attempt, response: ResponseHead, verdict: Verdict) -> Verdict:
        """Classify a stream by its first event, which may be an error that another credential would avoid (F13)."""
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
        """Deliver the response. From this point on there is no other one, even if this one breaks off."""
        assert self._attempt is not None
        self._answering.deliver(self._attempt, lease, response)

    def _nobody(self, availability: Availability, outcome: Failure | Verdict | None) -> None:
        """Answer a request for which no credential is left, by the last outcome or the provider's state (spec 4.2)."""
        asked, context = self._asked, self._context
        word = of_nobody(availability, outcome, self._no_token, context.dialect.retry_status)
        if isinstance(word, Refusal):
            asked.refuse(word)
            return
        aggregate = context.aggregates.aggregate_for(asked.caller)
        head, body = context.dialect.traffic.exhausted(asked.facts, word, aggregate, asked.id, context.now())
        asked.respond(head, body, "rate_limited")
