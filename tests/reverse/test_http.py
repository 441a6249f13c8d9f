"""HTTP on streams, with the same server and client that run on TCP."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.client.connection_pool import ClientLimits, ConnectionPool
from ccmproxy.http.client.upgrade import SwitchedConnection
from ccmproxy.http.failures import RequestNotSent, ResponseLost
from ccmproxy.http.message import RequestHead, ResponseHead
from ccmproxy.http.server.factory import HTTPServerFactory, ServerRequest
from ccmproxy.reverse import StreamClientEndpoint
from ccmproxy.testing.pump import KIB
from tests.http.conversation import OK, echo
from tests.http.upstream import Receiver
from tests.reverse.sessions import SessionPair, StreamRecorder
from tests.transports.contract import Building


class HTTPTests(SynchronousTestCase):
    """The side that was dialled sends requests; the side that dialled serves them."""

    def setUp(self) -> None:
        self.requests: list[ServerRequest] = []
        self.handler: Callable[[ServerRequest], None] = echo
        self.pair = SessionPair()
        self.factory = HTTPServerFactory(lambda request: self.handler(request), self.pair.clock)
        self.pair.server.acceptor = self.factory
        self.pool = ConnectionPool(StreamClientEndpoint(self.pair.client), self.pair.clock, ClientLimits())

    def send(self, body: bytes = b"", method: bytes = b"POST") -> Receiver:
        """Begin a request."""
        receiver = Receiver()
        self.pool.send(RequestHead(method, b"/x", [(b"Host", b"a")]), [body] if body else [], receiver)
        receiver.sent = True
        return receiver

    def test_many_requests(self) -> None:
        receivers = [self.send(b"%d" % number) for number in range(100)]
        self.pair.flush()
        for number, receiver in enumerate(receivers):
            self.assertEqual((receiver.status, receiver.body), (200, b"POST /x %d" % number))
        self.assertEqual((self.pool.idle, self.pair.client.streams), (100, 100))

    def test_streams_are_used_again(self) -> None:
        for _ in range(3):
            receiver = self.send(b"again")
            self.pair.flush()
            self.assertEqual(receiver.body, b"POST /x again")
        self.assertEqual(self.pair.client.streams, 1)
        self.pool.close()
        self.pair.flush()
        self.assertEqual((self.pair.client.streams, self.pair.server.streams), (0, 0))

    def test_large_bodies(self) -> None:
        """An upload of more than any window, and a download as large."""
        body = bytes(range(256)) * 3900
        receiver = self.send(body)
        self.pair.flush()
        self.assertTrue(receiver.body == b"POST /x " + body)

    def test_paused_download(self) -> None:
        self.handler = lambda request: request.respond(OK, bytes(4000 * KIB))
        receiver = Receiver()
        call = self.pool.send(RequestHead(b"GET", b"/x", [(b"Host", b"a")]), [], receiver)
        receiver.sent = True
        receiver.on_start = call.pauseProducing
        other = self.send(b"other")
        self.pair.flush()
        self.assertLess(len(receiver.body), 100 * KIB)
        self.assertEqual(len(other.body), 4000 * KIB)
        call.resumeProducing()
        self.pair.flush()
        self.assertEqual((len(receiver.body), receiver.outcome), (4000 * KIB, "ended"))

    def test_client_is_gone(self) -> None:
        self.handler = self.requests.append
        receiver = Receiver()
        call = self.pool.send(RequestHead(b"GET", b"/x", [(b"Host", b"a")]), [], receiver)
        receiver.sent = True
        self.pair.flush()
        gone: list[bool] = []
        self.requests[0].on_gone(lambda: gone.append(True))
        call.cancel()
        self.pair.flush()
        self.assertEqual((gone, self.pair.server.streams), ([True], 0))

    def test_server_aborts(self) -> None:
        self.handler = self.requests.append
        receiver = self.send()
        self.pair.flush()
        self.requests[0].start_response(ResponseHead(200, b"OK", []))
        self.requests[0].write(b"half of it")
        self.pair.flush()
        self.factory.abort_all()
        self.pair.flush()
        self.assertIsInstance(receiver.outcome, ResponseLost)

    def test_body_that_ends_with_the_connection(self) -> None:
        """Such a body is complete when the stream ends, and incomplete when the session is lost."""
        for lost in (False, True):
            self.pair = SessionPair(Building())
            self.pool = ConnectionPool(StreamClientEndpoint(self.pair.client), self.pair.clock)
            receiver = self.send()
            self.pair.flush()
            transport = self.pair.accepted[0].transport
            transport.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
            self.pair.flush()
            if lost:
                self.pair.pump.server.loseConnection()
            else:
                transport.loseConnection()
            self.pair.flush()
            self.assertEqual(receiver.body, b"all of it")
            if lost:
                self.assertIsInstance(receiver.outcome, ResponseLost)
            else:
                self.assertEqual(receiver.outcome, "ended")

    def test_session_is_lost(self) -> None:
        self.handler = self.requests.append
        receiver = self.send()
        self.pair.flush()
        self.pair.pump.client.abortConnection()
        self.pair.flush()
        self.assertIsInstance(receiver.outcome, ResponseLost)
        after = self.send()
        self.pair.flush()
        self.assertIsInstance(after.outcome, RequestNotSent)

    def test_session_is_lost_while_it_is_idle(self) -> None:
        self.send()
        self.pair.flush()
        self.assertEqual(self.pool.idle, 1)
        self.pair.pump.client.abortConnection()
        self.pair.flush()
        self.assertEqual((self.pool.idle, len(self.factory.connections)), (0, 0))

    def test_drain(self) -> None:
        """Draining lets requests in flight finish; the owner of idle streams closes them."""
        self.handler = self.requests.append
        receiver = self.send()
        self.pair.flush()
        self.factory.stop_accepting()
        closed = self.pair.server.close()
        self.pair.flush()
        self.assertNoResult(closed)
        self.requests[0].respond(OK, b"answer")
        self.pair.flush()
        self.assertEqual((receiver.body, receiver.outcome), (b"answer", "ended"))
        self.successResultOf(closed)

    def test_another_protocol(self) -> None:
        """A connection upgrade on a stream."""
        far = StreamRecorder()

        def switch(request: ServerRequest) -> None:
            request.take_over(far)
            far.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
            )

        self.handler = switch
        near = StreamRecorder()

        def switched(head: ResponseHead, connection: SwitchedConnection) -> None:
            connection.hand_over(near)

        receiver = Receiver()
        head = RequestHead(b"GET", b"/x", [(b"Host", b"a"), (b"Connection", b"Upgrade"), (b"Upgrade", b"x")])
        self.pool.upgrade(head, receiver, switched)
        receiver.sent = True
        self.pair.flush()
        near.transport.write(b"one way")
        far.transport.write(b"other way")
        self.pair.flush()
        self.assertEqual((near.received, far.received), (b"other way", b"one way"))
