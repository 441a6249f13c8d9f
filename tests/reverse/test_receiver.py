"""Tests of :mod:`ccmproxy.reverse.receiver`: connections that remotes open to us (spec 7.2, 7.4)."""

from __future__ import annotations

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.http.message import RequestHead
from ccmproxy.http.server.factory import HTTPServerFactory, ServerRequest
from ccmproxy.interfaces.reverse_link import IReverseLink
from ccmproxy.reverse import YamuxProtocol
from ccmproxy.reverse.receiver import Receiver
from ccmproxy.reverse.replacing import REPLACED_GRACE
from ccmproxy.reverse.upgrading import SWITCHING_PROTOCOLS
from ccmproxy.testing.pump import Pump
from ccmproxy.yamux import Session, SessionConfig
from tests.http.conversation import OK, Client, ServerTestCase
from tests.http.upstream import Receiver as Answer
from tests.logged import log_events, messages

ASKING = (
    b"GET /ccm/v1/reverse HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: reverse-proxy\r\n"
    b"Authorization: Bearer x\r\n"
)


class Friend:
    """A minimal ReverseCredential. ``up``: the newest link, while it is attached."""

    tag = "friend"

    def __init__(self) -> None:
        self.up: IReverseLink | None = None
        self.attached = self.detached = 0
        self.left: list[IReverseLink] = []

    def attach(self, link: IReverseLink) -> None:
        if self.up is not None:
            self.up.close()
        self.up = link
        self.attached += 1

    def leaving(self, link: IReverseLink) -> None:
        self.left.append(link)

    def detach(self, link: IReverseLink) -> None:
        self.detached += 1
        if self.up is link:
            self.up = None


class Connecting(Client):
    """A remote's connector: the test sends bytes, and after the 101 there is a session."""

    def __init__(self) -> None:
        super().__init__()
        self.session: YamuxProtocol | None = None

    def dataReceived(self, data: bytes) -> None:
        if self.session is not None:
            self.session.dataReceived(data)
        else:
            super().dataReceived(data)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        super().connectionLost(reason)
        if self.session is not None:
            self.session.connectionLost(reason)


class ReceiverCase(ServerTestCase):
    """An HTTP server on which every request is a handshake of the same remote."""

    def setUp(self) -> None:
        super().setUp()
        self.receiver = Receiver(self.clock)
        self.friend = Friend()
        self.handler = lambda request: self.receiver.accept(request, self.friend, "req_1")
        self.served: list[ServerRequest] = []
        self.events = log_events(self)
        self.addCleanup(self.finish)

    def finish(self) -> None:
        """Close the receiver, and check that nothing is left."""
        self.receiver.close(0)
        self.flush()
        self.wait(11)
        self.factory.abort_all()
        self.flush()
        self.assertEqual(self.receiver.sessions, set())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.friend.attached, self.friend.detached)

    def flush(self) -> None:
        for _ in range(5):
            super().flush()
            self.clock.advance(0)

    def ask(self, more: bytes = b"\r\n") -> Connecting:
        """Connect a remote and send its handshake; ``more``: the rest of the head, and what follows it."""
        connecting = Connecting()
        protocol = self.factory.buildProtocol(None)
        assert protocol is not None
        connecting.pump = Pump(connecting, protocol)
        self.pumps.append(connecting.pump)
        connecting.transport.write(ASKING + more)
        self.flush()
        return connecting

    def connect_remote(self) -> Connecting:
        """Connect a remote that is accepted and serves our requests."""
        connecting = self.ask()
        self.assertEqual(bytes(connecting.received), SWITCHING_PROTOCOLS)
        factory = HTTPServerFactory(self.served.append, self.clock)
        connecting.session = YamuxProtocol(self.clock, False, factory)
        connecting.session.makeConnection(connecting.transport)
        self.flush()
        return connecting

    def send(self) -> Answer:
        """Send a request over the newest connection."""
        assert self.friend.up is not None
        answer = Answer()
        head = RequestHead(b"GET", b"/x", [(b"Host", b"a"), (b"Connection", b"close")])
        ConnectionPool(self.friend.up.endpoint, self.clock).send(head, [], answer)
        answer.sent = True
        self.flush()
        return answer

    def lines(self, words: str) -> list[str]:
        """The receiver's log messages that contain ``words``."""
        return messages(self.events, words)


class AcceptTests(ReceiverCase):
    """From the handshake to the session."""

    def test_requests_go_to_the_remote(self) -> None:
        self.connect_remote()
        answers = [self.send() for _ in range(3)]
        self.assertEqual([request.head.target for request in self.served], [b"/x"] * 3)
        # We are the client of the session, so our streams have odd ids.
        self.assertEqual([getattr(request.peer, "stream_id", None) for request in self.served], [1, 3, 5])
        for number in (2, 0, 1):
            self.served[number].respond(OK, b"%d" % number)
        self.flush()
        self.assertEqual([answer.body for answer in answers], [b"0", b"1", b"2"])

    def test_provides_its_interface(self) -> None:
        self.connect_remote()
        self.assertTrue(verifyObject(IReverseLink, self.friend.up))

    def test_said_in_the_log(self) -> None:
        self.connect_remote().transport.loseConnection()
        self.flush()
        (up,), (down,) = self.lines("is up"), self.lines("is down")
        self.assertTrue(up.startswith("req_1 reverse connection of friend from "), up)
        self.assertTrue(down.startswith("req_1 reverse connection of friend is down: "), down)

    def test_early_bytes(self) -> None:
        """Bytes that arrive together with the head belong to the session: here a ping, which is answered."""
        session = Session(SessionConfig(), False, self.clock.seconds())
        session.ping(self.clock.seconds())
        connecting = self.ask(b"\r\n" + session.data_to_send(1000, self.clock.seconds()))
        received = bytes(connecting.received)
        self.assertTrue(received.startswith(SWITCHING_PROTOCOLS))
        session.receive(received[len(SWITCHING_PROTOCOLS) :], self.clock.seconds())
        self.assertEqual([type(event).__name__ for event in session.events()], ["PingAnswered"])

    def test_early_nonsense(self) -> None:
        """A session that is over before it is attached to the credential is still attached and detached."""
        connecting = self.ask(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertIsNotNone(connecting.lost)
        self.assertEqual((self.friend.attached, self.friend.detached), (1, 1))
        self.assertIsNone(self.friend.up)
        self.assertEqual(self.receiver.sessions, set())
        self.assertEqual(len(self.lines("is down")), 1)

    def test_a_handshake_with_a_body(self) -> None:
        """A handshake with a body is not accepted, and nothing is left behind."""
        errors: list[Exception] = []

        def accept(request: ServerRequest) -> None:
            try:
                self.receiver.accept(request, self.friend, "req_1")
            except RuntimeError as error:
                errors.append(error)
                request.respond(OK, b"")

        self.handler = accept
        self.ask(b"Content-Length: 5\r\n\r\n")
        self.assertEqual(len(errors), 1)
        self.assertEqual((self.receiver.sessions, self.friend.attached), (set(), 0))
        self.successResultOf(self.receiver.close(0))

    def test_a_connector_that_has_left(self) -> None:
        """When the connector disconnects before the answer, nothing is attached to the credential."""
        self.handler = self.requests.append
        self.ask().transport.abortConnection()
        self.flush()
        self.receiver.accept(self.requests[0], self.friend, "req_1")
        self.assertEqual((self.receiver.sessions, self.friend.attached), (set(), 0))

    def test_streams_of_the_remote(self) -> None:
        """Streams opened by the remote are reset: only we open streams."""
        connecting = self.ask()
        session = Session(SessionConfig(), False, self.clock.seconds())
        stream = session.open_stream(self.clock.seconds())
        session.send(stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        connecting.send(session.data_to_send(1000, self.clock.seconds()))
        session.receive(bytes(connecting.received[len(SWITCHING_PROTOCOLS) :]), self.clock.seconds())
        self.assertIn("StreamReset", [type(event).__name__ for event in session.events()])
        self.assertEqual(self.requests, [])


class LossTests(ReceiverCase):
    """Connections that are lost or replaced."""

    def test_lost(self) -> None:
        connecting = self.connect_remote()
        answer = self.send()
        connecting.transport.abortConnection()
        self.flush()
        self.assertIsNone(self.friend.up)
        self.assertEqual(self.receiver.sessions, set())
        self.assertEqual(type(answer.outcome).__name__, "CarrierLost")

    def test_dead_without_knowing(self) -> None:
        connecting = self.connect_remote()
        connecting.pump.client.held = True
        self.wait(15 + 10 + 1)
        self.assertIsNone(self.friend.up)

    def test_going_away(self) -> None:
        """After GO_AWAY of the remote no new request can be sent; requests in flight are answered."""
        connecting = self.connect_remote()
        assert connecting.session is not None and self.friend.up is not None
        answer = self.send()
        connecting.session.close(30)
        self.flush()
        self.assertFalse(self.friend.up.is_usable)
        self.assertEqual(self.friend.left, [self.friend.up])
        self.served[0].respond(OK, b"served")
        self.flush()
        self.assertEqual(answer.body, b"served")
        self.assertIsNone(self.friend.up)

    def test_replaced(self) -> None:
        """A replaced connection is closed; its requests in flight have a limited time to finish."""
        first = self.connect_remote()
        answer = self.send()
        second = self.connect_remote()
        self.assertEqual(len(self.receiver.sessions), 2)
        self.send()
        self.assertIsNone(first.lost)
        self.served[0].respond(OK, b"served")
        self.flush()
        self.assertEqual(answer.body, b"served")
        self.assertIsNotNone(first.lost)
        self.assertIsNone(second.lost)
        self.assertIsNotNone(self.friend.up)

    def test_replaced_while_an_answer_streams(self) -> None:
        """The answer goes on to its end, however long it takes (spec 14), but not for ever."""
        first = self.connect_remote()
        answer = self.send()
        self.connect_remote()
        self.served[0].start_response(OK)
        for _ in range(int(REPLACED_GRACE / 100) - 1):
            self.wait(100)
            self.served[0].write(b"token ")
            self.flush()
            self.assertTrue(answer.body.endswith(b"token "))
        self.assertIsNone(answer.outcome)
        self.wait(101)
        self.assertIsNotNone(answer.outcome)
        self.assertIsNotNone(first.lost)
        self.assertIsNotNone(self.friend.up)

    def test_again_and_again(self) -> None:
        """Many replacements leave no sessions or timers behind."""
        for _ in range(50):
            self.connect_remote()
        self.assertEqual(len(self.receiver.sessions), 1)
        self.assertEqual(self.friend.detached, 49)


class CloseTests(ReceiverCase):
    """When the service stops."""

    def test_none(self) -> None:
        self.successResultOf(self.receiver.close(30))

    def test_idle(self) -> None:
        first, second = self.connect_remote(), self.connect_remote()
        closed = self.receiver.close(30)
        self.flush()
        self.successResultOf(closed)
        self.assertIsNotNone(first.lost)
        self.assertIsNotNone(second.lost)

    def test_what_is_in_flight(self) -> None:
        connecting = self.connect_remote()
        answer = self.send()
        closed = self.receiver.close(30)
        self.wait(29)
        assert connecting.session is not None
        self.assertFalse(connecting.session.is_usable)
        self.assertNoResult(closed)
        self.served[0].respond(OK, b"served")
        self.flush()
        self.assertEqual(answer.body, b"served")
        self.successResultOf(closed)

    def test_or_is_cut(self) -> None:
        self.connect_remote()
        answer = self.send()
        closed = self.receiver.close(30)
        again = self.receiver.close(0)
        self.wait(31)
        self.assertIsNotNone(answer.outcome)
        self.successResultOf(closed)
        self.successResultOf(again)
