"""What becomes of an upstream's answer: the strategy of an exchange, and the one for answers over HTTP."""

from __future__ import annotations

from typing import Protocol

from ccmproxy.dialects.usage import MeterReading
from ccmproxy.http.message import Body, Headers, RequestHead, ResponseHead, first_value, without
from ccmproxy.interfaces.credentials import ILease
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.proxy.attempt import Attempt, RelayEnd
from ccmproxy.proxy.proxied_request import ProxiedRequest

_LEASE_OUTCOMES = {
    RelayEnd.WHOLE: LeaseOutcome.SERVED,
    RelayEnd.BROKEN: LeaseOutcome.BROKEN,
    RelayEnd.CLIENT_GONE: LeaseOutcome.CANCELLED,
}


class Answering(Protocol):
    """In what requests differ that end in an HTTP answer, and those that end in an open WebSocket.

    An exchange asks in this order: :meth:`prepare` once; for each try :meth:`send` and :meth:`judge`; at most once
    :meth:`deliver`, after which the answer is this one. :meth:`leave` and :meth:`abort` may come at any time.
    """

    def prepare(self, body: Body) -> bool:
        """The request has come whole. False: it has been refused, and nothing is to be asked of any upstream."""

    def unfit(self) -> set[str]:
        """Tags of the caller's credentials that cannot serve such a request at all."""

    def send(self, attempt: Attempt, lease: ILease, head: RequestHead, body: Body) -> None:
        """Begin ``attempt``: ask the lease's upstream."""

    def judge(self, response: ResponseHead) -> None:
        """Look at the head of an answer. Raises UpstreamProtocolError where it is none to such a request."""

    def deliver(self, attempt: Attempt, lease: ILease, response: ResponseHead) -> None:
        """Give the client this answer, which ``attempt`` holds; close the lease and conclude the request at its end."""

    def leave(self) -> None:
        """The credential or the caller was taken away."""

    def abort(self) -> None:
        """A defect of ours was met: drop what was begun."""


class HTTPAnswering:
    """Relays the upstream's answer as it comes, with the header fields that the client may see (spec 4.5, 8.3)."""

    __slots__ = ("_asked",)

    def __init__(self, asked: ProxiedRequest) -> None:
        self._asked = asked

    def prepare(self, body: Body) -> bool:
        """Any request will do."""
        return True

    def unfit(self) -> set[str]:
        """Every credential will do."""
        return set()

    def send(self, attempt: Attempt, lease: ILease, head: RequestHead, body: Body) -> None:
        """Send head and body."""
        attempt.send(lease.connections(), head, body.chunks)

    def judge(self, response: ResponseHead) -> None:
        """Any answer will do."""

    def deliver(self, attempt: Attempt, lease: ILease, response: ResponseHead) -> None:
        """Relay it, and what is held of its body, then the rest as it comes."""
        asked = self._asked
        context = asked.context
        metering = context.dialect.metering
        asked.begin_answer()
        meter = metering.meter(asked.facts, response)
        rewriter = metering.rewriter(
            response, lease.observe, lambda: context.aggregates.aggregate_for(asked.caller), context.now
        )
        headers = self._headers(response)
        if rewriter is not None:
            headers = without(headers, (b"content-length",))
        context.registry.streams.add(attempt)

        def ended(end: RelayEnd) -> None:
            context.registry.streams.discard(attempt)
            reading = meter.reading()
            if end is RelayEnd.CLIENT_GONE and reading.complete:
                end = RelayEnd.WHOLE
            lease.close(_LEASE_OUTCOMES[end])
            asked.conclude(response.status, self._result(end, response, reading), reading)

        head = ResponseHead(response.status, response.reason, headers)
        attempt.relay(asked.request, head, meter, ended, rewriter)

    def leave(self) -> None:
        """A request ends as it began."""

    def abort(self) -> None:
        """The exchange itself drops the attempt."""

    def _headers(self, response: ResponseHead) -> Headers:
        """The answer's header fields as the client is to see them."""
        asked = self._asked
        context = asked.context
        dialect = context.dialect
        # Not on errors: the CLI reads any rate-limit header there as the error's cause (observed).
        aggregate = context.aggregates.aggregate_for(asked.caller) if response.status < 400 else None
        headers: Headers = dialect.metering.public_headers(response.headers, aggregate, context.now())
        # A remote instance may have set these two itself; here they are about this request.
        headers = without(headers, (dialect.request_id_header.lower(), b"x-accel-buffering"))
        headers.append((dialect.request_id_header, asked.id.encode("ascii")))
        if is_event_stream(response):
            # nginx in front would otherwise gather events until a buffer is full (F17).
            headers.append((b"X-Accel-Buffering", b"no"))
        return headers

    def _result(self, end: RelayEnd, response: ResponseHead, reading: MeterReading) -> str:
        """One word for the log: was the answer whole, and what did it say of itself (F13, F20, F22)?"""
        if end is RelayEnd.CLIENT_GONE:
            return "incomplete"
        if end is RelayEnd.BROKEN:
            return "truncated"
        if reading.error or response.status >= 400:
            return "failed"
        # Neither a message nor a stream of one: whatever answered, it may not have been the provider.
        return "served" if reading.reported or not self._asked.facts.billable else "unrecognised"


def is_event_stream(head: ResponseHead) -> bool:
    """Whether an answer's body is a stream of events, by its Content-Type."""
    content_type = first_value(head.headers, b"content-type") or b""
    return content_type.lstrip().lower().startswith(b"text/event-stream")
