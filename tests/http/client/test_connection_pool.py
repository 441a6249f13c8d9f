"""The pool: which connection a call gets, and how connections are opened and closed."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IPushProducer, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from ccmproxy.http.client.connection_pool import Call, ClientLimits, ConnectionPool
from ccmproxy.http.failures import RequestNotSent, ResponseLost
from ccmproxy.http.framing import FramingError
from ccmproxy.http.message import RequestHead, ResponseHead
from ccmproxy.http.server.factory import HTTPServerFactory, ServerRequest
from ccmproxy.testing.pump import KIB, MemoryNetwork, Pump
from tests.http.upstream import Receiver, Scene, ScriptedServer

REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class RequestTests(SynchronousTestCase):
    """The bytes that are sent."""

    def sent(
        self, method: bytes, headers: list[tuple[bytes, bytes]], body: list[bytes], reply: bytes | None = None
    ) -> bytes:
        scene = Scene(reply)
        scene.send(body, method, headers)
        scene.settle()
        return bytes(scene.server.received)

    def test_head_as_given(self) -> None:
        headers = [
            (b"x-b", b"1"),
            (b"HOST", b"h"),
            (b"X-A", b"\xe9"),
            (b"x-B", b""),
            (b"Connection", b"keep-alive"),
        ]
        self.assertEqual(
            self.sent(b"GET", headers, []),
            b"GET /v1/x?y=z HTTP/1.1\r\nx-b: 1\r\nHOST: h\r\nX-A: \xe9\r\nx-B: \r\nConnection: keep-alive\r\n\r\n",
        )
        self.assertEqual(len(headers), 5, "the caller's list is left alone")

    def test_content_length(self) -> None:
        for method, given, body, expected in (
            (b"GET", [], [], b""),
            (b"DELETE", [], [b"x"], b"Content-Length: 1\r\n"),
            (b"POST", [], [], b"Content-Length: 0\r\n"),
            (b"PUT", [], [], b"Content-Length: 0\r\n"),
            (b"PATCH", [], [b"", b"ab"], b"Content-Length: 2\r\n"),
            (b"POST", [(b"content-length", b"3")], [b"abc"], b"content-length: 3\r\n"),
            (b"GET", [(b"Content-Length", b"0")], [], b"Content-Length: 0\r\n"),
        ):
            self.assertEqual(
                self.sent(method, given, body),
                method + b" /v1/x?y=z HTTP/1.1\r\n" + expected + b"\r\n" + b"".join(body),
            )

    def test_what_cannot_be_sent(self) -> None:
        """Nothing is sent that could be misread by the upstream."""
        for method, target, headers in (
            (b"POST", b"/", [(b"Content-Length", b"4")]),
            (b"POST", b"/", [(b"Content-Length", b"3"), (b"Content-Length", b"3")]),
            (b"POST", b"/", [(b"Transfer-Encoding", b"chunked")]),
            (b"POST", b"/", [(b"X", b"a\r\nY: b")]),
            (b"POST", b"/", [(b"X", b"a\nb")]),
            (b"POST", b"/", [(b"X", b"a\0b")]),
            (b"POST", b"/", [(b"X Y", b"a")]),
            (b"POST", b"/", [(b"", b"a")]),
            (b"POST", b"/ HTTP/1.0\r\nX: y", []),
            (b"POST", b"/ x", []),
            (b"POST", b"", []),
            (b"", b"/", []),
            (b"PO ST", b"/", []),
        ):
            scene = Scene()
            with self.assertRaises(FramingError):
                scene.pool.send(RequestHead(method, target, headers), [b"abc"], Receiver())
            scene.settle()
            self.assertEqual(scene.servers, [])
            self.assertEqual((scene.pool.idle, scene.pool.busy, scene.pool.connecting), (0, 0, 0))

    def test_connection_close_asked_for(self) -> None:
        scene = Scene(REPLY)
        receiver, _ = scene.send(headers=[(b"Connection", b"close")])
        scene.settle()
        self.assertEqual(receiver.outcome, "ended")
        self.assertEqual(scene.pool.idle, 0)
        self.assertEqual(scene.server.lost, ConnectionDone)


class ReuseTests(SynchronousTestCase):
    """Which connection a call gets."""

    def test_used_again(self) -> None:
        scene = Scene(REPLY)
        for _ in range(5):
            receiver, _ = scene.send()
            scene.settle()
            self.assertEqual((receiver.outcome, receiver.body), ("ended", b"ok"))
        self.assertEqual(len(scene.servers), 1)
        self.assertEqual(scene.server.requests(), 5)

    def test_at_once_after_the_end(self) -> None:
        """The receiver may send the next request as soon as it is notified of the end."""
        scene = Scene(REPLY)
        first, _ = scene.send()
        second: list[Receiver] = []
        first.on_end = lambda: second.append(scene.send()[0])
        scene.settle()
        self.assertEqual(second[0].outcome, "ended")
        self.assertEqual(len(scene.servers), 1)

    def test_parallel_calls_do_not_wait(self) -> None:
        """F27, F41, F43: N calls are N connections, at once, however long the others take."""
        scene = Scene()
        calls = [scene.send([bytes(1000)], b"POST")[0] for _ in range(200)]
        self.assertEqual(scene.pool.connecting, 200)
        scene.network.flush()
        self.assertEqual(len(scene.servers), 200)
        self.assertEqual(scene.pool.busy, 200)
        for server in scene.servers:
            server.transport.write(REPLY)
        scene.settle()
        self.assertEqual({call.outcome for call in calls}, {"ended"})
        self.assertEqual((scene.pool.idle, scene.pool.busy), (200, 0))

    def test_last_used_first(self) -> None:
        """The most recently used connection is the least likely to have been closed; the others may expire."""
        scene = Scene()
        for _ in range(3):
            scene.send()
        scene.network.flush()
        for number in (1, 0, 2):
            scene.servers[number].transport.write(REPLY)
            scene.settle()
        for number in (2, 0, 1):
            scene.send()
            scene.settle()
            self.assertEqual(scene.servers[number].requests(), 2)
        self.assertEqual(len(scene.servers), 3)

    def test_closed_by_the_upstream(self) -> None:
        scene = Scene(REPLY)
        scene.send()
        scene.settle()
        scene.server.transport.loseConnection()
        scene.settle()
        self.assertEqual(scene.pool.idle, 0)
        receiver, _ = scene.send()
        scene.settle()
        self.assertEqual(receiver.outcome, "ended")
        self.assertEqual(len(scene.servers), 2)

    def test_unsolicited_bytes(self) -> None:
        """Unsolicited bytes must not become the response to the next request."""
        for surprise in (b"\r\n", b"x", REPLY, b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"):
            scene = Scene(REPLY)
            scene.send()
            scene.settle()
            scene.server.transport.write(surprise)
            scene.settle()
            self.assertEqual(scene.pool.idle, 0)
            self.assertEqual(scene.server.lost, ConnectionLost)
            receiver, _ = scene.send()
            scene.settle()
            self.assertEqual((receiver.outcome, receiver.body), ("ended", b"ok"))
            self.assertEqual(len(scene.servers), 2)

    def test_stale_connection_takes_the_idle_ones_with_it(self) -> None:
        """A kept-alive connection that is lost without a byte of a response tells of the others, too."""
        scene = Scene()
        for _ in range(3):
            scene.send()
        scene.network.flush()
        busy = scene.servers[0]
        for server in scene.servers[1:]:
            server.transport.write(REPLY)
        scene.settle()
        self.assertEqual((scene.pool.idle, scene.pool.busy), (2, 1))
        receiver, _ = scene.send()
        scene.servers[2].transport.loseConnection()
        scene.settle()
        self.assertIsInstance(receiver.outcome, ResponseLost)
        self.assertEqual((scene.pool.idle, scene.pool.busy), (0, 1))
        self.assertIsNone(busy.lost, "F28: never one that is in use")

    def test_fresh_connections(self) -> None:
        """Spec 12.3: what is repeated goes on a connection that has served nothing yet."""
        scene = Scene(REPLY)
        scene.send()
        scene.settle()
        self.assertEqual(scene.pool.idle, 1)
        for upgrades in (False, True):
            head, receiver = RequestHead(b"GET", b"/", [(b"Host", b"h")]), Receiver()
            before = len(scene.servers)
            if upgrades:
                scene.pool.upgrade(head, receiver, lambda head, connection: None, fresh=True)
            else:
                scene.pool.send(head, (), receiver, fresh=True)
            receiver.sent = True
            self.assertEqual(scene.pool.idle, before)
            scene.settle()
            self.assertEqual((len(scene.servers), receiver.outcome), (before + 1, "ended"))


class TimeTests(SynchronousTestCase):
    """Connections that expire."""

    def test_keepalive_timeout(self) -> None:
        scene = Scene(REPLY, ClientLimits(keepalive_timeout=60.0))
        scene.send()
        scene.settle()
        scene.pass_time(40)
        scene.send()
        scene.settle()
        scene.pass_time(59)
        self.assertEqual(scene.pool.idle, 1, "counted from the last use")
        scene.pass_time(3)
        self.assertEqual(scene.pool.idle, 0)
        self.assertEqual(scene.server.lost, ConnectionDone)
        self.assertEqual(scene.clock.getDelayedCalls(), [], "nothing is scheduled for nothing")

    def test_busy_is_not_old(self) -> None:
        """F28: a connection in the middle of a stream outlives every keep-alive time-out."""
        scene = Scene(limits=ClientLimits(keepalive_timeout=5.0))
        receiver, _ = scene.send()
        scene.network.flush()
        scene.server.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(30):
            scene.pass_time(10)
            scene.server.transport.write(b"1\r\nx\r\n")
            scene.network.flush()
        scene.server.transport.write(b"0\r\n\r\n")
        scene.settle()
        self.assertEqual((receiver.outcome, receiver.body), ("ended", b"x" * 30))

    def test_one_timer(self) -> None:
        """There is a single timer, however many connections and chunks there are."""
        scene = Scene()
        for _ in range(50):
            scene.send()
        scene.network.flush()
        for server in scene.servers:
            server.transport.write(REPLY[:-1])
        scene.network.flush()
        self.assertEqual(len(scene.clock.getDelayedCalls()), 1)


class ConnectTests(SynchronousTestCase):
    """Attempts to connect that fail."""

    def test_refused(self) -> None:
        scene = Scene()
        scene.listener.refusing = True
        receiver, _ = scene.send()
        scene.settle()
        self.assertIsInstance(receiver.outcome, RequestNotSent)
        self.assertIn("refused", str(receiver.outcome))
        self.assertEqual(scene.clock.getDelayedCalls(), [])

    def test_cancelled_before_the_news(self) -> None:
        """The call is cancelled after the attempt to connect failed, before the receiver is told in the next turn."""
        scene = Scene()
        scene.listener.refusing = True
        receiver, call = scene.send()
        scene.network.flush()
        self.assertIsNone(receiver.outcome)
        call.cancel()
        receiver.cancelled = True
        self.assertEqual(scene.clock.getDelayedCalls(), [], "the news is not awaited any more")
        scene.settle()
        self.assertEqual((scene.pool.connecting, scene.clock.getDelayedCalls()), (0, []))

    def test_any_error(self) -> None:
        scene = Scene()
        scene.listener.error = ValueError("odd")
        receiver, _ = scene.send()
        scene.settle()
        self.assertIsInstance(receiver.outcome, RequestNotSent)

    def test_connect_timeout(self) -> None:
        scene = Scene(limits=ClientLimits(connect_timeout=10.0))
        scene.listener.hanging = True
        receiver, _ = scene.send()
        scene.pass_time(9)
        self.assertIsNone(receiver.outcome)
        scene.pass_time(3)
        self.assertIsInstance(receiver.outcome, RequestNotSent)
        self.assertEqual(scene.pool.connecting, 0)
        self.assertEqual(scene.clock.getDelayedCalls(), [])

    def test_cancelled_while_connecting(self) -> None:
        scene = Scene()
        receiver, call = scene.send()
        call.cancel()
        receiver.cancelled = True
        scene.settle()
        self.assertEqual(scene.servers, [], "the attempt was given up")
        self.assertEqual(scene.pool.connecting, 0)
        self.assertEqual(scene.clock.getDelayedCalls(), [])

    def test_cancelled_after_the_timeout(self) -> None:
        scene = Scene()
        scene.listener.hanging = True
        receiver, call = scene.send()
        scene.pass_time(12)
        self.assertIsInstance(receiver.outcome, RequestNotSent)
        call.cancel()

    def test_closed_by_the_upstream_at_once(self) -> None:
        """The upstream closes between the TCP handshake and the request."""
        pools: list[ConnectionPool] = []

        @implementer(IStreamClientEndpoint)
        class Hasty:
            def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
                client = protocol_factory.buildProtocol(None)  # type: ignore[arg-type]
                assert client is not None
                server = ScriptedServer(lambda server: None)
                pump = Pump(client, server)
                server.transport.loseConnection()
                pump.flush()
                return succeed(client)

        clock = Clock()
        pool = ConnectionPool(Hasty(), clock)
        pools.append(pool)
        receiver = Receiver()
        pool.send(RequestHead(b"GET", b"/", []), [], receiver)
        receiver.sent = True
        clock.advance(0)
        self.assertIsInstance(receiver.outcome, RequestNotSent)
        self.assertEqual((pool.idle, pool.busy, pool.connecting), (0, 0, 0))

    def test_fails_within_connect(self) -> None:
        """The receiver is not called before send() has returned, whatever the endpoint does."""

        @implementer(IStreamClientEndpoint)
        class Failing:
            def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
                return fail(ConnectionLost())

        clock = Clock()
        receiver = Receiver()
        ConnectionPool(Failing(), clock).send(RequestHead(b"GET", b"/", []), [], receiver)
        receiver.sent = True
        clock.advance(0)
        self.assertIsInstance(receiver.outcome, RequestNotSent)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_endpoint_that_cannot_be_cancelled(self) -> None:
        """A connection that is established too late is not used."""
        factories: list[IProtocolFactory] = []

        @implementer(IStreamClientEndpoint)
        class Stubborn:
            def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
                factories.append(protocol_factory)
                return Deferred(lambda _: None)

        pool = ConnectionPool(Stubborn(), Clock())
        call = pool.send(RequestHead(b"GET", b"/", []), [], Receiver())
        call.cancel()
        # None makes the transport close.
        self.assertIsNone(factories[0].buildProtocol(IPv4Address("TCP", "192.0.2.1", 80)))


class CloseTests(SynchronousTestCase):
    """Closing a pool."""

    def test_close(self) -> None:
        scene = Scene()
        busy, _ = scene.send()
        idle, _ = scene.send()
        scene.network.flush()
        scene.servers[1].transport.write(REPLY)
        scene.settle()
        scene.pool.close()
        scene.settle()
        self.assertEqual(idle.outcome, "ended")
        self.assertEqual(scene.servers[1].lost, ConnectionDone)
        self.assertIsNone(scene.servers[0].lost, "what is in use is left to finish")
        scene.servers[0].transport.write(REPLY)
        scene.settle()
        self.assertEqual(busy.outcome, "ended")
        self.assertEqual(scene.servers[0].lost, ConnectionDone)
        self.assertEqual((scene.pool.idle, scene.pool.busy), (0, 0))
        self.assertEqual(scene.clock.getDelayedCalls(), [])

    def test_a_late_call(self) -> None:
        scene = Scene(REPLY)
        scene.pool.close()
        receiver, _ = scene.send()
        scene.settle()
        self.assertEqual(receiver.outcome, "ended")
        self.assertEqual(scene.pool.idle, 0)
        self.assertEqual(scene.clock.getDelayedCalls(), [])

    def test_repr(self) -> None:
        scene = Scene(REPLY)
        scene.send()
        self.assertEqual(repr(scene.pool), "<ConnectionPool idle=0 busy=0 connecting=1>")


class RealServerTests(SynchronousTestCase):
    """Against our own server: both ends of the data path, and back-pressure through them."""

    def setUp(self) -> None:
        self.network = MemoryNetwork()
        self.handled: list[ServerRequest] = []
        self.gone: list[ServerRequest] = []
        self.server = HTTPServerFactory(self.handle, self.network.clock)
        self.listener = self.network.listen("upstream.test", 80, self.server)
        self.pool = ConnectionPool(self.network.endpoint("upstream.test", 80), self.network.clock)
        self.addCleanup(self.check_nothing_is_left)

    def check_nothing_is_left(self) -> None:
        self.pool.close()
        self.network.advance(0)
        self.assertEqual((self.pool.idle, self.pool.busy), (0, 0))
        self.assertEqual(self.listener.open_connections, [])

    def handle(self, request: ServerRequest) -> None:
        """Echo the body, or leave a GET open for the test to answer."""
        self.handled.append(request)
        request.on_gone(lambda: self.gone.append(request))
        if request.head.method != b"GET":
            request.receive_body(
                8192 * KIB,
                lambda body: request.respond(ResponseHead(200, b"OK", [(b"X-Echo", b"yes")]), body.joined()),
                lambda error: request.abort(),
            )

    def send(self, method: bytes = b"GET", body: list[bytes] | None = None) -> tuple[Receiver, Call]:
        receiver = Receiver()
        call = self.pool.send(RequestHead(method, b"/", [(b"Host", b"upstream.test")]), body or [], receiver)
        receiver.sent = True
        self.network.flush()
        return receiver, call

    def test_bodies(self) -> None:
        for size in (0, 1, 1000, 256 * KIB, 256 * KIB + 1, 3000 * KIB):
            payload = bytes(range(256)) * (size // 256 + 1)
            receiver, _ = self.send(b"POST", [payload[:size][:1000], payload[:size][1000:]])
            self.assertEqual((receiver.outcome, receiver.status), ("ended", 200))
            self.assertEqual(receiver.body, payload[:size])
        self.assertEqual(len(self.listener.connections), 1)

    def test_stream(self) -> None:
        receiver, _ = self.send()
        request = self.handled[0]
        request.start_response(ResponseHead(200, b"OK", [(b"Content-Type", b"text/event-stream")]))
        for number in range(100):
            request.write(b"data: %d\n\n" % number)
            self.network.flush()
            self.assertEqual(len(receiver.pieces), number + 1)
        request.finish()
        self.network.flush()
        self.assertEqual(receiver.outcome, "ended")
        self.assertEqual(self.pool.idle, 1)

    def test_upstream_breaks_off(self) -> None:
        """F22: a response that the server aborts never looks complete."""
        receiver, _ = self.send()
        self.handled[0].start_response(ResponseHead(200, b"OK", []))
        self.handled[0].write(b"half")
        self.network.flush()
        self.handled[0].abort()
        self.network.flush()
        self.assertEqual(receiver.body, b"half")
        self.assertIsInstance(receiver.outcome, ResponseLost)

    def test_cancel_reaches_the_upstream(self) -> None:
        receiver, call = self.send()
        self.handled[0].start_response(ResponseHead(200, b"OK", []))
        self.handled[0].write(b"half")
        self.network.flush()
        call.cancel()
        receiver.cancelled = True
        self.network.flush()
        self.assertEqual(self.gone, self.handled)

    def test_slow_reader_slows_the_upstream(self) -> None:
        """F23: back-pressure from the receiver to the server's producer, bounded in between."""

        @implementer(IPushProducer)
        class Source:
            paused = False
            written = 0

            def resumeProducing(self) -> None:
                self.paused = False
                while not self.paused and self.written < 8192 * KIB:
                    self.written += 16 * KIB
                    request.write(bytes(16 * KIB))
                if not self.paused:
                    request.unregister_producer()
                    request.finish()

            def pauseProducing(self) -> None:
                self.paused = True

            def stopProducing(self) -> None:
                self.paused = True

        receiver, call = self.send()
        request = self.handled[0]
        call.pauseProducing()
        source = Source()
        request.start_response(ResponseHead(200, b"OK", []))
        request.register_producer(source)
        source.resumeProducing()
        self.network.flush()
        self.assertLess(source.written, 512 * KIB)
        call.resumeProducing()
        self.network.flush()
        self.assertEqual((receiver.outcome, len(receiver.body)), ("ended", 8192 * KIB))

    def test_server_closes_idle_connections(self) -> None:
        self.send(b"POST")
        self.assertEqual(self.pool.idle, 1)
        self.server.stop_accepting()
        self.network.flush()
        self.assertEqual(self.pool.idle, 0)
