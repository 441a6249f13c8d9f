"""The server as a whole: graceful shutdown, and a single timer for all connections."""

from __future__ import annotations

from typing import cast

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.message import ResponseHead
from ccmproxy.http.server.channel import HTTPServerProtocol
from ccmproxy.http.server.factory import plain_error
from tests.http.conversation import OK, ServerTestCase, echo

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class StoppingTests(ServerTestCase):
    """Graceful shutdown."""

    def test_nothing_to_wait_for(self) -> None:
        self.factory.stop_accepting()
        self.assertIsNone(self.successResultOf(self.factory.drained()))
        self.assertIsNone(self.factory.buildProtocol(None))

    def test_idle_connections_are_closed_now(self) -> None:
        new = self.connect()
        used = self.connect()
        used.send(GET)
        self.requests.pop().respond(OK, b"hello")
        self.flush()
        self.factory.stop_accepting()
        drained = self.factory.drained()
        self.assertNoResult(drained)
        self.flush()
        self.assertEqual((new.lost, used.lost), (ConnectionDone, ConnectionDone))
        self.successResultOf(drained)

    def test_busy_ones_after_their_response(self) -> None:
        waiting, streaming = self.connect(), self.connect()
        waiting.send(GET)
        streaming.send(GET)
        self.requests[1].start_response(ResponseHead(200, b"OK", []))
        self.requests[1].write(b"one ")
        self.factory.stop_accepting()
        drained = self.factory.drained()
        self.wait(1000)
        self.requests[0].respond(OK, b"hello")
        self.requests[1].write(b"two")
        self.requests[1].finish()
        self.assertNoResult(drained)
        self.flush()
        self.successResultOf(drained)
        self.assertEqual(waiting.answers("GET"), [(200, b"hello")])
        self.assertIn(b"\r\nConnection: close\r\n", waiting.received)
        self.assertEqual(streaming.answers("GET"), [(200, b"one two")])

    def test_half_a_request_is_still_served(self) -> None:
        self.handler = echo
        client = self.connect()
        client.send(GET[:10])
        self.factory.stop_accepting()
        client.send(GET[10:])
        self.assertEqual((client.answers("GET"), client.lost), ([(200, b"GET / ")], ConnectionDone))

    def test_aborting(self) -> None:
        waiting, idle = self.connect(), self.connect()
        waiting.send(GET)
        gone: list[None] = []
        self.requests[0].on_gone(lambda: gone.append(None))
        first, second = self.factory.drained(), self.factory.drained()
        self.factory.abort_all()
        self.flush()
        self.assertEqual((waiting.lost, idle.lost, gone), (ConnectionLost, ConnectionLost, [None]))
        self.successResultOf(first)
        self.successResultOf(second)

    def test_waiting_can_be_given_up(self) -> None:
        self.connect().send(GET)
        drained = self.factory.drained()
        drained.addErrback(lambda failure: None)
        drained.cancel()
        self.factory.abort_all()
        self.flush()
        self.assertEqual(self.factory.connections, set())


class TimerTests(ServerTestCase):
    """Deadlines."""

    def test_one_timer_for_all(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])
        clients = [self.connect() for _ in range(10)]
        for client in clients:
            client.send(GET)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        for client in clients:
            client.transport.loseConnection()
        self.flush()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.connect()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_an_error_concerns_one_connection(self) -> None:
        broken, fine = self.connect(), self.connect()
        connections = cast(set[HTTPServerProtocol], self.factory.connections)
        connection = next(c for c in connections if id(c.transport) == id(broken.pump.server))

        def fail(now: float) -> None:
            raise ZeroDivisionError

        connection.check_deadline = fail  # type: ignore[method-assign]
        self.wait(1)
        self.logged(ZeroDivisionError)
        self.assertEqual((broken.lost, fine.lost), (ConnectionLost, None))
        self.wait(31)
        self.assertEqual(fine.lost, ConnectionDone)


class PlainErrorTests(SynchronousTestCase):
    """Answers of servers without a dialect."""

    def test_plain_error(self) -> None:
        head, body = plain_error(431, "too large")
        self.assertEqual(
            (head.status, head.reason, body), (431, b"Request Header Fields Too Large", b"too large\n")
        )
        self.assertEqual(plain_error(599, "x")[0].reason, b"Error")
