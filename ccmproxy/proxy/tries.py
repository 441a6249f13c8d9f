"""The tries of one request on one credential: a token, a send, an answer, and what may be repeated (spec 3.4, 4.4)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from twisted.logger import Logger

from ccmproxy.dialects.known_words import echo_of
from ccmproxy.dialects.oauth import Authorization
from ccmproxy.dialects.remote import is_ccmproxys, remote_verdict
from ccmproxy.http.failures import (
    CarrierLost,
    RequestNotSent,
    ResponseLost,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from ccmproxy.http.message import Body, ResponseHead
from ccmproxy.interfaces.credentials import CredentialUnavailable, ILease, RefreshNotForced
from ccmproxy.policy.answers import AnswerKind, Verdict
from ccmproxy.policy.retry import (
    Failure,
    LeaseOutcome,
    Progress,
    Step,
    after_answer,
    after_failure,
    failure_of_loss,
)
from ccmproxy.proxy.answer import Answer
from ccmproxy.proxy.answering import Answering, is_event_stream
from ccmproxy.proxy.attempt import Attempt, ClientGone, Interrupted
from ccmproxy.proxy.learning import learn_limits
from ccmproxy.proxy.proxied_request import ProxiedRequest
from ccmproxy.state.availability import Availability
from ccmproxy.state.inputs import RemoteUnavailable, SocketsRest

#: So long a stream's first event is waited for where another credential could answer instead (seconds, F13).
FIRST_EVENT_TIME = 3.0
#: For so long no new WebSocket is opened where the upstream has none to give (seconds, spec 12.2).
SOCKETS_REST = 60.0
_FAILURES = {
    RequestNotSent: Failure.NOT_SENT,
    CarrierLost: Failure.CARRIER_LOST,
    UpstreamTimeout: Failure.TIMED_OUT,
    UpstreamProtocolError: Failure.GARBLED,
}


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """How the tries ended without an answer. ``why_no_token``: a sentence; ``token_in``: seconds after which there may
    be a token, None if nothing is tried until then. The lease is closed."""

    step: Step
    outcome: Failure | Verdict
    why_no_token: str = ""
    token_in: float | None = None


class Tries:
    """Tries a request on one credential, again as far as that makes sense. ``attempt``: the one in progress.

    ``unreached``: seconds that attempts of the request have taken that could not be sent, on any credential.
    """

    log = Logger()

    __slots__ = ("_answering", "_asked", "_body", "_context", "_lease", "_may_send", "attempt", "unreached")

    def __init__(
        self,
        asked: ProxiedRequest,
        answering: Answering,
        body: Body,
        lease: ILease,
        unreached: float,
        may_send: Callable[[], bool],
    ) -> None:
        """``may_send``: whether the request may be sent once more at all (spec 12.1)."""
        self._asked = asked
        self._answering = answering
        self._body = body
        self._lease = lease
        self._context = asked.context
        self._may_send = may_send
        self.attempt: Attempt | None = None
        self.unreached = unreached

    def forget_body(self) -> None:
        """Nothing is tried any more: drop the request's body."""
        self._body = Body([])

    async def run(self) -> Answer | NoAnswer:
        """Try until there is an answer, or there can be none."""
        asked, clock = self._asked, self._context.clock
        progress = Progress(repeated=asked.is_repeated)
        refused: Answer | None = None
        while True:
            asked.tries += 1
            try:
                authorization = await self._authorize(refused)
            except RefreshNotForced:
                assert refused is not None
                return await self._judge_refused_login(refused)
            except CredentialUnavailable as error:
                return self._no_token(error, progress, refused)
            if refused is not None:
                refused.attempt.discard()
                refused = None
            if asked.is_gone:
                return self._end(Step.GIVE_UP, Failure.LOST, LeaseOutcome.CANCELLED)
            tried = clock.seconds()
            try:
                answer = await self._try(authorization)
            except ClientGone:
                return self._end(Step.GIVE_UP, Failure.LOST, LeaseOutcome.CANCELLED)
            except Interrupted as interruption:
                self._log("interrupted", interruption)
                step = after_failure(Failure.INTERRUPTED, progress)
                return self._end(step, Failure.INTERRUPTED, LeaseOutcome.INTERRUPTED)
            except UpstreamError as error:
                failure = _failure(error)
                if failure is Failure.NOT_SENT:
                    self.unreached += clock.seconds() - tried
                step = after_failure(failure, progress, self.unreached)
                self._log("no answer", error)
                if failure is Failure.STALE:
                    progress.repeated = asked.is_repeated = True
                if step is Step.AGAIN and self._may_send():
                    progress.reconnected = progress.reconnected or failure is not Failure.STALE
                    continue
                return self._end(Step.NEXT if step is Step.AGAIN else step, failure, LeaseOutcome.UNREACHABLE)
            if answer.verdict.kind is not AnswerKind.AUTH_FAILED or asked.is_gone:
                return answer
            step = after_answer(answer.verdict.kind, progress)
            if step is not Step.RECOVER or not self._may_refresh(answer) or not self._may_send():
                return await self._judge_refused_login(answer)
            progress.recovered = True
            refused = answer

    def _authorize(self, refused: Answer | None) -> Coroutine[Any, Any, Authorization]:
        """Return what to send the request with: another token than that of the answer that refused it."""
        if refused is None:
            return self._lease.authorize()
        return self._lease.recover(refused.authorization, self._asked.caller.name)

    # Refused logins (spec 12.3)

    def _may_refresh(self, answer: Answer) -> bool:
        """Whether a 401 is worth a refresh: not for what is known to be refused whatever the token, nor for paths of
        which nothing is known."""
        head = self._asked.request.head
        if self._lease.is_about_request(answer.authorization, head.method, head.path):
            return False
        return self._is_known_path()

    def _is_known_path(self) -> bool:
        path = self._asked.request.head.path.rstrip(b"/")
        return self._asked.facts.is_for_models or path.endswith((b"/count_tokens", b"/models"))

    async def _judge_refused_login(self, answer: Answer) -> Answer | NoAnswer:
        """A 401 that a refresh did not mend, or was not worth one: the request's, or the login's?

        At a path of which nothing is known it is the login's only if the usage endpoint refuses the login too: one odd
        request says nothing against it.
        """
        lease, asked = self._lease, self._asked
        if not answer.verdict.is_revoked:
            is_good = await lease.prove(answer.authorization)
            if is_good or (is_good is None and not self._is_known_path()):
                return answer
        if asked.is_gone:
            answer.drop(LeaseOutcome.CANCELLED)
            return NoAnswer(Step.GIVE_UP, Failure.LOST)
        lease.login_refused(answer.authorization, answer.verdict.sentence)
        answer.drop(LeaseOutcome.REFUSED)
        return NoAnswer(Step.NEXT, answer.verdict)

    def _no_token(self, error: CredentialUnavailable, progress: Progress, refused: Answer | None) -> NoAnswer:
        self._log("no token", error)
        step = after_failure(Failure.NO_TOKEN, progress)
        if refused is not None:
            refused.drop(LeaseOutcome.REFUSED)
            if error.retry_in is None:
                return NoAnswer(step, refused.verdict)
        else:
            self._lease.close(LeaseOutcome.REFUSED)
        why = f"credential {self._lease.tag} is unavailable: {error}"
        return NoAnswer(step, Failure.NO_TOKEN, why, error.retry_in)

    def _end(self, step: Step, outcome: Failure, lease_outcome: LeaseOutcome) -> NoAnswer:
        self._lease.close(lease_outcome)
        return NoAnswer(step, outcome)

    def _log(self, what: str, error: Exception) -> None:
        self.log.info(
            "request {request_id} on {credential}: {what}: {error}",
            request_id=self._asked.id,
            credential=self._lease.tag,
            what=what,
            error=str(error),
        )

    # One attempt

    async def _try(self, authorization: Authorization) -> Answer:
        """The answer to one attempt, and what it means. The credential learns of its limits here.

        Raises Interrupted, ClientGone, or UpstreamError where there is no answer.
        """
        asked, context, lease = self._asked, self._context, self._lease
        dialect, facts = context.dialect, asked.facts
        request_head = asked.request.head
        head = dialect.traffic.upstream_head(
            request_head,
            authorization,
            lease.host,
            lease.base_path,
            context.options.overrides,
            context.bound_values.is_bound(request_head.headers, facts.session, lease.tag),
        )
        attempt = self.attempt = Attempt(context.clock)
        lease.on_interrupt(partial(self._interrupted, attempt))
        lease.sending(asked.combination)
        sent_at = context.clock.seconds()
        asked.sends += 1
        try:
            self._answering.send(attempt, lease, head, self._body)
            response = await attempt.answered
        except BaseException as error:
            lease.gave_up(asked.combination)
            if not attempt.is_sent or isinstance(error, RequestNotSent):
                asked.sends -= 1
            raise
        finally:
            lease.on_interrupt(None)
        verdict = await self._verdict(attempt, response)
        if verdict.kind is not AnswerKind.OK:
            # If it was the first after a rest, others need not wait for it; what is charged for it comes later.
            lease.gave_up(asked.combination)
        now = context.now()
        context.bound_values.bind(response.headers, facts.session, lease.tag)
        if not (lease.is_external and response.status >= 400):
            # A remote's refusal shows the figures of one of its accounts, or a time to leave it alone (spec 14).
            lease.observe(dialect.metering.limits_from_headers(response.headers, now))
        if learn_limits(lease, verdict):
            pass
        elif verdict.kind is AnswerKind.NO_MORE_SOCKETS:
            lease.learn(SocketsRest(now + SOCKETS_REST))
        elif verdict.kind is AnswerKind.REMOTE_REJECTED:
            lease.reject()
        elif verdict.kind is AnswerKind.REMOTE_UNAVAILABLE:
            lease.learn(RemoteUnavailable())
        elif verdict.kind is AnswerKind.CLIENT_ERROR:
            lease.poll_if_stale()
        elif verdict.kind is AnswerKind.REMOTE_BUSY and response.status == 429:
            lease.poll_now()
        try:
            self._answering.judge(response)
        except UpstreamProtocolError:
            attempt.discard()
            raise
        return Answer(lease, attempt, response, verdict, authorization, sent_at)

    async def _verdict(self, attempt: Attempt, response: ResponseHead) -> Verdict:
        asked, context = self._asked, self._context
        traffic, facts, now = context.dialect.traffic, asked.facts, context.now()
        judged = response
        if response.status == 429 and self._lease.is_external and is_ccmproxys(response):
            # What its limits show there is for instances that read nothing else (spec 14); its own words count.
            headers = context.dialect.metering.public_headers(response.headers, None, now)
            judged = ResponseHead(response.status, response.reason, headers)
        verdict = traffic.classify(judged, None, now, model=facts.model)
        if verdict.kind is AnswerKind.NEEDS_BODY:
            echo = echo_of(asked.request.head, facts.named_model)
            verdict = traffic.classify(judged, await attempt.collect(), now, echo, facts.model)
            if facts.is_opaque:
                verdict = verdict.without_known_words()
        elif verdict.kind is AnswerKind.OK and facts.billable and is_event_stream(response):
            # A failure is no second opinion in favour of those that have refused the request before.
            if asked.excluded or asked.another_can(self._lease.tag):
                verdict = await self._look_at_beginning(attempt, response, verdict)
        if verdict.kind is AnswerKind.RATE_LIMITED and not asked.combination.is_model_request:
            if not self._lease.is_account and not self._lease.is_external:
                # A key has limits of its own for such endpoints, which say nothing of turns (spec 12.2).
                wait = verdict.until - now if verdict.until > now else None
                verdict = replace(verdict, kind=AnswerKind.BUSY, wait=wait)
        return remote_verdict(response, verdict, now) if self._lease.is_external else verdict

    async def _look_at_beginning(self, attempt: Attempt, response: ResponseHead, verdict: Verdict) -> Verdict:
        """A stream may begin with the news that nothing will come, which another credential may do better (F13)."""
        now, asked = self._context.now, self._asked
        classify = self._context.dialect.traffic.classify_stream

        def enough(data: bytes) -> bool:
            return classify(response, data, now()) is not None

        data = await attempt.collect(enough, FIRST_EVENT_TIME)
        facts = asked.facts
        echo = echo_of(asked.request.head, facts.named_model)
        told = classify(response, data, now(), echo, facts.model)
        if told is None:
            return verdict
        return told.without_known_words() if facts.is_opaque else told

    def _interrupted(self, attempt: Attempt, cause: Availability) -> None:
        """Leave only where the request cannot succeed any more and another credential can serve it (spec 12.3).

        A 429, a failed poll, a window at its cap never cancel what an upstream has accepted (F47). What was not sent
        yet, because it waited for a token, goes where there is room.
        """
        is_reason = cause.reason == "rebalanced" or cause.state == "unavailable" or not attempt.is_sent
        if is_reason and self._asked.another_can(self._lease.tag):
            attempt.interrupt(cause)
        else:
            self._lease.on_interrupt(partial(self._interrupted, attempt))


def _failure(error: UpstreamError) -> Failure:
    if type(error) is ResponseLost:
        return failure_of_loss(error.was_reused, error.seconds, error.has_begun)
    return _FAILURES[type(error)]
