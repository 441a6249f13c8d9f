"""Requests that ccmproxy makes in its own name, through a credential's own outbound (F30)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IConsumer, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IResponse
from zope.interface import implementer

from ccmproxy.dialects.oauth import ControlRequest
from ccmproxy.interfaces.network import IOutbound
from ccmproxy.transports.outbounds import agent
from ccmproxy.transports.proxy_dialogue import ProxyError

#: An answer of a token, usage or profile endpoint is a few hundred bytes; beyond this it is none (bytes, decoded).
MAX_ANSWER = 1024 * 1024
#: How long a whole exchange may take (seconds).
TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. ``headers``: names in lower case, repeated fields joined by commas (RFC 9110 section 5.3)."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


class ControlError(Exception):
    """There was no whole answer: no connection, lost, timed out, too large. ``str()`` is a phrase without secrets."""


#: Makes one request, and gives its whole answer, whatever the status. Raises ControlError where there is none.
Fetch = Callable[[ControlRequest], Coroutine[Deferred[Any], Any, Answer]]


def fetch_within(
    seconds: float, fetch: Fetch, request: ControlRequest, clock: IReactorTime
) -> Deferred[Answer]:
    """``fetch(request)``, given up after ``seconds``. Fails with ControlError, or CancelledError when cancelled.

    Whatever the exchange makes of being given up is not looked at: HTTP clients have many words for it.
    """
    exchange = Deferred.fromCoroutine(fetch(request))
    outcome: Deferred[Answer] = Deferred(lambda _: abandon())
    abandoned = False

    def abandon() -> None:
        nonlocal abandoned
        abandoned = True
        exchange.cancel()

    def expire() -> None:
        abandon()
        outcome.errback(ControlError(f"no answer within {seconds:g} s"))

    def over(result: Answer | Failure) -> None:
        if timer.active():
            timer.cancel()
        if not abandoned:
            outcome.callback(result)  # a Failure begins the errbacks

    timer = clock.callLater(seconds, expire)
    exchange.addBoth(over)
    return outcome


class ControlClient:
    """Makes control requests on connections of their own; redirects are not followed, cookies not kept.

    ``clock`` is used for time-outs only: every connection comes from ``outbound``.
    """

    def __init__(self, clock: IReactorTime, outbound: IOutbound, timeout: float = TIMEOUT) -> None:
        self._clock = clock
        self._timeout = timeout
        self._agent = agent(outbound, clock)

    async def fetch(self, request: ControlRequest) -> Answer:
        """The whole answer, whatever its status; at most 1 MiB, within 30 s.

        Raises ControlError where there is none: no connection, lost, too late, too large.
        """
        return await fetch_within(self._timeout, self._exchange, request, self._clock)

    async def _exchange(self, request: ControlRequest) -> Answer:
        """The whole answer. Raises ControlError where there is none, for whatever reason."""
        # treq asks for a whole reactor, and uses its clock if at all.
        reactor: Any = self._clock
        headers = Headers()
        for name, value in request.headers:
            headers.addRawHeader(name, value)
        try:
            # A client of its own each time: its cookie jar must not outlive the request.
            response = await HTTPClient(self._agent, data_to_body_producer=_BytesBody).request(
                request.method,
                request.url,
                headers=headers,
                data=request.body,
                allow_redirects=False,
                unbuffered=True,
                reactor=reactor,
            )
            body = await _receive(response, MAX_ANSWER)
        except (ControlError, CancelledError):
            raise
        except Exception as error:
            # Connection, TLS, DNS and HTTP errors of every kind: all mean that there is no answer.
            raise ControlError(_phrase(error)) from None
        return Answer(response.code, _lower_case(response.headers), body)


@implementer(IBodyProducer)
class _BytesBody:
    """A request body that is written at once: it is small. Twisted's own would ask the global reactor to slice it."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def stopProducing(self) -> None:
        pass

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass


def _receive(response: IResponse, limit: int) -> Deferred[bytes]:
    """The response's body. Cancelling it drops the connection. Fails with ControlError."""
    collector = _Collector(limit)
    response.deliverBody(collector)
    return collector.body


class _Collector(Protocol):
    """Collects a body up to a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: list[bytes] = []
        self._size = 0
        self.body: Deferred[bytes] = Deferred(lambda _: self._give_up())

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            self._fail(f"answer exceeds {self._limit} bytes")
            self._give_up()
        else:
            self._chunks.append(data)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        if self.body.called:
            return
        # Without a length the end of the connection is the end of the body (RFC 9112 section 6.3).
        if reason.check(ResponseDone, PotentialDataLoss):
            self.body.callback(b"".join(self._chunks))
        else:
            self._fail("connection lost in the middle of the answer")

    def _fail(self, message: str) -> None:
        if not self.body.called:
            self.body.errback(ControlError(message))

    def _give_up(self) -> None:
        self._chunks.clear()
        producer: IPushProducer | None = IPushProducer(self.transport, None)
        if producer is not None:
            producer.stopProducing()


def _lower_case(headers: Headers) -> dict[str, str]:
    return {
        name.decode("latin-1").lower(): ",".join(value.decode("latin-1") for value in values)
        for name, values in headers.getAllRawHeaders()
    }


def _phrase(error: Exception) -> str:
    """What went wrong, by its type: messages of errors may quote what was sent. A proxy's do not."""
    if isinstance(error, ProxyError):
        return str(error)
    reasons = getattr(error, "reasons", None)
    if reasons and isinstance(reasons[0], Failure):
        return f"{type(error).__name__} ({type(reasons[0].value).__name__})"
    return type(error).__name__
