"""Control requests: those that ccmproxy makes on its own behalf, through the credential's outbound (F30)."""

from __future__ import annotations

import typing
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from hyperlink import EncodedURL
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IConsumer, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from ccmproxy.dialects.oauth import ControlRequest
from ccmproxy.http.client.agent import PoolAgent
from ccmproxy.http.content_coding import decompressed
from ccmproxy.http.failures import ResponseTooLarge, UpstreamError, UpstreamTimeout
from ccmproxy.interfaces.network import IOutbound
from ccmproxy.transports.outbounds import OutboundEndpoints
from ccmproxy.transports.proxy_dialogue import ProxyError

#: Longest answer accepted (bytes, before and after decoding). Token, usage and profile endpoints answer with a few
#: hundred bytes.
MAX_ANSWER = 1024 * 1024
#: Time-out of a whole exchange, unless the caller names another one (seconds).
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


class Fetch(typing.Protocol):
    """Makes one request and returns its complete answer, whatever the status.

    ``within``: seconds for the whole exchange; nothing else limits its time. Raises ControlError when there is no
    answer. Cancelling it drops the connection, and raises CancelledError.
    """

    def __call__(
        self, request: ControlRequest, within: float = TIMEOUT
    ) -> Coroutine[Deferred[Any], Any, Answer]: ...


class ControlClient:
    """Makes each control request on a connection of its own. It follows no redirects and keeps no cookies.

    ``clock`` is used for time-outs only; every connection comes from ``outbound``. The limits are those of
    :class:`.PoolAgent` (F64).
    """

    def __init__(self, clock: IReactorTime, outbound: IOutbound) -> None:
        self._clock = clock
        self._endpoints = OutboundEndpoints(outbound)

    async def fetch(self, request: ControlRequest, within: float = TIMEOUT) -> Answer:
        """Return the complete answer, whatever its status. It may have at most 1 MiB and take ``within`` seconds.

        Raises ControlError when connecting fails, the connection is lost, or the answer is too late, too large or
        cannot be decoded.
        """
        agent = PoolAgent(self._endpoints, self._clock, timeout=within, body_size=MAX_ANSWER)
        verbatim = _VerbatimAgent(agent)
        # treq's type asks for a whole reactor, but treq uses at most its clock.
        reactor: Any = self._clock
        headers = Headers()
        for name, value in request.headers:
            headers.addRawHeader(name, value)
        try:
            # A new client for each request: its cookie jar must not outlive the request.
            response = await HTTPClient(verbatim, data_to_body_producer=_BytesBody).request(
                request.method,
                _ASCIIURL.from_text(request.url),
                headers=headers,
                data=request.body,
                allow_redirects=False,
                unbuffered=True,
                reactor=reactor,
            )
            body = await _receive(response)
        except CancelledError:
            raise
        except Exception as error:
            # Connection, TLS, DNS and HTTP errors of every kind all mean that there is no answer.
            raise ControlError(_phrase(error)) from None
        return Answer(
            response.code, _lower_case(response.headers), _decoded(response.code, verbatim.coding, body)
        )


class _ASCIIURL(EncodedURL):
    """A URL that treq takes as it is: hyperlink would take an IPv6 address for an international domain name, and fail.

    The configuration has made sure that there is nothing else than ASCII in it.
    """

    def to_uri(self) -> _ASCIIURL:
        """Return the URL itself."""
        return self


@implementer(IAgent)
class _VerbatimAgent:
    """Hides the content coding of an answer from treq, whose decoders have no bound on what they put out (F64).

    ``coding``: the value of the answer's Content-Encoding, None if it has none.
    """

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent
        self.coding: bytes | None = None

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        return self._agent.request(method, uri, headers, bodyProducer).addCallback(self._hide)

    def _hide(self, response: IResponse) -> IResponse:
        codings = response.headers.getRawHeaders(b"Content-Encoding")
        if codings is not None:
            self.coding = b",".join(codings)
            response.headers.removeHeader(b"Content-Encoding")
        return response


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


def _receive(response: IResponse) -> Deferred[bytes]:
    """Return the body of ``response``, which the agent has limited. Cancelling drops the connection. Fails with
    ResponseFailed when the body is incomplete or too large."""
    collector = _Collector()
    response.deliverBody(collector)
    return collector.body


class _Collector(Protocol):
    """Collects a body."""

    def __init__(self) -> None:
        #: Not a list of pieces, because the upstream says how small they are.
        self._received = bytearray()
        self._is_over = False
        self.body: Deferred[bytes] = Deferred(lambda _: self._give_up())

    def dataReceived(self, data: bytes) -> None:
        self._received += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        if self._is_over:
            return
        self._is_over = True
        # A body without a length ends with the connection (RFC 9112 section 6.3).
        if reason.check(ResponseDone, PotentialDataLoss):
            self.body.callback(bytes(self._received))
        else:
            self.body.errback(reason)

    def _give_up(self) -> None:
        self._is_over = True
        producer: IPushProducer = IPushProducer(self.transport)
        producer.stopProducing()


def _decoded(status: int, coding: bytes | None, body: bytes) -> bytes:
    """Return the body of an answer without its content coding.

    What cannot be decoded within MAX_ANSWER bytes counts as empty, since the status says enough. Raises ControlError
    for a success, of which the body is what matters.
    """
    decoded = decompressed(body, coding, MAX_ANSWER)
    if decoded is None:
        if status < 300:
            raise ControlError(f"the answer cannot be decoded, or exceeds {MAX_ANSWER} bytes")
        return b""
    return decoded


def _lower_case(headers: Headers) -> dict[str, str]:
    return {
        name.decode("latin-1").lower(): ",".join(value.decode("latin-1") for value in values)
        for name, values in headers.getAllRawHeaders()
    }


def _phrase(error: Exception) -> str:
    """Describe ``error`` by its type, because the messages of errors may quote what was sent. Those of ProxyError and
    UpstreamError do not, and are used as they are."""
    if isinstance(error, ProxyError):
        return str(error)
    name = type(error).__name__
    reasons = getattr(error, "reasons", None)
    if not reasons or not isinstance(reasons[0], Failure):
        return name
    reason = reasons[0].value
    if isinstance(reason, UpstreamTimeout | ResponseTooLarge):
        return str(reason)
    if type(error) is ResponseFailed:  # not ResponseNeverReceived, which is a kind of it
        name = "connection lost in the middle of the answer"
    return f"{name} ({reason if isinstance(reason, UpstreamError) else type(reason).__name__})"
