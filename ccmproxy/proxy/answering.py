"""How an upstream's response is handled: the strategy interface of an exchange, and the strategy for HTTP responses."""

from __future__ import annotations

from typing import Protocol

from ccmproxy.dialects.remote import relayed_mark
from ccmproxy.dialects.usage import MeterReading
from ccmproxy.http.message import Body, Headers, RequestHead, ResponseHead, first_value, without
from ccmproxy.interfaces.credentials import ILease
from ccmproxy.policy.answers import AnswerKind, Verdict
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.proxy.answer import Answer
from ccmproxy.proxy.attempt import Attempt, RelayEnd
from ccmproxy.proxy.learning import learn_refusal, learn_served
from ccmproxy.proxy.proxied_request import ProxiedRequest

_LEASE_OUTCOMES = {
    RelayEnd.WHOLE: LeaseOutcome.SERVED,
    RelayEnd.BROKEN: LeaseOutcome.BROKEN,
    RelayEnd.CLIENT_GONE: LeaseOutcome.CANCELLED,
}


class Answering(Protocol):
    """The strategy of an exchange: what differs between requests for an HTTP response and for a WebSocket.

    An exchange calls, in this order, :meth:`prepare` once, :meth:`send` and :meth:`judge` for each attempt, and
    :meth:`deliver` at most once, after which no other response is possible. It may call :meth:`leave` and :meth:`abort`
    at any time.
    """

    def prepare(self, body: Body) -> bool:
        """Check a request that was received completely. Returns False if the request was refused, so that no upstream
        is asked."""

    def unfit(self) -> set[str]:
        """Return the tags of the caller's credentials that cannot serve this kind of request."""

    def send(self, attempt: Attempt, lease: ILease, head: RequestHead, body: Body) -> None:
        """Begin ``attempt``: send the request to the lease's upstream."""

    def judge(self, response: ResponseHead) -> None:
        """Check the head of a response. Raises UpstreamProtocolError when it is no valid response to the request."""

    def deliver(self, answer: Answer) -> None:
        """Give the client ``answer``; at its end, close the lease and conclude the request."""

    def leave(self) -> None:
        """End soon, because the credential or the caller was removed."""

    def abort(self) -> None:
        """Drop everything that was begun, after an internal error."""


class HTTPAnswering:
    """Relays the upstream's response as it arrives, with the header fields that the client may see (spec 4.5, 8.3)."""

    __slots__ = ("_asked",)

    def __init__(self, asked: ProxiedRequest) -> None:
        self._asked = asked

    def prepare(self, body: Body) -> bool:
        """Accept any request."""
        return True

    def unfit(self) -> set[str]:
        """Return no tags: every credential can serve HTTP requests."""
        return set()

    def send(self, attempt: Attempt, lease: ILease, head: RequestHead, body: Body) -> None:
        """Send the head and the body to the lease's upstream."""
        attempt.send(lease.connections(), head, body.chunks, fresh=self._asked.is_repeated)

    def judge(self, response: ResponseHead) -> None:
        """Accept any response."""

    def deliver(self, answer: Answer) -> None:
        """Relay the response: its head and the held part of its body now, the rest as it arrives."""
        asked, attempt, lease, response = self._asked, answer.attempt, answer.lease, answer.head
        context = asked.context
        metering = context.dialect.metering
        asked.begin_answer()
        meter = metering.meter(asked.facts, response, context.now)
        rewriter = metering.rewriter(
            response, lease.observe, lambda: context.aggregates.aggregate_for(asked.caller), context.now
        )
        headers = self._headers(response, answer.verdict)
        if lease.is_external:
            headers += relayed_mark(response)
        if rewriter is not None:
            headers = without(headers, (b"content-length",))
        context.registry.streams.add(attempt)

        def ended(end: RelayEnd) -> None:
            context.registry.streams.discard(attempt)
            reading = meter.reading()
            if end is RelayEnd.CLIENT_GONE and reading.complete:
                end = RelayEnd.WHOLE
            self._learn_from(end, reading, answer)
            lease.close(_LEASE_OUTCOMES[end])
            asked.conclude(response.status, self._result(end, response, reading), reading)

        head = ResponseHead(response.status, response.reason, headers)
        attempt.relay(asked.request, head, meter, ended, rewriter)

    def leave(self) -> None:
        """Do nothing: an HTTP request keeps its credential and its caller until its end."""

    def abort(self) -> None:
        """Do nothing: the exchange itself drops the attempt."""

    def _learn_from(self, end: RelayEnd, reading: MeterReading, answer: Answer) -> None:
        """Learn from a refusal in mid-stream like from any other (spec 12.2, F51), and that a request was served."""
        asked = self._asked
        if reading.refusal is not None:
            learn_refusal(asked, asked.selected, answer.lease, answer.authorization, reading.refusal)
        elif end is RelayEnd.WHOLE and answer.verdict.kind is AnswerKind.OK and not reading.error:
            learn_served(asked, asked.selected, answer.lease)
            if asked.facts.billable:
                # Not before: a stream may begin well, and then say that the token is refused.
                answer.lease.proved(answer.authorization)

    def _headers(self, response: ResponseHead, verdict: Verdict) -> Headers:
        """Return the response's header fields for the client."""
        asked = self._asked
        context = asked.context
        dialect = context.dialect
        # Errors get no aggregate, because the CLI takes any rate-limit header for the cause of the error (observed).
        aggregate = context.aggregates.aggregate_for(asked.caller) if response.status < 400 else None
        said: Headers = response.headers
        if response.status >= 400:
            said = dialect.traffic.relayed_refusal(response, verdict)
        headers: Headers = dialect.metering.public_headers(said, aggregate, context.now())
        if response.status == 429 and asked.from_instance:
            headers = asked.told_to_instance(headers)
        # A remote instance may have set it for its own answer; it must describe this one.
        headers = without(headers, (b"x-accel-buffering",))
        headers.append((dialect.request_id_header, asked.id.encode("ascii")))
        if is_event_stream(response):
            # Otherwise an nginx in front of the proxy would buffer events (F17).
            headers.append((b"X-Accel-Buffering", b"no"))
        return headers

    def _result(self, end: RelayEnd, response: ResponseHead, reading: MeterReading) -> str:
        """Return the log's word for the outcome, by how the response ended and what it reported (F13, F20, F22)."""
        if end is RelayEnd.CLIENT_GONE:
            return "incomplete"
        if end is RelayEnd.BROKEN:
            return "truncated"
        if reading.error or response.status >= 400:
            return "failed"
        # The response was neither a message nor a stream of one, so it may not have come from the provider.
        return "served" if reading.reported or not self._asked.facts.billable else "unrecognised"


def is_event_stream(head: ResponseHead) -> bool:
    """Return whether the body is a stream of server-sent events, by its Content-Type."""
    content_type = first_value(head.headers, b"content-type") or b""
    return content_type.lstrip().lower().startswith(b"text/event-stream")
