"""Twisted's ``IAgent`` on top of our HTTP/1.1 client, so that libraries such as treq work within its limits (F64)."""

from __future__ import annotations

from math import inf
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IConsumer, IDelayedCall, IProtocol, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    RequestGenerationFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.error import SchemeNotSupported
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import (
    UNKNOWN_LENGTH,
    IAgent,
    IAgentEndpointFactory,
    IBodyProducer,
    IClientRequest,
    IResponse,
)
from zope.interface import implementer

from ccmproxy.http.client.call import Call
from ccmproxy.http.client.connection_pool import ClientLimits, ConnectionPool
from ccmproxy.http.failures import RequestNotSent, ResponseTooLarge, UpstreamError, UpstreamTimeout
from ccmproxy.http.framing import FramingError, body_length, response_has_body
from ccmproxy.http.message import RequestHead, ResponseHead

#: Largest size of the heads of one response together, interim ones included (bytes).
HEAD_SIZE: Final = 64 * 1024

_SCHEMES: Final = frozenset({b"http", b"https"})
#: Methods whose requests say the length of their body even if they have none (RFC 9110 section 8.6).
_BODY_EXPECTED: Final = frozenset({b"POST", b"PUT", b"PATCH"})
#: Fields that the agent writes itself, first of all, because they describe the connection and the body.
_OWN_FIELDS: Final = frozenset({b"connection", b"content-length", b"transfer-encoding"})


@implementer(IAgent)
class PoolAgent:
    """Makes each request on a connection of its own, within the limits of the data path and two of its own.

    ``endpoints``: makes the endpoint of every connection, TLS included. ``timeout``: seconds from the request to the
    last byte of the response, time in which the response is not read included; there is no other time-out.
    ``body_size``: largest body of a response as it is transferred, content coding included (bytes). The heads of a
    response may have HEAD_SIZE bytes, and the bounds on fields and interim responses are those of every connection.
    """

    def __init__(
        self, endpoints: IAgentEndpointFactory, clock: IReactorTime, *, timeout: float, body_size: int
    ) -> None:
        self._endpoints = endpoints
        self._clock = clock
        self._timeout = timeout
        self._body_size = body_size
        self._limits = ClientLimits(
            connect_timeout=inf, first_byte_timeout=inf, idle_timeout=inf, head_size=HEAD_SIZE
        )

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """Make a request. Fires when the head of the final response is there; cancelling drops the connection.

        A body is taken from its producer completely before the connection is made. Fails as Twisted's own Agent does:
        with SchemeNotSupported for a URI that is not http or https; with the endpoint's error when there is no endpoint
        or no connection can be made; with RequestGenerationFailed when the body or the fields cannot be sent; and with
        ResponseNeverReceived when there is no final response (in time, or within the limits). A body that breaks off
        ends with ResponseFailed. The ``reasons`` of both hold the UpstreamError. Never raises.
        """
        try:
            parsed = URI.fromBytes(uri)
            if parsed.scheme not in _SCHEMES:
                return fail(SchemeNotSupported(f"unsupported scheme: {parsed.scheme!r}"))
            endpoint = self._endpoints.endpointForURI(parsed)
        except Exception:
            return fail(Failure())
        pool = ConnectionPool(endpoint, self._clock, self._limits)
        headers = Headers() if headers is None else headers.copy()
        if not headers.hasHeader(b"host"):
            headers.addRawHeader(b"host", _host(parsed))
        request = AgentRequest(method, uri, headers)
        exchange = _Exchange(pool, request, parsed.originForm, self._body_size)
        return exchange.begin(bodyProducer, self._clock, self._timeout)


@implementer(IClientRequest)
class AgentRequest:
    """A request that was made, as responses refer to it; see IClientRequest."""

    def __init__(self, method: bytes, uri: bytes, headers: Headers) -> None:
        self.method = method
        self.absoluteURI = uri
        self.headers = headers


class _Exchange:
    """One request and its response. It is the ResponseReceiver of its call."""

    def __init__(self, pool: ConnectionPool, request: AgentRequest, target: bytes, body_size: int) -> None:
        self._pool = pool
        self._request = request
        self._target = target
        self._body_size = body_size
        self._received = 0
        self._result: Deferred[IResponse] = Deferred(lambda _: self.drop())
        self._producer: IBodyProducer | None = None
        self._call: Call | None = None
        self._deadline: IDelayedCall | None = None
        self._response: AgentResponse | None = None
        self._over = False

    def begin(
        self, producer: IBodyProducer | None, clock: IReactorTime, timeout: float
    ) -> Deferred[IResponse]:
        """Collect the body, if there is one, and send the request; see :meth:`PoolAgent.request`."""
        self._deadline = clock.callLater(timeout, self._expire, timeout)
        if producer is None:
            self._send([], self._request.method in _BODY_EXPECTED)
            return self._result
        pieces = _Pieces()
        self._producer = producer
        maybeDeferred(producer.startProducing, pieces).addCallbacks(
            lambda _: self._send(pieces.written, True), self._not_produced
        )
        return self._result

    # The request ------------------------------------------------------------------------------------------

    def _send(self, body: list[bytes], says_length: bool) -> None:
        self._producer = None
        if self._over:
            return
        fields = [(b"Connection", b"close")]
        if says_length:
            fields.append((b"Content-Length", b"%d" % sum(map(len, body))))
        for name, values in self._request.headers.getAllRawHeaders():
            if name.lower() not in _OWN_FIELDS:
                fields += [(name, value) for value in values]
        try:
            self._call = self._pool.send(RequestHead(self._request.method, self._target, fields), body, self)
        except FramingError:
            self._finish()
            self._result.errback(Failure(RequestGenerationFailed([Failure()])))

    def _not_produced(self, reason: Failure) -> None:
        self._producer = None
        if not self._over:
            self._finish()
            self._result.errback(Failure(RequestGenerationFailed([reason])))

    # ResponseReceiver -------------------------------------------------------------------------------------

    def response_started(self, head: ResponseHead, data: bytes) -> None:
        """Fire with the response. Its body is not read before it is asked for."""
        assert self._call is not None
        length = body_length(head.headers)
        if not response_has_body(self._request.method, head.status):
            length = 0
        self._received = len(data)
        if max(length or 0, self._received) > self._body_size:
            self._fail(ResponseTooLarge(self._body_size))
            return
        self._call.pauseProducing()
        self._response = response = AgentResponse(self, self._request, head, length)
        if data:
            response.received(data)
        self._result.callback(response)

    def response_data(self, data: bytes) -> None:
        """Pass a piece of the body on, unless the body is too large by now."""
        assert self._response is not None
        self._received += len(data)
        if self._received > self._body_size:
            self._fail(ResponseTooLarge(self._body_size))
        else:
            self._response.received(data)

    def response_ended(self) -> None:
        """Tell that the body is complete, as far as that can be known (RFC 9112 section 6.3)."""
        assert self._response is not None
        self._finish()
        is_known = self._response.has_known_end
        self._response.ended(Failure(ResponseDone() if is_known else PotentialDataLoss()))

    def response_failed(self, error: UpstreamError) -> None:
        """Tell that there is no response, or that the body breaks off."""
        self._fail(error)

    # Ends -------------------------------------------------------------------------------------------------

    def read_on(self, is_reading: bool) -> None:
        """Read the response, or stop reading it (back-pressure)."""
        if self._call is not None and not self._over:
            if is_reading:
                self._call.resumeProducing()
            else:
                self._call.pauseProducing()

    def _expire(self, timeout: float) -> None:
        self._deadline = None
        self._fail(UpstreamTimeout(f"no answer within {timeout:g} s"))

    def _fail(self, error: UpstreamError) -> None:
        if self._over:
            return
        self.drop()
        if self._response is not None:
            self._response.ended(Failure(ResponseFailed([Failure(error)], self._response)))
        elif isinstance(error, RequestNotSent) and error.__cause__ is not None:
            self._result.errback(Failure(error.__cause__))
        else:
            self._result.errback(Failure(ResponseNeverReceived([Failure(error)])))

    def drop(self) -> None:
        """Drop the connection, and whatever else is under way, without telling anybody."""
        self._finish()
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        if self._call is not None:
            self._call.cancel()

    def _finish(self) -> None:
        self._over = True
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()


@implementer(IResponse)
class AgentResponse:
    """A response whose body is read only as fast as it is taken; see IResponse.

    The transport of the protocol that takes the body is an IPushProducer that pauses the connection. It also has
    ``loseConnection`` and ``abortConnection``, which do what ``stopProducing`` does: drop the connection.
    ``version`` is always HTTP/1.1, because our client does not pass the upstream's on.
    """

    version = (b"HTTP", 1, 1)

    def __init__(
        self, exchange: _Exchange, request: AgentRequest, head: ResponseHead, length: int | None
    ) -> None:
        """``length``: of the body in bytes, -1 for the chunked coding, None until the end of the connection."""
        self.code = head.status
        self.phrase = head.reason
        self.headers = Headers()
        for name, value in head.headers:
            self.headers.addRawHeader(name, value)
        self.length: Any = UNKNOWN_LENGTH if length is None or length < 0 else length
        #: Whether something else than the end of the connection ends the body.
        self.has_known_end = length is not None
        self.request = request
        self.previousResponse: IResponse | None = None
        self._exchange = exchange
        #: What came before anybody asked for the body: the rest of at most two reads.
        self._early: list[bytes] = []
        self._end: Failure | None = None
        self._protocol: IProtocol | None = None
        self._is_busy = False
        self._is_told = False

    def setPreviousResponse(self, response: IResponse) -> None:
        """See IResponse."""
        self.previousResponse = response

    def deliverBody(self, protocol: IProtocol) -> None:
        """See IResponse. Raises RuntimeError when the body has been given to a protocol already."""
        if self._protocol is not None:
            raise RuntimeError("the body of this response has been delivered already")
        self._protocol = protocol
        # IResponse promises an IPushProducer, while makeConnection asks for an ITransport.
        transport: Any = _BodyTransport(self, self._exchange)
        protocol.makeConnection(transport)
        early, self._early = b"".join(self._early), []
        if early:
            self.received(early)
        self._tell_end()
        if not transport.is_paused:
            self._exchange.read_on(True)

    def received(self, data: bytes) -> None:
        """Pass a piece of the body to the protocol, or keep it until there is one."""
        if self._protocol is None:
            self._early.append(data)
        elif not self._is_told:
            self._is_busy = True
            try:
                self._protocol.dataReceived(data)
            except Exception:
                self._end = None
                self.abort(Failure())
            finally:
                self._is_busy = False
            self._tell_end()

    def ended(self, reason: Failure) -> None:
        """Tell the protocol that nothing more comes, once what it is doing now is done."""
        self._end = reason
        self._tell_end()

    def abort(self, why: Failure) -> None:
        """Drop the connection because the protocol wants or can take no more. Does nothing if the body has ended."""
        if self._end is None:
            self._exchange.drop()
            self.ended(Failure(ResponseFailed([why], self)))

    def _tell_end(self) -> None:
        if self._end is not None and self._protocol is not None and not (self._is_busy or self._is_told):
            self._is_told = True
            self._protocol.connectionLost(self._end)


@implementer(IPushProducer)
class _BodyTransport:
    """What a protocol that takes a body sees as its transport."""

    def __init__(self, response: AgentResponse, exchange: _Exchange) -> None:
        self._response = response
        self._exchange = exchange
        self.is_paused = False

    def pauseProducing(self) -> None:
        self.is_paused = True
        self._exchange.read_on(False)

    def resumeProducing(self) -> None:
        self.is_paused = False
        self._exchange.read_on(True)

    def stopProducing(self) -> None:
        self._response.abort(Failure(ConnectionAborted()))

    loseConnection = abortConnection = stopProducing


@implementer(IConsumer)
class _Pieces:
    """Collects the body that a producer writes."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def registerProducer(self, producer: object, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...


def _host(uri: URI) -> bytes:
    """Return the Host field for ``uri`` (RFC 9110 section 7.2), without a default port."""
    host: bytes = b"[%b]" % uri.host if b":" in uri.host else uri.host
    if (uri.scheme, uri.port) in ((b"http", 80), (b"https", 443)):
        return host
    return b"%b:%d" % (host, uri.port)
