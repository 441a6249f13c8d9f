"""One attempt at an upstream: before its response, while the response is held, and when it is interrupted."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.http.failures import RequestNotSent, ResponseLost
from ccmproxy.http.message import RequestHead
from ccmproxy.proxy.attempt import COLLECT_SIZE, COLLECT_TIME, Attempt, ClientGone, Interrupted
from ccmproxy.state.availability import Availability
from ccmproxy.testing.pump import KIB, MemoryNetwork
from tests.conversation import World
from tests.proxy.manual_upstream import MESSAGE, STREAM_HEAD, Connection, ManualUpstream

USED_UP = Availability("rate_limited", "rate_limited", "used up")


class AttemptTestCase(SynchronousTestCase):
    """An attempt at an upstream in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.connections: list[Connection] = []
        self.listener = self.network.listen("api", 80, _Listener(self.connections))
        self.pool = ConnectionPool(self.network.endpoint("api", 80), self.clock)
        self.attempt = Attempt(self.clock)

    def send(self) -> Connection:
        """Send a request, and return the upstream's connection."""
        self.attempt.send(self.pool, RequestHead(b"POST", b"/", [(b"Host", b"api")]), [b"{}"])
        self.network.flush()
        return self.connections[-1]

    def answer(self, data: bytes) -> None:
        """Let the upstream send ``data``."""
        self.connections[-1].transport.write(data)
        self.network.flush()


class WaitingTests(AttemptTestCase):
    """Before the head arrives."""

    def test_the_head_comes_before_the_body(self) -> None:
        self.send()
        self.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 100_000)
        head = self.successResultOf(self.attempt.answered)
        self.assertEqual(head.status, 200)
        # Reading is paused until the exchange decides what to do with the body.
        self.assertFalse(self.listener.connections[0].client.reading)
        self.attempt.discard()

    def test_a_lost_connection(self) -> None:
        connection = self.send()
        self.assertTrue(self.attempt.is_sent)
        connection.transport.abortConnection()
        self.network.flush()
        self.failureResultOf(self.attempt.answered, ResponseLost)
        self.assertTrue(
            self.attempt.is_sent, "it still counts as one of the sends of its request (spec 12.1)"
        )

    def test_a_connection_that_is_being_made(self) -> None:
        """Nobody has seen anything of the request yet."""
        self.listener.hanging = True
        self.attempt.send(self.pool, RequestHead(b"POST", b"/", [(b"Host", b"api")]), [b"{}"])
        self.network.flush()
        self.assertFalse(self.attempt.is_sent)
        self.attempt.discard()

    def test_a_refused_connection(self) -> None:
        self.listener.refusing = True
        self.attempt.send(self.pool, RequestHead(b"POST", b"/", [(b"Host", b"api")]), [])
        self.network.flush()
        self.clock.advance(0)
        self.failureResultOf(self.attempt.answered, RequestNotSent)

    def test_an_interrupt(self) -> None:
        """Spec 5.3: the upstream's connection is dropped at once, and the reason is reported."""
        connection = self.send()
        self.attempt.interrupt(USED_UP)
        failure = self.failureResultOf(self.attempt.answered, Interrupted)
        self.assertEqual(str(failure.value), "used up")
        self.network.flush()
        self.assertIsNotNone(connection.lost)
        self.attempt.interrupt(USED_UP)

    def test_an_interrupt_before_anything_was_sent(self) -> None:
        """Nothing is sent, and no connection is used."""
        self.attempt.interrupt(USED_UP)
        self.attempt.send(self.pool, RequestHead(b"POST", b"/", [(b"Host", b"api")]), [])
        self.network.flush()
        self.assertEqual(self.connections, [])
        self.failureResultOf(self.attempt.answered, Interrupted)

    def test_a_client_that_left(self) -> None:
        connection = self.send()
        self.attempt.client_gone()
        self.failureResultOf(self.attempt.answered, ClientGone)
        self.network.flush()
        self.assertIsNotNone(connection.lost)

    def test_only_the_first_end_counts(self) -> None:
        self.send()
        self.attempt.client_gone()
        self.attempt.interrupt(USED_UP)
        self.attempt.discard()
        self.failureResultOf(self.attempt.answered, ClientGone)


class CollectingTests(AttemptTestCase):
    """Reading as much of a refusal as is needed to classify it."""

    def collect(self) -> Deferred[bytes]:
        """Begin."""
        self.successResultOf(self.attempt.answered)
        collected = Deferred.fromCoroutine(self.attempt.collect())
        self.network.flush()
        return collected

    def test_a_whole_body(self) -> None:
        self.send()
        self.answer(b"HTTP/1.1 403 X\r\nContent-Length: 10\r\n\r\n01234")
        collected = self.collect()
        self.assertNoResult(collected)
        self.answer(b"56789")
        self.assertEqual(self.successResultOf(collected), b"0123456789")
        # It also works if the bytes have arrived already.
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.attempt.collect())), b"0123456789")
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.getTime() > 5], [])

    def test_no_more_than_enough(self) -> None:
        self.send()
        self.answer(b"HTTP/1.1 403 X\r\nContent-Length: 10000000\r\n\r\n" + b"x" * (1024 * KIB))
        collected = self.collect()
        self.assertLess(len(self.successResultOf(collected)), COLLECT_SIZE + 128 * KIB)
        self.assertFalse(self.listener.connections[0].client.reading)
        self.attempt.discard()

    def test_until_it_is_enough(self) -> None:
        """Collecting ends as soon as there is enough, and the bytes stay held."""
        self.send()
        self.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01")
        self.successResultOf(self.attempt.answered)
        seen: list[bytes] = []

        def enough(data: bytes) -> bool:
            seen.append(data)
            return len(data) >= 4

        collected = Deferred.fromCoroutine(self.attempt.collect(enough, 3.0))
        self.network.flush()
        self.answer(b"2")
        self.assertNoResult(collected)
        self.answer(b"345")
        self.assertEqual(self.successResultOf(collected), b"012345")
        self.assertEqual((seen[-2], seen[-1]), (b"012", b"012345"))
        self.assertFalse(self.listener.connections[0].client.reading)
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.getTime() == 3.0], [])
        # The held bytes may be enough for a second call at once.
        again = Deferred.fromCoroutine(self.attempt.collect(enough, 3.0))
        self.assertEqual(self.successResultOf(again), b"012345")
        self.attempt.discard()

    def test_enough_was_there_with_the_head(self) -> None:
        self.send()
        self.attempt.answered.addCallback(
            lambda head: Deferred.fromCoroutine(self.attempt.collect(lambda data: data == b"0", 3.0))
        )
        self.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0")
        self.assertEqual(self.successResultOf(self.attempt.answered), b"0")
        self.attempt.discard()

    def test_an_end_is_enough(self) -> None:
        """Collecting ends with the body, whether it is complete or broken off."""
        for rest in (b"0123456789", b"0123"):
            self.setUp()
            self.send()
            self.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
            self.successResultOf(self.attempt.answered)
            collected = Deferred.fromCoroutine(self.attempt.collect(lambda data: False, 3.0))
            self.network.flush()
            self.answer(rest)
            self.connections[-1].transport.abortConnection()
            self.network.flush()
            self.assertEqual(self.successResultOf(collected), rest)

    def test_a_time_of_its_own(self) -> None:
        self.send()
        self.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01")
        self.successResultOf(self.attempt.answered)
        collected = Deferred.fromCoroutine(self.attempt.collect(lambda data: False, 3.0))
        self.network.flush()
        self.clock.advance(2.9)
        self.assertNoResult(collected)
        self.clock.advance(0.2)
        self.assertEqual(self.successResultOf(collected), b"01")
        self.assertFalse(self.listener.connections[0].client.reading)
        self.attempt.discard()

    def test_no_longer_than_a_client_can_wait(self) -> None:
        self.send()
        self.answer(b"HTTP/1.1 403 X\r\nContent-Length: 10\r\n\r\n01234")
        collected = self.collect()
        self.clock.advance(COLLECT_TIME - 0.1)
        self.assertNoResult(collected)
        self.clock.advance(0.2)
        self.assertEqual(self.successResultOf(collected), b"01234")
        self.attempt.discard()

    def test_what_there_was_of_it(self) -> None:
        self.send()
        self.answer(b"HTTP/1.1 403 X\r\nContent-Length: 10\r\n\r\n01234")
        collected = self.collect()
        self.connections[-1].transport.abortConnection()
        self.network.flush()
        self.assertEqual(self.successResultOf(collected), b"01234")

    def test_nobody_wants_it_any_more(self) -> None:
        for leave in (Attempt.client_gone, Attempt.discard):
            self.setUp()
            self.send()
            self.answer(b"HTTP/1.1 403 X\r\nContent-Length: 10\r\n\r\n01234")
            collected = self.collect()
            leave(self.attempt)
            self.attempt.client_gone()
            self.network.flush()
            self.successResultOf(collected)
            self.assertIsNotNone(self.connections[-1].lost)


class _Listener(ManualUpstream):
    def __init__(self, connections: list[Connection]) -> None:
        self.connections = connections


class RefusalTests(SynchronousTestCase):
    """A refusal whose body had to be read is relayed unchanged, from its first byte."""

    def test_slow(self) -> None:
        world = World(self)
        upstream = ManualUpstream(world)
        client = world.ask()
        connection = upstream.last
        connection.transport.write(b"HTTP/1.1 403 X\r\nContent-Length: 10\r\n\r\n01234")
        world.network.flush()
        for _ in range(round(COLLECT_TIME) + 1):
            world.network.advance(1)
        self.assertEqual(client.responses()[0].body, b"01234")
        connection.transport.write(b"56789")
        world.network.flush()
        self.assertEqual(client.responses()[0].body, b"0123456789")
        self.assertTrue(client.responses()[0].complete)
        self.assertEqual(world.results(), ["failed"])

    def test_cut(self) -> None:
        """F22."""
        world = World(self)
        upstream = ManualUpstream(world)
        client = world.ask()
        upstream.last.transport.write(b"HTTP/1.1 403 X\r\nContent-Length: 10\r\n\r\n01234")
        world.network.flush()
        upstream.last.transport.loseConnection()
        world.network.flush()
        self.assertTrue(client.broken)
        self.assertEqual(world.results(), ["truncated"])

    def test_whole_before_it_was_looked_at(self) -> None:
        world = World(self)
        upstream = ManualUpstream(world)
        client = world.ask(stream=True)
        upstream.last.transport.write(STREAM_HEAD)
        upstream.last.chunk(MESSAGE)
        upstream.last.end()
        world.network.flush()
        self.assertEqual(client.responses()[0].body, MESSAGE)
