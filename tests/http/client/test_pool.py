"""The pool under everything that can happen to it, in any order."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.client.connection_pool import Call, ClientLimits, ConnectionPool, HTTPClientProtocol
from tests.http.upstream import Receiver, Scene, ScriptedServer
from tests.profiles import examples

REPLIES = {
    "kept": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "closed": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    "more": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad",
    "garbage": b"\x00\x01",
    "half": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no",
}


class WatchedPool(ConnectionPool):
    """Checks every connection that is handed out."""

    def _start(self, connection: HTTPClientProtocol, call: Call) -> None:
        transport = connection.transport
        assert not connection.is_closing, "handed out although it is closing"
        assert connection not in self._busy, "F28: handed out although it is busy"
        assert not getattr(transport, "disconnected", False), "handed out although it is closed"
        assert getattr(transport, "reading", True), "handed out although nobody reads it"
        super()._start(connection, call)


class PoolMachine(RuleBasedStateMachine):
    """Calls begin, connections answer, break and become idle, and time passes."""

    @initialize(chunk_size=st.sampled_from([1, 7, 1009, 65536]))
    def begin(self, chunk_size: int) -> None:
        self.largest = 300 * chunk_size  # bytes of a body: it takes so many rounds until it is there
        limits = ClientLimits(
            connect_timeout=5.0, first_byte_timeout=40.0, idle_timeout=20.0, keepalive_timeout=15.0
        )
        self.scene = Scene(limits=limits, chunk_size=chunk_size)
        endpoint = self.scene.network.endpoint("upstream.test", 80, timeout=None)
        self.scene.pool = self.pool = WatchedPool(endpoint, self.scene.clock, limits)
        self.calls: list[tuple[Receiver, Call]] = []

    def waiting(self) -> list[ScriptedServer]:
        """Servers that have a request to answer."""
        return [s for s in self.scene.servers if s.lost is None and s.requests() > getattr(s, "answered", 0)]

    @rule(size=st.sampled_from([0, 10, 300_000]))
    def send(self, size: int) -> None:
        size = min(size, self.largest)
        before = self.pool.idle + self.pool.connecting + self.pool.busy
        idle = self.pool.idle
        self.calls.append(self.scene.send([bytes(size)] if size else [], b"POST" if size else b"GET"))
        after = self.pool.idle + self.pool.connecting + self.pool.busy
        assert after == before + (0 if idle else 1), "F27: a call waits for a connection"

    @rule()
    def settle(self) -> None:
        self.scene.settle()

    @rule(rounds=st.integers(1, 30))
    def progress(self, rounds: int) -> None:
        for pump in self.scene.listener.connections:
            pump.advance(rounds)

    @precondition(lambda self: bool(self.waiting()))
    @rule(data=st.data(), reply=st.sampled_from(sorted(REPLIES)))
    def answer(self, data: st.DataObject, reply: str) -> None:
        server = data.draw(st.sampled_from(self.waiting()))
        server.answered = getattr(server, "answered", 0) + 1  # type: ignore[attr-defined]
        server.transport.write(REPLIES[reply])

    @precondition(lambda self: bool(self.scene.servers))
    @rule(data=st.data(), how=st.sampled_from(["lose", "abort", "surprise"]))
    def disturb(self, data: st.DataObject, how: str) -> None:
        server = data.draw(st.sampled_from(self.scene.servers))
        if how == "lose":
            server.transport.loseConnection()
        elif how == "abort":
            server.transport.abortConnection()
        else:
            server.transport.write(b"surprise")

    @precondition(lambda self: bool(self.calls))
    @rule(data=st.data(), how=st.sampled_from(["cancel", "pause", "resume"]))
    def use(self, data: st.DataObject, how: str) -> None:
        receiver, call = data.draw(st.sampled_from(self.calls))
        if how == "cancel":
            call.cancel()
            if receiver.outcome is None:
                receiver.cancelled = True
        elif how == "pause":
            call.pauseProducing()
        else:
            call.resumeProducing()

    @rule(refusing=st.booleans(), hanging=st.booleans())
    def trouble(self, refusing: bool, hanging: bool) -> None:
        self.scene.listener.refusing, self.scene.listener.hanging = refusing, hanging

    @rule(seconds=st.sampled_from([0.5, 1.0, 6.0, 16.0, 45.0]))
    def wait(self, seconds: float) -> None:
        self.scene.pass_time(seconds)

    @rule()
    def close(self) -> None:
        self.pool.close()

    @invariant()
    def consistent(self) -> None:
        if not hasattr(self, "pool"):
            return
        idle, busy, closing = set(self.pool._idle), self.pool._busy, set(self.pool._closing)
        assert not idle & busy
        assert not (idle | busy) & closing
        assert all(not connection.is_closing for connection in idle | busy)
        open_calls = [
            call for receiver, call in self.calls if receiver.outcome is None and not receiver.cancelled
        ]
        serving = [call for call in open_calls if call.connection is not None]
        assert len(serving) == len(busy) == len({id(call.connection) for call in serving})
        for receiver, _ in self.calls:
            # "os": half a response, completed by unsolicited bytes, which nobody can detect.
            assert receiver.outcome != "ended" or receiver.body in (b"ok", b"os"), (
                "an answer to another request"
            )

    def teardown(self) -> None:
        """After long enough nothing is left: no call without an outcome, no connection, nothing scheduled."""
        if not hasattr(self, "pool"):
            return
        for _, call in self.calls:
            call.resumeProducing()
        self.scene.pass_time(70)
        self.scene.settle()
        for receiver, call in self.calls:
            assert call.over
            assert receiver.cancelled or receiver.outcome is not None
        assert (self.pool.idle, self.pool.busy, self.pool.connecting) == (0, 0, 0)
        assert self.scene.clock.getDelayedCalls() == []
        assert all(pump.client.disconnected for pump in self.scene.listener.connections)


class PoolTests(SynchronousTestCase):
    """Runs the machine."""

    def test_in_any_order(self) -> None:
        run_state_machine_as_test(PoolMachine, settings=examples(40, stateful_step_count=30))
        self.assertEqual(self.flushLoggedErrors(), [])
