"""One client request, from its head to the last byte of its answer (spec 4.1 point 4 to 9)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.oauth import Authorization
from ccmproxy.dialects.remote import remote_verdict
from ccmproxy.dialects.usage import MeterReading
from ccmproxy.http.failures import (
    CarrierLost,
    RequestNotSent,
    ResponseLost,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from ccmproxy.http.message import Body, Headers, RequestHead, ResponseHead, first_value, without
from ccmproxy.http.server.factory import ServerRequest
from ccmproxy.interfaces.credentials import CredentialUnavailable, ILease
from ccmproxy.policy.balancing import NoCredential, Selection
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
from ccmproxy.proxy.attempt import Attempt, ClientGone, Interrupted, RelayEnd
from ccmproxy.state.availability import Availability

if TYPE_CHECKING:
    from ccmproxy.proxy.forwarder import Caller, Forwarder

#: So long a stream's first event is waited for where another credential could answer instead (seconds, F13).
FIRST_EVENT_TIME = 3.0
#: As much of a path goes into the log (bytes).
LOGGED_PATH = 200
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
_LEASE_OUTCOMES = {
    RelayEnd.WHOLE: LeaseOutcome.SERVED,
    RelayEnd.BROKEN: LeaseOutcome.BROKEN,
    RelayEnd.CLIENT_GONE: LeaseOutcome.CANCELLED,
}


class Exchange:
    """Answers one request. Created by the forwarder, which knows it until it is over.

    A sequence of attempts until one may be relayed: what follows from each outcome is decided in
    :mod:`ccmproxy.policy.retry`. Nothing is tried any more once the answer's head went to the client.
    """

    log = Logger()

    __slots__ = (
        "_attempt",
        "_began",
        "_caller",
        "_credential",
        "_excluded",
        "_facts",
        "_first_byte",
        "_forwarder",
        "_gone",
        "_lease",
        "_no_token",
        "_over",
        "_request",
        "_request_id",
        "_tries",
        "_unreached",
        "_was_interrupted",
    )

    def __init__(self, forwarder: Forwarder, request: ServerRequest, caller: Caller, request_id: str) -> None:
        self._forwarder = forwarder
        self._request = request
        self._caller = caller
        self._request_id = request_id
        self._facts = RequestFacts()
        self._attempt: Attempt | None = None
        self._lease: ILease | None = None
        self._began = forwarder.clock.seconds()
        self._first_byte = 0.0
        self._credential = ""
        #: Tags of the credentials that cannot serve this request, or did not.
        self._excluded: set[str] = set()
        #: Why there was no token to send the request with.
        self._no_token = ""
        self._tries = 0
        #: Seconds that attempts took which could not be sent.
        self._unreached = 0.0
        self._gone = False
        self._was_interrupted = False
        self._over = False

    def start(self) -> None:
        """Ask for the body; everything else follows from its arrival."""
        self._request.on_gone(self._client_gone)
        self._request.receive_body(self._forwarder.options.max_body, self._body_received, self._body_failed)

    @property
    def caller(self) -> Caller:
        """Who asks."""
        return self._caller

    @property
    def credential(self) -> str:
        """Tag of the credential that it is on, or was last; empty: none yet."""
        return self._credential

    def leave(self) -> None:
        """Its credential or its caller was taken away. A request ends as it began."""

    # The client's side ----------------------------------------------------------------------------------------

    def _client_gone(self) -> None:
        self._gone = True
        if self._attempt is not None:
            self._attempt.client_gone()
        elif not self._tries:
            self._finished(499, "client_gone")
        # Otherwise a token is being waited for; the sequence looks at _gone when it goes on.

    def _body_failed(self, error: Exception) -> None:
        self._refuse(of_body(error))

    def _body_received(self, body: Body) -> None:
        traffic = self._forwarder.dialect.traffic
        self._facts = traffic.inspect(self._request.head, body)
        provider = self._caller.provider
        credentials = provider.credentials(self._caller.allow_external)
        # What a remote instance has is for that one to say.
        has_api_key = any(credential.is_api_key or credential.is_external for credential in credentials)
        refusal = traffic.check(self._facts, provider.is_single_account, has_api_key)
        if refusal is not None:
            self._refuse(Refusal(400, *refusal))
            return
        self._forwarder.poll_stale(provider, credentials)
        Deferred.fromCoroutine(self._serve(body)).addErrback(self._crashed)

    def _crashed(self, failure: TwistedFailure) -> None:
        """A defect of ours: logged with its traceback, answered if that is still possible."""
        self.log.failure(
            "request {request_id} failed in ccmproxy itself", failure, request_id=self._request_id
        )
        if self._attempt is not None:
            self._attempt.discard()
            self._forwarder.relay_ended(self._attempt)
        if self._lease is not None:
            self._lease.close(LeaseOutcome.BROKEN)
        if self._over:
            return
        if self._first_byte:
            self._request.abort()
            self._finished(500, "internal_error")
        else:
            self._refuse(Refusal(500, "internal_error", "internal error in ccmproxy"))

    # Attempts ---------------------------------------------------------------------------------------------------

    async def _serve(self, body: Body) -> None:
        """Try credentials until one answers, or none is left."""
        excluded = self._excluded = self._unfit()
        outcome: Failure | Verdict | None = None
        held: tuple[ILease, ResponseHead] | None = None
        interrupted: set[str] = set()
        while True:
            try:
                lease = self._caller.provider.select(self._selection())
            except NoCredential as refusal:
                if interrupted and refusal.availability.worth_trying:
                    # Rebalanced away from one that could have served, or usable again: once more, not for ever.
                    excluded -= interrupted
                    interrupted.clear()
                    if outcome is Failure.INTERRUPTED:
                        outcome = None
                    continue
                if held is not None:
                    self._relay(held[0], held[1])
                else:
                    self._nobody(refusal, outcome)
                return
            if held is not None:
                self._drop(held[0], LeaseOutcome.REFUSED)
                held = None
            self._lease = lease
            step, outcome, head = await self._use(lease, body)
            if self._gone:
                if head is not None:
                    self._drop(lease, LeaseOutcome.CANCELLED)
                self._finished(499, "client_gone")
                return
            if step is Step.RELAY and head is not None:
                self._relay(lease, head)
                return
            if step is Step.GIVE_UP:
                self._refuse(of_failure(outcome))
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

    def _selection(self) -> Selection:
        facts = self._facts
        return Selection(
            session=facts.session,
            model=facts.model,
            allow_external=self._caller.allow_external,
            excluded=frozenset(self._excluded),
            user=self._caller.name,
            agent=facts.agent,
        )

    def _another_can(self, tag: str) -> bool:
        """Is there a credential besides ``tag`` that could serve this request?"""
        return self._caller.can_be_served(self._forwarder.now(), self._facts.model, {tag, *self._excluded})

    def _unfit(self) -> set[str]:
        """Tags of the credentials that cannot serve such a request at all."""
        return set()

    async def _use(self, lease: ILease, body: Body) -> tuple[Step, Failure | Verdict, ResponseHead | None]:
        """Try on one credential, repeated as far as that makes sense.

        With a head, the lease is still open and the attempt holds the answer; without, the lease is closed.
        """
        progress = Progress()
        rejected: Authorization | None = None
        self._credential = lease.tag
        while True:
            self._tries += 1
            try:
                authorization = await (lease.recover(rejected) if rejected else lease.authorize())
            except CredentialUnavailable as error:
                self.log.info(
                    "request {request_id}: no token of {credential}: {error}",
                    request_id=self._request_id,
                    credential=lease.tag,
                    error=str(error),
                )
                lease.close(LeaseOutcome.REFUSED)
                step = after_failure(Failure.NO_TOKEN, progress)
                if rejected is not None:
                    return step, Verdict(AnswerKind.AUTH_FAILED), None
                self._no_token = f"credential {lease.tag} is unavailable: {error}"
                return step, Failure.NO_TOKEN, None
            if self._gone:
                lease.close(LeaseOutcome.CANCELLED)
                return Step.GIVE_UP, Failure.LOST, None
            tried = self._forwarder.clock.seconds()
            try:
                head, verdict = await self._try(lease, authorization, body)
            except ClientGone:
                lease.close(LeaseOutcome.CANCELLED)
                return Step.GIVE_UP, Failure.LOST, None
            except Interrupted as interruption:
                self.log.info(
                    "request {request_id} interrupted on {credential}: {why}",
                    request_id=self._request_id,
                    credential=lease.tag,
                    why=str(interruption),
                )
                lease.close(LeaseOutcome.INTERRUPTED)
                return after_failure(Failure.INTERRUPTED, progress), Failure.INTERRUPTED, None
            except UpstreamError as error:
                failure = _FAILURES[type(error)]
                if failure is Failure.NOT_SENT:
                    self._unreached += self._forwarder.clock.seconds() - tried
                step = after_failure(failure, progress, self._unreached)
                self.log.info(
                    "request {request_id} on {credential}: {error}",
                    request_id=self._request_id,
                    credential=lease.tag,
                    error=str(error),
                )
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

    async def _try(
        self, lease: ILease, authorization: Authorization, body: Body
    ) -> tuple[ResponseHead, Verdict]:
        """One attempt: the head of its answer, and what it means for the credential, which learns of it here."""
        forwarder = self._forwarder
        dialect = forwarder.dialect
        head = dialect.traffic.upstream_head(
            self._request.head,
            authorization,
            lease.host,
            lease.base_path,
            forwarder.options.overrides or {},
            forwarder.is_bound(self._request.head, self._facts.session, lease.tag),
        )
        attempt = self._attempt = Attempt(forwarder.clock)
        lease.on_interrupt(partial(self._interrupted, attempt, lease))
        self._send(attempt, lease, head, body)
        try:
            response = await attempt.answered
        finally:
            lease.on_interrupt(None)
        now = forwarder.now()
        verdict = dialect.traffic.classify(response, None, now)
        if verdict.kind is AnswerKind.NEEDS_BODY:
            verdict = dialect.traffic.classify(response, await attempt.collect(), now)
        elif verdict.kind is AnswerKind.OK and self._facts.billable and _is_event_stream(response):
            if self._another_can(lease.tag):
                verdict = await self._look_at_beginning(attempt, response, verdict)
        if lease.is_external:
            verdict = remote_verdict(response, verdict)
        forwarder.bind(response, self._facts.session, lease.tag)
        lease.observe(dialect.metering.limits_from_headers(response.headers, now))
        if verdict.kind is AnswerKind.RATE_LIMITED:
            lease.rate_limited(verdict.until, verdict.explicit)
        elif verdict.kind is AnswerKind.REMOTE_REJECTED:
            lease.reject()
        elif verdict.kind is AnswerKind.CLIENT_ERROR:
            lease.poll_if_stale()
        return response, verdict

    def _interrupted(self, attempt: Attempt, lease: ILease, cause: Availability) -> None:
        """Rebalancing is no reason to leave where every other one was tried already."""
        if cause.reason == "rebalanced" and not self._another_can(lease.tag):
            lease.on_interrupt(partial(self._interrupted, attempt, lease))
        else:
            attempt.interrupt(cause)

    async def _look_at_beginning(self, attempt: Attempt, response: ResponseHead, verdict: Verdict) -> Verdict:
        """A stream may begin with the news that nothing will come, which another credential may do better (F13)."""
        forwarder = self._forwarder
        classify = forwarder.dialect.traffic.classify_stream

        def enough(data: bytes) -> bool:
            return classify(response, data, forwarder.now()) is not None

        data = await attempt.collect(enough, FIRST_EVENT_TIME)
        return classify(response, data, forwarder.now()) or verdict

    def _send(self, attempt: Attempt, lease: ILease, head: RequestHead, body: Body) -> None:
        attempt.send(lease.connections(), head, body.chunks)

    def _drop(self, lease: ILease, outcome: LeaseOutcome) -> None:
        if self._attempt is not None:
            self._attempt.discard()
        lease.close(outcome)

    # Answers ----------------------------------------------------------------------------------------------------

    def _relay(self, lease: ILease, response: ResponseHead) -> None:
        """The point of no return: from here on the answer is this one, whole or broken."""
        forwarder, attempt = self._forwarder, self._attempt
        assert attempt is not None
        dialect = forwarder.dialect
        self._first_byte = forwarder.clock.seconds()
        # Not on errors: the CLI reads any rate-limit header there as the error's cause (observed).
        aggregate = forwarder.aggregate_for(self._caller) if response.status < 400 else None
        headers: Headers = dialect.metering.public_headers(response.headers, aggregate, forwarder.now())
        # A remote instance may have set these two itself; here they are about this request.
        headers = without(headers, (dialect.request_id_header.lower(), b"x-accel-buffering"))
        headers.append((dialect.request_id_header, self._request_id.encode("ascii")))
        if _is_event_stream(response):
            # nginx in front would otherwise gather events until a buffer is full (F17).
            headers.append((b"X-Accel-Buffering", b"no"))
        meter = dialect.metering.meter(self._facts, response)
        rewriter = dialect.metering.rewriter(
            response, lease.observe, lambda: forwarder.aggregate_for(self._caller), forwarder.now
        )
        if rewriter is not None:
            headers = without(headers, (b"content-length",))
        forwarder.relay_began(attempt)

        def ended(end: RelayEnd) -> None:
            forwarder.relay_ended(attempt)
            reading = meter.reading()
            if end is RelayEnd.CLIENT_GONE and reading.complete:
                end = RelayEnd.WHOLE
            lease.close(_LEASE_OUTCOMES[end])
            self._finished(response.status, self._result(end, response, reading), reading)

        head = ResponseHead(response.status, response.reason, headers)
        attempt.relay(self._request, head, meter, ended, rewriter)

    def _result(self, end: RelayEnd, response: ResponseHead, reading: MeterReading) -> str:
        """One word for the log: was the answer whole, and what did it say of itself (F13, F20, F22)?"""
        if end is RelayEnd.CLIENT_GONE:
            return "incomplete"
        if end is RelayEnd.BROKEN:
            return "truncated"
        if reading.error or response.status >= 400:
            return "failed"
        # Neither a message nor a stream of one: whatever answered, it may not have been the provider.
        return "served" if reading.reported or not self._facts.billable else "unrecognised"

    def _nobody(self, unavailable: NoCredential, outcome: Failure | Verdict | None) -> None:
        """No credential is left: say it as the last outcome, or the provider's state, asks for (spec 4.2)."""
        forwarder = self._forwarder
        word = of_nobody(unavailable.availability, outcome, self._no_token, forwarder.dialect.retry_status)
        if isinstance(word, Refusal):
            self._refuse(word)
            return
        head, body = forwarder.dialect.traffic.exhausted(
            self._facts, word, forwarder.aggregate_for(self._caller), self._request_id, forwarder.now()
        )
        self._respond(head, body, "rate_limited")

    def _refuse(self, refusal: Refusal, extra: Headers | None = None) -> None:
        """An error of our own."""
        fields = list(extra or ())
        if refusal.retry_after is not None:
            fields.append((b"Retry-After", b"%d" % refusal.retry_after))
        head, body = self._forwarder.dialect.traffic.error(
            refusal.status, refusal.reason, refusal.message, self._request_id, fields
        )
        self._respond(head, body, refusal.reason)

    def _respond(self, head: ResponseHead, body: bytes, reason: str) -> None:
        if not self._gone:
            self._request.respond(head, body)
        self._finished(head.status, reason)

    def _finished(self, status: int, result: str, reading: MeterReading | None = None) -> None:
        """Once per exchange: forget it, and log what became of it."""
        if self._over:
            return
        self._over = True
        self._request.on_gone(None)
        forwarder = self._forwarder
        forwarder.finished(self, self._caller)
        now = forwarder.clock.seconds()
        tokens = reading.tokens if reading is not None and reading.reported else None
        self.log.info(
            "{request_id} {user} {method} {path} -> {status} {result} by {credential} in {duration:.3f} s"
            " (model {model}, session {session}, {tries} tries, tokens {tokens})",
            request_id=self._request_id,
            user=self._caller.name or "-",
            method=self._request.head.method.decode("latin-1"),
            path=self._request.head.path[:LOGGED_PATH].decode("latin-1"),
            status=status,
            result=result,
            credential=self._credential or "-",
            model=(reading.model if reading is not None else None) or self._facts.model or "-",
            session=self._facts.session or "-",
            duration=now - self._began,
            first_byte=self._first_byte - self._began if self._first_byte else None,
            tries=self._tries,
            tokens=tokens,
        )


def _is_event_stream(head: ResponseHead) -> bool:
    content_type = first_value(head.headers, b"content-type") or b""
    return content_type.lstrip().lower().startswith(b"text/event-stream")
