"""The IAgent over our HTTP/1.1 client: what Twisted's interfaces promise, and the limits that Twisted's Agent lacks."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IConsumer, IPushProducer, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
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
from zope.interface.verify import verifyObject

from ccmproxy.http.client.agent import HEAD_SIZE, PoolAgent
from ccmproxy.http.failures import (
    RequestNotSent,
    ResponseLost,
    ResponseTooLarge,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from ccmproxy.testing.pump import KIB, MemoryNetwork
from tests.http.upstream import ScriptedServer
from tests.logged import log_events

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BODY_SIZE = 100 * KIB
TIMEOUT = 30.0
#: What a peer that never ends is allowed to send before a test gives up on it (bytes).
ENOUGH = 4 * KIB * KIB


@implementer(IAgentEndpointFactory)
class Endpoints:
    """Endpoints into a network in memory; records what was asked for."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network
        self.asked: list[bytes] = []

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        self.asked.append(uri.toBytes())
        return self.network.endpoint(uri.host.decode(), uri.port, timeout=None)


class Reader(Protocol):
    """Takes a body, and records it. ``on_data`` is called in addition after each piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.reasons: list[BaseException] = []
        self.on_data: Callable[[], None] = lambda: None

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def dataReceived(self, data: bytes) -> None:
        assert not self.reasons, "data after the end"
        self.pieces.append(data)
        self.on_data()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        assert reason.value is not None
        self.reasons.append(reason.value)


@implementer(IBodyProducer)
class Producer:
    """A body that the test writes itself."""

    def __init__(self, length: Any = UNKNOWN_LENGTH) -> None:
        self.length = length
        self.done: Deferred[None] = Deferred()
        self.stopped = False

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self.consumer = consumer
        return self.done

    def stopProducing(self) -> None:
        self.stopped = True

    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...


class AgentCase(SynchronousTestCase):
    """An agent, and the upstream ``h.test``, which the test lets say what it likes."""

    def setUp(self) -> None:
        self.network = MemoryNetwork()
        self.clock = self.network.clock
        self.endpoints = Endpoints(self.network)
        self.agent = PoolAgent(self.endpoints, self.clock, timeout=TIMEOUT, body_size=BODY_SIZE)
        self.servers: list[ScriptedServer] = []
        #: What an upstream does each time that it receives something.
        self.script: Callable[[ScriptedServer], None] = lambda server: None
        self.listener = self.network.listen("h.test", 80, Factory.forProtocol(self.serve))
        self.events = log_events(self)

    def serve(self) -> ScriptedServer:
        self.servers.append(ScriptedServer(lambda server: self.script(server)))
        return self.servers[-1]

    @property
    def server(self) -> ScriptedServer:
        return self.servers[-1]

    def settle(self) -> None:
        self.network.flush()
        self.clock.advance(0)
        self.network.flush()

    def request(
        self,
        method: bytes = b"GET",
        uri: bytes = b"http://h.test/x?y",
        headers: Headers | None = None,
        producer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        asking = self.agent.request(method, uri, headers, producer)
        self.settle()
        return asking

    def say(self, data: bytes) -> None:
        self.server.transport.write(data)
        self.settle()

    def answered(self, said: bytes, method: bytes = b"GET") -> IResponse:
        asking = self.request(method)
        self.say(said)
        return self.successResultOf(asking)

    def read(self, response: IResponse) -> Reader:
        reader = Reader()
        response.deliverBody(reader)
        self.settle()
        return reader

    def pour(self, piece: bytes) -> int:
        """Let the upstream send ``piece`` again and again, until it is cut off; return the bytes that it sent."""
        sent = 0
        while self.server.lost is None and sent < ENOUGH:
            self.say(piece)
            sent += len(piece)
        return sent

    def no_answer(self, asking: Deferred[IResponse], kind: type[Exception]) -> str:
        """Return the message of the only reason for which there is no response."""
        (reason,) = self.failureResultOf(asking, ResponseNeverReceived).value.reasons
        self.assertIsInstance(reason.value, kind)
        return str(reason.value)

    def broke_off(self, reader: Reader, kind: type[BaseException]) -> str:
        """Return the message of the only reason for which a body broke off."""
        (failed,) = reader.reasons
        assert isinstance(failed, ResponseFailed), failed
        (reason,) = failed.reasons
        self.assertIsInstance(reason.value, kind)
        return str(reason.value)

    def closed(self) -> None:
        """Assert that no connection and no timer is left, and that nothing was logged."""
        self.settle()
        self.assertEqual(self.listener.open_connections, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.events, [])


class RequestTests(AgentCase):
    def test_interfaces(self) -> None:
        verifyObject(IAgent, self.agent)
        response = self.answered(OK + b"Content-Length: 0\r\n\r\n")
        verifyObject(IResponse, response)
        verifyObject(IClientRequest, response.request)
        self.assertEqual(
            (response.request.method, response.request.absoluteURI), (b"GET", b"http://h.test/x?y")
        )

    def test_as_twisted_writes_it(self) -> None:
        """The order of the fields and the case of their names are those of Twisted's Agent."""
        headers = Headers()
        for name, value in (
            (b"x-second", b"2"),
            (b"A-First", b"1"),
            (b"x-second", b"3"),
            (b"connection", b"x"),
        ):
            headers.addRawHeader(name, value)
        producer = Producer(4)
        producer.done = succeed(None)
        for method, body, expected in (
            (b"GET", None, b"Connection: close\r\n"),
            (b"POST", None, b"Connection: close\r\nContent-Length: 0\r\n"),
            (b"PUT", producer, b"Connection: close\r\nContent-Length: 0\r\n"),
        ):
            self.request(method, headers=headers, producer=body)
            self.assertEqual(
                bytes(self.server.received),
                b"%b /x?y HTTP/1.1\r\n%bX-Second: 2\r\nX-Second: 3\r\nA-First: 1\r\nHost: h.test\r\n\r\n"
                % (method, expected),
            )
        self.assertEqual(headers.getRawHeaders(b"host"), None)  # the caller's headers stay as they are

    def test_hosts_and_targets(self) -> None:
        self.network.listen("h.test", 81, Factory.forProtocol(self.serve))
        self.network.listen("::1", 81, Factory.forProtocol(self.serve))
        for uri, line, host in (
            (b"http://h.test", b"GET / HTTP/1.1", b"h.test"),
            (b"http://h.test:81/a%20b;c?d=e#f", b"GET /a%20b;c?d=e HTTP/1.1", b"h.test:81"),
            (b"http://[::1]:81/", b"GET / HTTP/1.1", b"[::1]:81"),
        ):
            self.request(uri=uri)
            self.assertTrue(self.server.received.startswith(line + b"\r\n"), uri)
            self.assertIn(b"\r\nHost: " + host + b"\r\n", self.server.received)

    def test_a_host_of_the_callers(self) -> None:
        self.request(headers=Headers({"Host": ["other.test"]}))
        self.assertEqual(self.server.received.count(b"Host: "), 1)
        self.assertIn(b"Host: other.test\r\n", self.server.received)

    def test_a_body_of_unknown_length(self) -> None:
        producer = Producer()
        self.request(b"POST", producer=producer)
        self.assertEqual(self.servers, [])  # The connection is not made before the body is there.
        producer.consumer.write(b"he")
        producer.consumer.write(b"llo")
        producer.done.callback(None)
        self.settle()
        self.assertIn(b"\r\nContent-Length: 5\r\n", self.server.received)
        self.assertTrue(self.server.received.endswith(b"\r\n\r\nhello"))

    def test_a_body_that_fails(self) -> None:
        producer = Producer()
        producer.done = fail(ZeroDivisionError())
        asking = self.request(b"POST", producer=producer)
        (reason,) = self.failureResultOf(asking, RequestGenerationFailed).value.reasons
        self.assertIsInstance(reason.value, ZeroDivisionError)
        self.assertEqual(self.servers, [])
        self.closed()

    def test_what_cannot_be_sent(self) -> None:
        self.failureResultOf(self.request(b"GET /"), RequestGenerationFailed)
        for uri in (b"ftp://h.test/", b"h.test"):
            self.failureResultOf(self.request(uri=uri), SchemeNotSupported)
        self.failureResultOf(self.request(uri=b"http://h\xfc.test/"), UnicodeDecodeError)
        self.assertEqual(self.servers, [])
        self.closed()

    def test_f43_each_on_a_connection_of_its_own(self) -> None:
        for _ in range(3):
            self.answered(OK + b"Content-Length: 0\r\n\r\n")
        self.assertEqual((len(self.servers), len(self.endpoints.asked)), (3, 3))
        self.closed()

    def test_with_treq(self) -> None:
        """treq sees an ordinary agent, redirects and all."""
        clock: Any = self.clock
        asking = HTTPClient(self.agent).get("http://h.test/old", reactor=clock)
        self.settle()
        self.say(b"HTTP/1.1 302 Found\r\nLocation: /new\r\nContent-Length: 0\r\n\r\n")
        self.say(OK + b"Content-Length: 5\r\nSet-Cookie: a=b\r\n\r\nhello")
        response = self.successResultOf(asking)
        self.assertTrue(self.server.received.startswith(b"GET /new "))
        content = response.content()
        self.settle()
        self.assertEqual(self.successResultOf(content), b"hello")
        self.assertEqual([each.code for each in response.history()], [302])
        self.assertEqual(response.request.absoluteURI, b"http://h.test/new")


class ResponseTests(AgentCase):
    def test_what_it_says(self) -> None:
        response = self.answered(
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 Not Here\r\nx-a: 1\r\nX-A: 2\r\n"
            b"Content-Length: 5\r\n\r\nhello"
        )
        self.assertEqual(
            (response.version, response.code, response.phrase), ((b"HTTP", 1, 1), 404, b"Not Here")
        )
        self.assertEqual(response.headers.getRawHeaders(b"x-a"), [b"1", b"2"])
        self.assertIs(response.headers.getRawHeaders(b"link"), None)
        self.assertEqual((response.length, response.previousResponse), (5, None))
        reader = self.read(response)
        self.assertEqual(reader.body, b"hello")
        self.assertEqual([type(reason) for reason in reader.reasons], [ResponseDone])
        self.closed()

    def test_how_bodies_end(self) -> None:
        for method, said, closes, length, body, reason in (
            (b"GET", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", False, UNKNOWN_LENGTH, b"hello", ResponseDone),
            (b"GET", OK + b"\r\nhello", True, UNKNOWN_LENGTH, b"hello", PotentialDataLoss),
            (b"HEAD", OK + b"Content-Length: 5\r\n\r\n", False, 0, b"", ResponseDone),
            (b"GET", b"HTTP/1.1 204 None\r\n\r\n", False, 0, b"", ResponseDone),
            (b"GET", b"HTTP/1.1 304 Same\r\n\r\n", False, 0, b"", ResponseDone),
        ):
            response = self.answered(said, method)
            self.assertEqual(response.length, length, said)
            if closes:
                self.server.transport.loseConnection()
                self.settle()
            reader = self.read(response)
            self.assertEqual((reader.body, [type(each) for each in reader.reasons]), (body, [reason]), said)
            self.closed()

    def test_a_body_that_breaks_off(self) -> None:
        response = self.answered(OK + b"Content-Length: 50\r\n\r\nhello")
        reader = self.read(response)
        self.server.transport.loseConnection()
        self.settle()
        self.assertIn("broke off", self.broke_off(reader, ResponseLost))
        self.assertEqual(reader.body, b"hello")
        self.closed()

    def test_that_broke_off_before_it_was_asked_for(self) -> None:
        response = self.answered(OK + b"Content-Length: 50\r\n\r\nhello")
        self.server.transport.loseConnection()
        self.settle()
        self.settle()
        reader = self.read(response)
        self.assertEqual(reader.body, b"hello")
        self.broke_off(reader, ResponseLost)

    def test_only_once(self) -> None:
        response = self.answered(OK + b"Content-Length: 5\r\n\r\nhello")
        self.read(response)
        with self.assertRaises(RuntimeError):
            response.deliverBody(Reader())

    def test_back_pressure(self) -> None:
        """A body is read only when somebody takes it, and only as fast: at most one read is on its way."""
        size = 1024 * KIB
        self.agent = PoolAgent(self.endpoints, self.clock, timeout=TIMEOUT, body_size=size)
        response = self.answered(OK + b"Content-Length: %d\r\n\r\n" % size)
        self.say(bytes(size))
        self.assertGreaterEqual(self.server.transport.buffered, size - 2 * 64 * KIB)
        reader = Reader()
        reader.on_data = lambda: IPushProducer(reader.transport).pauseProducing()
        response.deliverBody(reader)
        self.settle()
        for reads in range(1, 5):
            self.assertLessEqual(len(reader.body), reads * 64 * KIB)
            before = len(reader.body)
            self.settle()
            self.assertEqual(len(reader.body), before)
            IPushProducer(reader.transport).resumeProducing()
            self.settle()
            self.assertGreater(len(reader.body), before)
        reader.on_data = lambda: None
        IPushProducer(reader.transport).resumeProducing()
        self.settle()
        self.assertEqual((len(reader.body), [type(each) for each in reader.reasons]), (size, [ResponseDone]))
        self.closed()

    def test_a_reader_that_pauses_at_once(self) -> None:
        """What came with the head is there already; nothing else is read."""
        response = self.answered(OK + b"Content-Length: 10\r\n\r\nhello")
        reader = Reader()
        reader.connectionMade = (  # type: ignore[method-assign]
            lambda: IPushProducer(reader.transport).pauseProducing()
        )
        response.deliverBody(reader)
        self.say(b"world")
        self.assertEqual(reader.body, b"hello")
        IPushProducer(reader.transport).resumeProducing()
        self.settle()
        self.assertEqual(reader.body, b"helloworld")

    def test_a_reader_that_stops(self) -> None:
        """It hears of it when it is done with what it is doing, and only once."""
        for stop in ("stopProducing", "loseConnection", "abortConnection"):
            response = self.answered(OK + b"Content-Length: 50\r\n\r\nhello")
            reader = Reader()
            heard: list[int] = []

            def stop_it(reader: Reader = reader, stop: str = stop, heard: list[int] = heard) -> None:
                getattr(reader.transport, stop)()
                heard.append(len(reader.reasons))

            reader.on_data = stop_it
            response.deliverBody(reader)
            self.assertEqual(heard, [0])
            self.broke_off(reader, ConnectionAborted)
            getattr(reader.transport, stop)()
            self.closed()

    def raise_one(self) -> None:
        raise ZeroDivisionError

    def test_a_reader_that_raises(self) -> None:
        """It is told, and nothing is logged, since it is told."""
        for said in (OK + b"Content-Length: 50\r\n\r\nhello", OK + b"Content-Length: 5\r\n\r\nhello"):
            response = self.answered(said)
            reader = Reader()
            reader.on_data = self.raise_one
            response.deliverBody(reader)
            self.broke_off(reader, ZeroDivisionError)
            self.closed()


class FailureTests(AgentCase):
    def test_no_connection(self) -> None:
        self.listener.refusing = True
        self.failureResultOf(self.request(), ConnectionRefusedError)
        self.closed()

    def test_no_response(self) -> None:
        asking = self.request()
        self.server.transport.loseConnection()
        self.settle()
        self.no_answer(asking, ResponseLost)
        self.closed()

    def test_lost_while_the_request_is_sent(self) -> None:
        producer = Producer()
        asking = self.request(b"POST", producer=producer)
        producer.consumer.write(bytes(1024 * KIB))
        producer.done.callback(None)
        self.script = lambda server: server.transport.abortConnection()
        self.settle()
        self.no_answer(asking, RequestNotSent)
        self.closed()

    def test_cancelled(self) -> None:
        """While the body is produced, while connecting, and before the head."""
        producer = Producer()
        asking = self.request(b"POST", producer=producer)
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        self.assertTrue(producer.stopped)
        self.listener.hanging = True
        asking = self.request()
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        self.listener.hanging = False
        asking = self.request()
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        self.closed()

    def test_time(self) -> None:
        """One time for everything: a body, a connection, a head and a body that never come to their end."""
        for begin in (
            lambda: self.request(b"POST", producer=Producer()),
            self.request,
            self.request,
        ):
            asking = begin()
            self.listener.hanging = not self.listener.hanging  # for the second one
            self.network.advance(TIMEOUT - 0.1)
            self.assertNoResult(asking)
            self.network.advance(0.2)
            self.assertEqual(self.no_answer(asking, UpstreamTimeout), "no answer within 30 s")
            self.closed()

    def test_time_of_a_body(self) -> None:
        """Bytes that come now and then do not extend it."""
        reader = self.read(self.answered(CHUNKED))
        for _ in range(29):
            self.network.advance(1)
            self.say(b"1\r\nx\r\n")
        self.assertEqual(reader.reasons, [])
        self.network.advance(1.1)
        self.broke_off(reader, UpstreamTimeout)
        self.closed()

    def test_time_of_a_body_that_nobody_reads(self) -> None:
        response = self.answered(OK + b"Content-Length: 50\r\n\r\nhello")
        self.network.advance(TIMEOUT + 1)
        self.closed()
        self.broke_off(self.read(response), UpstreamTimeout)


class LimitTests(AgentCase):
    """F64: upstreams that never come to an end."""

    def test_a_head_that_never_ends(self) -> None:
        for begin, piece in (
            (OK, b"X-More: " + b"x" * 8000 + b"\r\n"),
            (OK + b"X-Long: ", b"x" * 8000),
            (b"HTTP/1.1 200 ", b"O" * 8000),
        ):
            asking = self.request()
            self.say(begin)
            self.assertLess(self.pour(piece), HEAD_SIZE + 2 * 8020)
            self.assertIn("too large", self.no_answer(asking, UpstreamProtocolError))
            self.closed()

    def test_interim_responses_that_never_end(self) -> None:
        """None of them is logged."""
        asking = self.request()
        sent = self.pour(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10)
        self.assertLess(sent, 16 * KIB)
        self.assertIn("interim", self.no_answer(asking, UpstreamProtocolError))
        self.closed()

    def test_a_head_of_very_many_fields(self) -> None:
        asking = self.request()
        self.say(OK + b"a:\r\n" * 10000 + b"\r\n")
        self.assertIn("too many header fields", self.no_answer(asking, UpstreamProtocolError))
        self.closed()

    def test_a_body_that_never_ends(self) -> None:
        for begin, piece in ((CHUNKED, b"1f40\r\n" + b"x" * 8000 + b"\r\n"), (OK + b"\r\n", b"x" * 8000)):
            reader = self.read(self.answered(begin))
            self.assertLess(self.pour(piece), BODY_SIZE + 2 * 8020)
            self.assertEqual(
                self.broke_off(reader, ResponseTooLarge), f"the response exceeds {BODY_SIZE} bytes"
            )
            self.closed()

    def test_a_body_that_says_how_large_it_is(self) -> None:
        asking = self.request()
        self.say(OK + b"Content-Length: %d\r\n\r\n" % (BODY_SIZE + 1))
        self.no_answer(asking, ResponseTooLarge)
        self.closed()
        reader = self.read(self.answered(OK + b"Content-Length: %d\r\n\r\n" % BODY_SIZE + bytes(BODY_SIZE)))
        self.assertEqual(len(reader.body), BODY_SIZE)

    def test_overhead_that_never_ends(self) -> None:
        """Extensions of a chunk, and trailers."""
        for begin, piece in (
            (b"5;x=", b"y" * 8000),
            (b"0\r\n", b"X-T: " + b"x" * 8000 + b"\r\n"),
            (b"", b"0" * 8000),
        ):
            reader = self.read(self.answered(CHUNKED))
            self.say(begin)
            self.assertLess(self.pour(piece), HEAD_SIZE + 3 * 8020)
            self.broke_off(reader, UpstreamProtocolError)
            self.closed()

    def test_memory(self) -> None:
        """What is kept of a head that never ends is bounded by its limit."""
        asking = self.request()
        self.say(OK)
        tracemalloc.start()
        try:
            self.pour(b"X-More: " + b"x" * 30 + b"\r\n")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.assertLess(peak, 1024 * KIB)
        self.no_answer(asking, UpstreamProtocolError)
