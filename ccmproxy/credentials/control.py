"""Control requests: those that ccmproxy makes on its own behalf, through the credential's outbound (F30)."""

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

#: Longest answer accepted (bytes, after decoding). Token, usage and profile endpoints answer with a few hundred bytes.
MAX_ANSWER = 1024 * 1024
#: Time-out of a whole exchange (seconds).
TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. ``headers``: names in lower case; repeated fields joined by commas (RFC 9110 section 5.3)."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


class ControlError(Exception):
    """No complete answer was received: connecting failed, the connection was lost, the request timed out, or the
    answer was too large. ``str()`` is a phrase that contains no secrets."""


#: Makes one request and returns its complete answer, whatever the status. Raises ControlError when there is none.
Fetch = Callable[[ControlRequest], Coroutine[Deferred[Any], Any, Answer]]


def fetch_within(
    seconds: float, fetch: Fetch, request: ControlRequest, clock: IReactorTime
) -> Deferred[Answer]:
    """Run ``fetch(request)`` with a time-out of ``seconds``. Fails with ControlError, or CancelledError when cancelled.

    The outcome of an exchange that was cancelled is ignored, because HTTP clients report cancellation in many ways.
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
            outcome.callback(result)  # A Failure starts the errback chain.

    timer = clock.callLater(seconds, expire)
    exchange.addBoth(over)
    return outcome


class ControlClient:
    """Makes each control request on a connection of its own. It follows no redirects and keeps no cookies.

    ``clock`` is used for time-outs only; every connection comes from ``outbound``.
    """

    def __init__(self, clock: IReactorTime, outbound: IOutbound, timeout: float = TIMEOUT) -> None:
        self._clock = clock
        self._timeout = timeout
        self._agent = agent(outbound, clock)

    async def fetch(self, request: ControlRequest) -> Answer:
        """Return the complete answer, whatever its status. It may have at most 1 MiB and take ``timeout`` seconds.

        Raises ControlError when connecting fails, the connection is lost, or the answer is too late or too large.
        """
        return await fetch_within(self._timeout, self._exchange, request, self._clock)

    async def _exchange(self, request: ControlRequest) -> Answer:
        """Return the complete answer. Raises ControlError when there is none, whatever the reason."""
        # treq's type asks for a whole reactor, but treq uses at most its clock.
        reactor: Any = self._clock
        headers = Headers()
        for name, value in request.headers:
            headers.addRawHeader(name, value)
        try:
            # A new client for each request: its cookie jar must not outlive the request.
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
            # Connection, TLS, DNS and HTTP errors of every kind all mean that there is no answer.
            raise ControlError(_phrase(error)) from None
        return Answer(response.code, _lower_case(response.headers), body)


@implementer(IBodyProducer)
class _BytesBody:
    """A small request body, written at once. Twisted's own producer uses the global reactor to send slices."""

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
    """Return the body of ``response``. Cancelling drops the connection. Fails with ControlError when the body is
    incomplete or longer than ``limit`` bytes."""
    collector = _Collector(limit)
    response.deliverBody(collector)
    return collector.body


class _Collector(Protocol):
    """Collects a body of at most ``limit`` bytes."""

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
        # A body without a length ends with the connection (RFC 9112 section 6.3).
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
    """Describe ``error`` by its type, because the messages of errors may quote what was sent. Those of ProxyError do
    not, and are used as they are."""
    if isinstance(error, ProxyError):
        return str(error)
    reasons = getattr(error, "reasons", None)
    if reasons and isinstance(reasons[0], Failure):
        return f"{type(error).__name__} ({type(reasons[0].value).__name__})"
    return type(error).__name__
