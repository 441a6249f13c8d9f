"""Tests of in-memory connections and networks."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.testing.pump import KIB, MemoryNetwork, Pump
from tests.transports.contract import HalfCloser, Recorder, Source


class PumpTests(SynchronousTestCase):
    """Bytes move only when the test says so, in pieces of the chosen size."""

    def setUp(self) -> None:
        self.client, self.server = Recorder(), Recorder()

    def test_nothing_moves_by_itself(self) -> None:
        pump = Pump(self.client, self.server)
        self.client.transport.write(b"abc")
        self.assertEqual(self.server.received, b"")
        self.assertTrue(pump.advance())
        self.assertEqual(self.server.received, b"abc")
        self.assertFalse(pump.advance())

    def test_byte_by_byte(self) -> None:
        pump = Pump(self.client, self.server, chunk_size=1)
        self.client.transport.write(b"abc")
        pump.advance()
        self.assertEqual(self.server.received, b"a")
        pump.flush()
        self.assertEqual(self.server.received, b"abc")
        self.assertEqual(self.server.pieces, [1, 1, 1])


class WakingTests(SynchronousTestCase):
    """A connection is visited only while it may have something to do."""

    def setUp(self) -> None:
        self.client, self.server = HalfCloser(), HalfCloser()
        self.woken: list[Pump] = []
        self.pump = Pump(self.client, self.server, on_work=self.woken.append)

    def assertWakes(self, change: Callable[[], object]) -> None:
        """Check that ``change`` wakes a sleeping connection once, and is handled until the connection sleeps again."""
        self.pump.flush()
        self.woken.clear()
        self.assertFalse(self.pump.awake)
        change()
        self.assertEqual(self.woken, [self.pump])
        self.assertTrue(self.pump.awake)
        self.pump.flush()
        self.assertFalse(self.pump.awake)

    def hold(self, held: bool) -> None:
        self.pump.client.held = held

    def test_writing(self) -> None:
        self.assertWakes(lambda: self.client.transport.write(b"abc"))
        self.assertEqual(self.server.received, b"abc")
        self.assertWakes(lambda: self.server.transport.writeSequence([b"d", b"ef"]))
        self.assertEqual(self.client.received, b"def")

    def test_nothing_to_write(self) -> None:
        self.client.transport.write(b"")
        self.assertEqual(self.woken, [])

    def test_reading_again(self) -> None:
        self.pump.server.pauseProducing()
        self.client.transport.write(b"abc")
        self.assertWakes(self.pump.server.resumeProducing)
        self.assertEqual(self.server.received, b"abc")

    def test_no_longer_held(self) -> None:
        self.hold(True)
        self.client.transport.write(b"abc")
        self.assertWakes(lambda: self.hold(False))
        self.assertEqual(self.server.received, b"abc")

    def test_closing(self) -> None:
        self.assertWakes(self.client.transport.loseConnection)
        self.assertEqual((self.client.lost, self.server.read_lost), ([ConnectionDone], 1))

    def test_closing_when_the_producer_has_finished(self) -> None:
        self.pump.client.registerProducer(Source(self.client, 0), True)
        self.pump.client.producer_paused = True  # There is nothing that the producer would be resumed for.
        self.client.transport.loseConnection()
        self.assertWakes(self.pump.client.unregisterProducer)
        self.assertEqual(self.client.lost, [ConnectionDone])

    def test_closing_one_direction(self) -> None:
        self.assertWakes(self.pump.client.loseWriteConnection)
        self.assertEqual((self.client.write_lost, self.server.read_lost), (1, 1))

    def test_aborting(self) -> None:
        self.assertWakes(self.pump.client.abortConnection)
        self.assertEqual((self.client.lost, self.server.lost), ([ConnectionAborted], [ConnectionLost]))

    def test_bytes_in_the_buffer_of_one_whose_peer_vanished(self) -> None:
        self.pump.client.held = True
        self.client.transport.write(b"x" * 200 * KIB)
        self.assertWakes(lambda: self.pump.server._disconnect(ConnectionLost()))
        self.assertEqual(self.client.lost, [ConnectionLost])


class MemoryNetworkTests(SynchronousTestCase):
    """Listening and connecting."""

    def setUp(self) -> None:
        self.network = MemoryNetwork()
        self.servers: list[Recorder] = []

        def build() -> Recorder:
            self.servers.append(Recorder())
            return self.servers[-1]

        self.factory = Factory.forProtocol(build)
        self.listener = self.network.listen("upstream", 443, self.factory)

    def connect(self, port: int = 443, timeout: float | None = 30.0) -> Deferred[Recorder]:
        factory = Factory.forProtocol(Recorder)
        return self.network.endpoint("upstream", port, timeout).connect(factory)  # type: ignore[return-value]

    def test_connects_with_the_next_flush(self) -> None:
        connecting = self.connect()
        self.assertNoResult(connecting)
        self.network.flush()
        client = self.successResultOf(connecting)
        client.transport.write(b"hello")
        self.network.flush()
        self.assertEqual(self.servers[0].received, b"hello")
        self.assertEqual(len(self.listener.open_connections), 1)
        client.transport.loseConnection()
        self.network.flush()
        self.assertEqual(len(self.listener.open_connections), 0)
        self.assertEqual(len(self.network.connections), 1)
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_who_has_nothing_to_do_is_not_asked(self) -> None:
        """The work of a flush depends on the bytes to carry, not on the number of connections ever made."""
        clients = [self.connect() for _ in range(10)]
        self.network.flush()
        self.successResultOf(clients[2]).transport.loseConnection()
        self.network.flush()
        self.assertEqual([pump for pump in self.network.connections if pump.awake], [])
        self.assertEqual(self.network._awake, {})
        self.successResultOf(clients[7]).transport.write(b"abc")
        self.assertEqual(list(self.network._awake), [self.listener.connections[7]])
        self.network.flush()
        self.assertEqual((self.servers[7].received, self.network._awake), (b"abc", {}))

    def test_flushed_by_a_protocol_that_is_just_receiving(self) -> None:
        """The bytes of other connections move at once, its own when the call has returned."""
        network, servers = self.network, self.servers
        passed: list[bytes] = []

        class Flusher(Recorder):
            def dataReceived(self, data: bytes) -> None:
                super().dataReceived(data)
                self.transport.write(b"answer")
                network.flush()
                passed.extend(bytes(server.received) for server in servers)

        network.endpoint("upstream", 443).connect(Factory.forProtocol(Flusher))
        other = self.connect()
        network.flush()
        servers[0].transport.write(b"question")
        self.successResultOf(other).transport.write(b"another's")
        network.flush()
        self.assertEqual(passed, [b"", b"another's"])
        self.assertEqual(servers[0].received, b"answer")

    def test_nobody_listens(self) -> None:
        connecting = self.connect(port=80)
        self.network.flush()
        self.failureResultOf(connecting, ConnectionRefusedError)

    def test_refusals_and_errors(self) -> None:
        self.listener.refusing = True
        connecting = self.connect()
        self.network.flush()
        self.failureResultOf(connecting, ConnectionRefusedError)
        self.listener.refusing, self.listener.error = False, OSError("no route")
        connecting = self.connect()
        self.network.flush()
        self.failureResultOf(connecting, OSError)
        self.assertEqual(self.listener.attempts, 2)
        self.assertEqual(self.listener.connections, [])

    def test_hanging_until_the_timeout(self) -> None:
        self.listener.hanging = True
        connecting = self.connect(timeout=10)
        self.network.advance(9.9)
        self.assertNoResult(connecting)
        self.network.advance(0.2)
        self.failureResultOf(connecting, TimeoutError)

    def test_cancelling(self) -> None:
        connecting = self.connect()
        connecting.addErrback(lambda failure: None)
        connecting.cancel()
        self.network.flush()
        self.assertEqual((self.listener.connections, self.network.clock.getDelayedCalls()), ([], []))

    def test_options_of_a_listener(self) -> None:
        self.listener.options = {"chunk_size": 1}
        connecting = self.connect()
        self.network.flush()
        self.successResultOf(connecting).transport.write(b"abc")
        self.network.flush()
        self.assertEqual(self.servers[0].pieces, [1, 1, 1])
