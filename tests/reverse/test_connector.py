"""Tests of :mod:`ccmproxy.reverse.connector`: dialling a remote, serving it, and dialling it again (spec 7.2, 7.4)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.client.connection_pool import ClientLimits, ConnectionPool
from ccmproxy.http.message import RequestHead
from ccmproxy.http.server.factory import HTTPServerFactory, ServerRequest
from ccmproxy.interfaces.network import NetworkChange
from ccmproxy.reverse import StreamClientEndpoint, YamuxProtocol
from ccmproxy.reverse.connector import LATE_ATTEMPT, Connector
from ccmproxy.reverse.replacing import PING_ANSWER, REPLACED_ANSWER
from ccmproxy.reverse.upgrading import SWITCHING_PROTOCOLS, asking
from ccmproxy.testing.memory_transport import MemoryTransport
from ccmproxy.testing.pump import KIB, MemoryNetwork, Pump
from ccmproxy.yamux import Session, SessionConfig
from tests.http.conversation import OK, echo
from tests.http.upstream import Receiver
from tests.logged import everything, log_events, messages

SECRET = "our-token-4711"
LIMITS = ClientLimits(connect_timeout=10, first_byte_timeout=20)
REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"


class Dialled(Protocol):
    """The remote's end of one connection: the test sends bytes, and after ``switch`` there is a session."""

    transport: MemoryTransport

    def __init__(self, scene: ConnectorCase) -> None:
        self.received = bytearray()
        self.lost: type[BaseException] | None = None
        self.session: YamuxProtocol | None = None
        self._scene = scene

    def dataReceived(self, data: bytes) -> None:
        if self.session is not None:
            self.session.dataReceived(data)
        else:
            self.received += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.lost = reason.type
        if self.session is not None:
            self.session.connectionLost(reason)

    def write(self, data: bytes) -> None:
        """Send ``data``, and let everything happen that follows from it."""
        self.transport.write(data)
        self._scene.settle()

    def switch(self) -> YamuxProtocol:
        """Accept the upgrade, and return the session."""
        self.transport.write(SWITCHING_PROTOCOLS)
        self.session = YamuxProtocol(self._scene.clock, True)
        self.session.makeConnection(self.transport)
        self._scene.settle()
        return self.session


class ConnectorCase(SynchronousTestCase):
    """One connector, and the remote that it dials."""

    def setUp(self) -> None:
        self.network = MemoryNetwork()
        self.clock = self.network.clock
        self.dialled: list[Dialled] = []
        self.listener = self.network.listen("friend.test", 443, Factory.forProtocol(self._build))
        self.requests: list[ServerRequest] = []
        self.handler: Callable[[ServerRequest], None] = echo
        self.factory = HTTPServerFactory(lambda request: self.handler(request), self.clock)
        self.connections = ConnectionPool(
            self.network.endpoint("friend.test", 443, timeout=None), self.clock, LIMITS
        )
        #: Addresses that this machine does not have any more. All connections are from 127.0.0.1.
        self.lost_addresses: set[str] = set()
        self.connector = self.connect(lambda: 0.0)
        self.events = log_events(self)
        self.addCleanup(self.finish)

    def connect(self, random: Callable[[], float]) -> Connector:
        """Make a connector, which is not started."""
        request = asking(b"friend.test", b"/team/ccm/v1/reverse", SECRET, "ccmproxy/test")
        return Connector(
            "friend",
            self.connections,
            request,
            self.factory,
            self.clock,
            random,
            lambda host: host not in self.lost_addresses,
        )

    def finish(self) -> None:
        """Stop the connector; check that nothing is left and that no token was logged."""
        stopped = self.connector.stop(0)
        self.settle()
        self.pass_time(12)
        self.successResultOf(stopped)
        self.assertEqual([pump for pump in self.listener.connections if not pump.client.disconnected], [])
        for pump in self.listener.connections:
            pump.server.abortConnection()
        self.settle()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(SECRET in everything(self.events), "a token was logged")

    def _build(self) -> Dialled:
        self.dialled.append(Dialled(self))
        return self.dialled[-1]

    def settle(self) -> None:
        """Deliver all bytes and run all calls that are due."""
        for _ in range(10):
            self.network.flush()
            self.clock.advance(0)

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass, in steps."""
        while seconds > 0:
            self.clock.advance(min(step, seconds))
            self.settle()
            seconds -= step

    def start(self) -> None:
        self.connector.start()
        self.settle()

    def up(self) -> YamuxProtocol:
        """Start the connector and accept its connection; return the remote's session."""
        self.start()
        session = self.last.switch()
        self.assertTrue(self.connector.is_up)
        return session

    @property
    def last(self) -> Dialled:
        """The connection made last."""
        return self.dialled[-1]

    @property
    def pump(self) -> Pump:
        """The pump of the connection made last."""
        return self.listener.connections[-1]

    @property
    def attempts(self) -> int:
        """Number of times that the connector has dialled."""
        return self.listener.attempts

    def ask(self, session: YamuxProtocol, body: bytes = b"") -> Receiver:
        """The remote sends a request over its session."""
        receiver = Receiver()
        pool = ConnectionPool(StreamClientEndpoint(session), self.clock)
        head = RequestHead(b"POST", b"/x", [(b"Host", b"a"), (b"Connection", b"close")])
        pool.send(head, [body] if body else [], receiver)
        receiver.sent = True
        self.settle()
        return receiver

    def lines(self, words: str) -> list[str]:
        """The connector's log messages that contain ``words``."""
        own = [event for event in self.events if event["log_namespace"].endswith("Connector")]
        return messages(own, words)

    def assert_next_attempt_after(self, *delays: float) -> None:
        """Check that the connector dials after each of ``delays``, neither earlier nor later; each attempt fails."""
        for delay in delays:
            before = self.attempts
            self.pass_time(delay - 0.25, step=0.25)
            self.assertEqual(self.attempts, before, f"too early: {delay}")
            self.pass_time(0.25, step=0.25)
            self.assertEqual(self.attempts, before + 1, f"too late: {delay}")

    def assert_no_attempt(self) -> None:
        """Check that nothing is dialled, however long we wait."""
        before = self.attempts
        self.pass_time(100, step=5)
        self.assertEqual(self.attempts, before)


class HandshakeTests(ConnectorCase):
    def test_what_is_asked_for(self) -> None:
        self.start()
        self.assertEqual(
            bytes(self.last.received),
            b"GET /team/ccm/v1/reverse HTTP/1.1\r\nHost: friend.test\r\nConnection: Upgrade\r\n"
            b"Upgrade: reverse-proxy\r\nAuthorization: Bearer our-token-4711\r\nUser-Agent: ccmproxy/test\r\n\r\n",
        )
        self.assertFalse(self.connector.is_up)

    def test_nothing_before_the_start(self) -> None:
        self.connector.interface_updated()
        self.assert_no_attempt()

    def test_started_twice(self) -> None:
        self.start()
        self.start()
        self.assertEqual(self.attempts, 1)

    def test_serves_what_is_asked(self) -> None:
        session = self.up()
        for number in range(3):
            receiver = self.ask(session, b"%d" % number)
            self.assertEqual((receiver.status, receiver.body), (200, b"POST /x %d" % number))
        self.assertEqual(self.lines(""), ["friend: reverse connection is up"])

    def test_many_at_once(self) -> None:
        """A request that waits for its answer does not hold up others."""
        self.handler = lambda request: echo(request) if self.requests else self.requests.append(request)
        session = self.up()
        waiting = self.ask(session)
        for number in range(20):
            self.assertEqual(self.ask(session, b"%d" % number).status, 200)
        self.assertIsNone(waiting.outcome)
        echo(self.requests[0])
        self.settle()
        self.assertEqual(waiting.status, 200)

    def test_early_bytes(self) -> None:
        """A stream and its request that arrive together with the 101, in one piece or several."""
        session = Session(SessionConfig(), True, self.clock.seconds())
        stream = session.open_stream(self.clock.seconds())
        session.send(stream, b"GET /early HTTP/1.1\r\nHost: a\r\n\r\n")
        early = SWITCHING_PROTOCOLS + session.data_to_send(64 * KIB, self.clock.seconds())
        self.handler = self.requests.append
        for cut in range(0, len(early) + 1, 7):
            connector = self.connector = self.connect(lambda: 0.0)
            self.requests.clear()
            self.start()
            for piece in filter(None, (early[:cut], early[cut:])):
                self.last.write(piece)
            self.assertEqual([request.head.target for request in self.requests], [b"/early"], cut)
            connector.stop(0)
            self.settle()
            self.pass_time(1)

    def test_interim_answers(self) -> None:
        self.start()
        self.last.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        self.last.switch()
        self.assertTrue(self.connector.is_up)

    def test_a_switch_to_something_else(self) -> None:
        """A 101 for another protocol is a failure, and nothing more is sent on that connection."""
        for fields in (
            b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
            b"Connection: Upgrade\r\n",
            b"Upgrade: reverse-proxy\r\n",
            b"",
        ):
            self.events.clear()
            self.connector = self.connect(lambda: 0.0)
            self.start()
            self.last.write(b"HTTP/1.1 101 Switching Protocols\r\n" + fields + b"\r\n\x00\x00\x00\x01")
            self.assertFalse(self.connector.is_up)
            self.assertIsNotNone(self.last.lost)
            self.assertEqual(
                self.lines("no reverse connection"),
                ["friend: no reverse connection (the answer switches to something else), again in 2.0 s"],
            )
            self.assert_next_attempt_after(2)
            self.connector.stop(0)
            self.settle()


class RefusedTests(ConnectorCase):
    """Answers other than a valid 101."""

    def test_refusals(self) -> None:
        for status in (200, 204, 301, 307, 400, 401, 403, 404, 426, 500, 503):
            self.events.clear()
            self.connector = self.connect(lambda: 0.0)
            self.start()
            attempts = self.attempts
            self.last.write(
                b"HTTP/1.1 %d X\r\nLocation: http://friend.test/other\r\nContent-Length: 2\r\n\r\nno" % status
            )
            self.assertEqual(
                self.lines("reverse connection"),
                [f"friend: no reverse connection (refused with {status}), again in 2.0 s"],
            )
            self.assertIsNotNone(self.last.lost)
            self.assertEqual(self.attempts, attempts)
            self.connector.stop(0)
            self.settle()

    def test_an_endless_refusal_is_not_read(self) -> None:
        self.start()
        self.last.transport.write(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1000 * KIB))
        self.settle()
        self.assertIsNotNone(self.last.lost)

    def test_no_http(self) -> None:
        for data in (
            b"SSH-2.0-OpenSSH_9\r\n",
            b"\x15\x03\x01\x00\x02\x02\x16",
            b"\x00" * 12,
            b"HTTP/1.1 1\r\n\r\n",
        ):
            self.connector = self.connect(lambda: 0.0)
            self.start()
            self.last.write(data)
            self.assertIsNotNone(self.last.lost)
            self.assert_next_attempt_after(2)
            self.connector.stop(0)
            self.settle()

    def test_a_head_that_never_ends(self) -> None:
        self.start()
        self.last.write(b"HTTP/1.1 101 Switching Protocols\r\n")
        sent = 0
        while self.last.lost is None and sent < 10_000 * KIB:
            self.last.write(b"X-Padding: %b\r\n" % (b"x" * 8 * KIB))
            sent += 8 * KIB
        self.assertLessEqual(sent, 300 * KIB)
        self.assertEqual(len(self.lines("too large")), 1)

    def test_a_head_that_dribbles(self) -> None:
        """The time-out for the head applies even if single bytes arrive now and then."""
        self.start()
        head = b"HTTP/1.1 101 Switching Protocols\r\nX-Padding: xxxxxxx"
        sent = 0
        while self.last.lost is None and sent < len(head):
            self.last.write(head[sent : sent + 1])
            self.pass_time(1)
            sent += 1
        self.assertTrue(19 <= sent <= 22, sent)

    def test_silence(self) -> None:
        self.start()
        self.pass_time(19)
        self.assertIsNone(self.last.lost)
        self.pass_time(2)
        self.assertIsNotNone(self.last.lost)
        self.assertEqual(
            self.lines("no reverse"),
            ["friend: no reverse connection (no response within 20 seconds), again in 2.0 s"],
        )

    def test_no_connection(self) -> None:
        self.listener.hanging = True
        self.start()
        self.pass_time(9)
        self.assertEqual(self.lines("no reverse"), [])
        self.pass_time(2)
        self.assertEqual(len(self.lines("no reverse")), 1)

    def test_closed_without_an_answer(self) -> None:
        self.start()
        self.last.transport.loseConnection()
        self.settle()
        self.assertEqual(len(self.lines("no reverse")), 1)
        self.assert_next_attempt_after(2)


class AgainTests(ConnectorCase):
    """Delays before the next attempt (spec 7.4)."""

    def test_for_ever(self) -> None:
        self.listener.refusing = True
        self.start()
        self.assert_next_attempt_after(2, 4, 8, 16, 30, 30, 30)
        self.listener.refusing = False
        self.pass_time(30)
        self.last.switch()
        self.assertTrue(self.connector.is_up)

    def test_up_to_half_more_at_random(self) -> None:
        self.connector = self.connect(lambda: 0.5)
        self.listener.refusing = True
        self.start()
        self.assert_next_attempt_after(2.5, 5, 10)
        self.assertTrue(self.lines("no reverse")[0].endswith("again in 2.5 s"))

    def test_one_that_lived_shortly(self) -> None:
        """A short-lived connection counts as a failure, so that a remote that drops us at once is not hammered."""
        self.pass_time(100)
        self.start()
        for delay in (2, 4, 8, 16, 30):
            self.last.switch()
            self.pass_time(5)
            self.pump.server.abortConnection()
            self.settle()
            self.assertFalse(self.connector.is_up)
            self.assert_next_attempt_after(delay)

    def test_one_that_lived_long(self) -> None:
        self.listener.refusing = True
        self.start()
        self.assert_next_attempt_after(2, 4, 8, 16)
        self.listener.refusing = False
        self.assert_next_attempt_after(30)
        self.last.switch()
        self.pass_time(60)
        self.pump.server.abortConnection()
        self.settle()
        self.assert_next_attempt_after(2)

    def test_a_long_handshake_is_no_life(self) -> None:
        self.start()
        self.last.write(REFUSED)
        self.assert_next_attempt_after(2)
        self.pass_time(15)
        self.last.switch()
        self.pass_time(50)
        self.pump.server.abortConnection()
        self.settle()
        self.assert_next_attempt_after(4)

    def test_loss_is_logged(self) -> None:
        self.up()
        self.pump.server.abortConnection()
        self.settle()
        (text,) = self.lines("no reverse connection")
        self.assertIn("connection was lost", text)
        self.assertTrue(text.endswith("again in 2.0 s"), text)

    def test_the_remote_breaks_the_protocol(self) -> None:
        self.up()
        self.last.write(b"GET / HTTP/1.1\r\n\r\n")
        self.assertFalse(self.connector.is_up)
        self.assertEqual(len(self.lines("no reverse connection")), 1)
        self.assertIsNotNone(self.last.lost)
        self.assert_next_attempt_after(2)

    def test_the_remote_says_nothing_any_more(self) -> None:
        """A dead connection is noticed because a ping is not answered."""
        self.up()
        self.pump.server.held = True
        self.pass_time(15 + 10 + 1)
        self.assertFalse(self.connector.is_up)
        self.assertEqual(len(self.lines("no reverse connection")), 1)

    def test_the_remote_goes_away(self) -> None:
        """After GO_AWAY of the remote its requests in flight are served, and then it is dialled again."""
        self.handler = self.requests.append
        session = self.up()
        receiver = self.ask(session)
        session.close(30)
        self.settle()
        self.assertIsNone(self.last.lost)
        self.requests[0].respond(OK, b"served")
        self.settle()
        self.assertEqual(receiver.body, b"served")
        self.assertFalse(self.connector.is_up)
        self.assert_next_attempt_after(2)


class InterfaceTests(ConnectorCase):
    """After a change of the machine's network, what it concerns is dialled anew, and nothing that lives is cut
    (spec 14, F68)."""

    def changed(self, change: NetworkChange = NetworkChange.DEFAULT_ROUTE, *, dials: bool = True) -> None:
        """Report a change of the network, and check whether the connector dials, once."""
        before = self.attempts
        self.connector.interface_updated(change)
        self.settle()
        self.assertEqual(self.attempts, before + dials)

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len([pump for pump in self.listener.connections if not pump.client.disconnected])

    def assert_one(self) -> None:
        """Accept the newest connection; check that it is the only one, and that no other is dialled."""
        self.last.switch()
        self.assertTrue(self.connector.is_up)
        self.assert_no_attempt()
        self.assertEqual(self.open, 1)

    def serving(self) -> Receiver:
        """A connection that is up, with a request in flight."""
        self.handler = self.requests.append
        return self.ask(self.up())

    def test_the_default_route(self) -> None:
        """The new connection takes over, and the old one goes on until its requests are done."""
        receiver = self.serving()
        old = self.pump
        self.changed()
        self.assertTrue(self.connector.is_up, "the old one serves as long as there is no other")
        new = self.last.switch()
        self.assertEqual(self.open, 2)
        self.pass_time(120)
        self.assertIsNone(receiver.outcome)
        another = self.ask(new)
        for request in self.requests:
            request.respond(OK, b"served")
        self.settle()
        self.assertEqual((receiver.body, another.body), (b"served", b"served"))
        self.assertTrue(old.client.disconnected)
        self.assertEqual(self.open, 1)
        self.assert_no_attempt()
        self.assertEqual(self.lines("no reverse connection"), [])

    def test_an_old_connection_that_is_dead(self) -> None:
        """It does not answer a ping, so that what it carried is soon made elsewhere."""
        receiver = self.serving()
        old = self.pump
        old.server.held = old.client.held = True
        self.changed()
        self.last.switch()
        self.pass_time(REPLACED_ANSWER + 1)
        self.assertTrue(old.client.disconnected)
        self.assertIsNone(receiver.head)
        self.assertEqual(self.open, 1)
        self.assertEqual(self.lines("no reverse connection"), [])

    def test_the_new_connection_does_not_come_about(self) -> None:
        """The old one serves on, and the new one is tried again."""
        receiver = self.serving()
        self.changed()
        self.last.write(REFUSED)
        self.assert_next_attempt_after(2)
        self.requests[0].respond(OK, b"served")
        self.settle()
        self.assertEqual(receiver.body, b"served")
        self.assert_one()

    def test_the_old_one_is_lost_before_the_new_one_is_there(self) -> None:
        """Nothing is dialled besides what is dialled already."""
        self.up()
        old = self.pump
        self.changed()
        old.server.abortConnection()
        self.settle()
        self.assertFalse(self.connector.is_up)
        self.assert_one()

    def test_its_own_address_is_gone(self) -> None:
        """Then the connection is dead whatever else has changed, and is dropped without a ping."""
        self.up()
        self.handler = self.requests.append
        for change in (NetworkChange.OTHER, NetworkChange.DEFAULT_ROUTE):
            with self.subTest(change=change):
                assert self.last.session is not None
                receiver, old = self.ask(self.last.session), self.pump
                self.lost_addresses.add("127.0.0.1")
                self.changed(change)
                self.assertTrue(old.client.disconnected)
                self.assertFalse(self.connector.is_up)
                self.assertIsNotNone(receiver.outcome)
                self.lost_addresses.clear()
                self.assert_one()

    def test_containers_come_and_go(self) -> None:
        """Whatever happens to other links and addresses cuts nothing, and dials nothing."""
        receiver = self.serving()
        for _ in range(30):
            self.changed(NetworkChange.OTHER, dials=False)
            self.pass_time(1)
        self.pass_time(30)
        self.assertEqual(self.open, 1)
        self.requests[0].respond(OK, b"served")
        self.settle()
        self.assertEqual(receiver.body, b"served")

    def test_some_change_and_the_connection_is_dead(self) -> None:
        """This is found out by a ping, long before the next one that is due anyway."""
        self.serving()
        self.pass_time(1)
        self.pump.server.held = self.pump.client.held = True
        self.changed(NetworkChange.OTHER, dials=False)
        self.pass_time(PING_ANSWER - 1)
        self.assertEqual(self.attempts, 1)
        self.pass_time(4)
        self.assertEqual(self.attempts, 2)

    def test_while_connecting(self) -> None:
        self.listener.hanging = True
        self.start()
        self.listener.hanging = False
        self.changed()
        self.assert_one()

    def test_other_changes_while_connecting(self) -> None:
        """An attempt that has just begun is left alone, or a slow one would never succeed; a late one is not."""
        self.listener.hanging = True
        self.start()
        self.listener.hanging = False
        self.changed(NetworkChange.OTHER, dials=False)
        self.pass_time(LATE_ATTEMPT)
        self.changed(NetworkChange.OTHER)
        self.assert_one()

    def test_during_the_handshake(self) -> None:
        self.start()
        old = self.last
        self.changed()
        self.assertIsNotNone(old.lost)
        self.assert_one()

    def test_while_it_waits(self) -> None:
        for change in (NetworkChange.DEFAULT_ROUTE, NetworkChange.OTHER):
            with self.subTest(change=change):
                self.start()
                self.last.write(REFUSED)
                self.changed(change)
        self.assert_one()

    def test_the_delays_begin_anew(self) -> None:
        self.listener.refusing = True
        self.start()
        self.assert_next_attempt_after(2, 4, 8)
        self.changed()
        self.assert_next_attempt_after(2, 4)

    def test_twice_in_a_moment(self) -> None:
        self.up()
        self.connector.interface_updated()
        self.connector.interface_updated()
        self.settle()
        self.assert_one()

    def test_from_within_a_request(self) -> None:
        """The change is reported while a request from the old connection is being handled."""
        session = self.up()

        def handle(request: ServerRequest) -> None:
            self.connector.interface_updated()
            echo(request)

        self.handler = handle
        receiver = self.ask(session)
        self.assertEqual(self.attempts, 2)
        self.assertIsNotNone(receiver.head)
        self.assert_one()

    def test_stopped_while_an_old_one_drains(self) -> None:
        """The end has its own time."""
        receiver = self.serving()
        self.changed()
        self.last.switch()
        stopped = self.connector.stop(10)
        self.settle()
        self.assertNoResult(stopped)
        self.assertIsNone(receiver.outcome)
        self.pass_time(11)
        self.successResultOf(stopped)
        self.assertIsNotNone(receiver.outcome)

    def test_an_old_one_whose_address_goes(self) -> None:
        receiver = self.serving()
        self.changed()
        self.last.switch()
        self.lost_addresses.add("127.0.0.1")
        self.connector.interface_updated(NetworkChange.OTHER)
        self.settle()
        self.assertIsNotNone(receiver.outcome)

    def test_after_the_end(self) -> None:
        self.up()
        self.connector.stop(0)
        self.connector.interface_updated()
        self.assert_no_attempt()


class StopTests(ConnectorCase):
    """Stopping closes the connection with GO_AWAY, and nothing is dialled any more."""

    def test_go_away(self) -> None:
        session = self.up()
        stopped = self.connector.stop(30)
        self.assertFalse(session.is_usable and self.connector.is_up)
        self.settle()
        self.successResultOf(stopped)
        self.assertEqual(self.last.lost, ConnectionDone)
        self.assert_no_attempt()

    def test_what_is_served_ends(self) -> None:
        self.handler = self.requests.append
        session = self.up()
        receiver = self.ask(session)
        stopped = self.connector.stop(30)
        self.pass_time(29)
        self.assertFalse(session.is_usable)
        self.assertNoResult(stopped)
        self.requests[0].respond(OK, b"served")
        self.settle()
        self.assertEqual((receiver.outcome, receiver.body), ("ended", b"served"))
        self.successResultOf(stopped)
        self.assert_no_attempt()

    def test_or_is_cut(self) -> None:
        self.handler = self.requests.append
        receiver = self.ask(self.up())
        stopped = self.connector.stop(30)
        self.pass_time(29)
        self.assertIsNone(receiver.outcome)
        self.pass_time(2)
        self.assertIsInstance(receiver.outcome, Exception)
        self.successResultOf(stopped)
        self.assertEqual(self.factory.connections, set())
        self.assert_no_attempt()

    def test_again(self) -> None:
        """A second call of ``stop`` waits for the end as well."""
        self.handler = self.requests.append
        self.ask(self.up())
        first, second = self.connector.stop(30), self.connector.stop(0)
        self.settle()
        self.assertNoResult(first)
        self.assertNoResult(second)
        self.requests[0].respond(OK, b"")
        self.settle()
        self.successResultOf(first)
        self.successResultOf(second)
        self.successResultOf(self.connector.stop(30))

    def test_before_the_start(self) -> None:
        self.successResultOf(self.connector.stop(30))
        self.assert_no_attempt()

    def test_while_connecting(self) -> None:
        self.listener.hanging = True
        self.start()
        self.successResultOf(self.connector.stop(30))
        self.assert_no_attempt()

    def test_during_the_handshake(self) -> None:
        self.start()
        self.successResultOf(self.connector.stop(30))
        self.settle()
        self.assertIsNotNone(self.last.lost)
        self.assert_no_attempt()

    def test_when_the_answer_is_on_its_way(self) -> None:
        self.start()
        self.last.transport.write(SWITCHING_PROTOCOLS)
        self.successResultOf(self.connector.stop(30))
        self.settle()
        self.assertFalse(self.connector.is_up)
        self.assertIsNotNone(self.last.lost)
        self.assert_no_attempt()

    def test_while_it_waits(self) -> None:
        self.start()
        self.last.write(REFUSED)
        self.successResultOf(self.connector.stop(30))
        self.assert_no_attempt()

    def test_when_it_is_lost_in_the_same_moment(self) -> None:
        self.up()
        self.pump.server.abortConnection()
        stopped = self.connector.stop(30)
        self.settle()
        self.successResultOf(stopped)
        self.assertEqual(self.lines("no reverse connection"), [])
        self.assert_no_attempt()

    def test_a_remote_that_does_not_read(self) -> None:
        """A remote that does not read delays the end no longer than the grace time."""
        self.up()
        self.pump.client.held = self.pump.server.held = True
        stopped = self.connector.stop(5)
        self.pass_time(6)
        self.successResultOf(stopped)
