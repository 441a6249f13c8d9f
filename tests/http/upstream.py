"""A scripted in-memory upstream, and a receiver that checks the guarantees of the client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from ccmproxy.http.client.connection_pool import Call, ClientLimits, ConnectionPool
from ccmproxy.http.failures import UpstreamError
from ccmproxy.http.message import RequestHead, ResponseHead
from ccmproxy.testing.pump import MemoryListener, MemoryNetwork, Pump


class Receiver:
    """Records a response. ``outcome``: ``ended``, or the error. Raises AssertionError for calls that must not happen.

    ``on_start``, ``on_data``, ``on_end``: called in addition, without arguments.
    """

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        self.pieces: list[bytes] = []
        self.outcome: str | UpstreamError | None = None
        self.cancelled = False
        self.sent = False
        self.on_start: Callable[[], None] = _nothing
        self.on_data: Callable[[], None] = _nothing
        self.on_end: Callable[[], None] = _nothing

    @property
    def body(self) -> bytes:
        """All data so far."""
        return b"".join(self.pieces)

    @property
    def status(self) -> int:
        """Status of the response."""
        assert self.head is not None, self.outcome
        return self.head.status

    def response_started(self, head: ResponseHead, data: bytes) -> None:
        self._alive()
        assert self.head is None, "two heads"
        self.head = head
        self.on_start()
        if data and not self.cancelled:
            self.response_data(data)

    def response_data(self, data: bytes) -> None:
        self._alive()
        assert self.head is not None, "data before the head"
        assert data, "empty data"
        assert isinstance(data, bytes)
        self.pieces.append(data)
        self.on_data()

    def response_ended(self) -> None:
        self._alive()
        assert self.head is not None, "end before the head"
        self.outcome = "ended"
        self.on_end()

    def response_failed(self, error: UpstreamError) -> None:
        self._alive()
        assert isinstance(error, UpstreamError)
        self.outcome = error
        self.on_end()

    def _alive(self) -> None:
        assert self.sent, "called before send() returned"
        assert self.outcome is None, "called after the end"
        assert not self.cancelled, "called after cancel()"


def _nothing() -> None:
    pass


class ScriptedServer(Protocol):
    """Records what it receives, and calls the test's ``script`` each time that it receives something."""

    transport: Any

    def __init__(self, script: Callable[[ScriptedServer], None]) -> None:
        self.received = bytearray()
        self.lost: type[BaseException] | None = None
        self._script = script

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._script(self)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.lost = reason.type

    def requests(self) -> int:
        """How many heads of requests without a body have arrived."""
        return self.received.count(b"\r\n\r\n")


class Scene:
    """A pool and its upstream. ``reply``: bytes that answer every request without a body, if given."""

    def __init__(
        self, reply: bytes | None = None, limits: ClientLimits | None = None, **options: Any
    ) -> None:
        self.network = MemoryNetwork()
        self.clock = self.network.clock
        self.reply = reply
        self.servers: list[ScriptedServer] = []
        self.listener: MemoryListener = self.network.listen("upstream.test", 80, _Servers(self))
        self.listener.options.update(options)
        self.pool = ConnectionPool(
            self.network.endpoint("upstream.test", 80, timeout=None), self.clock, limits or ClientLimits()
        )

    def script(self, server: ScriptedServer) -> None:
        """What the upstream does each time that it receives something."""
        if self.reply is not None:
            answered = getattr(server, "answered", 0)
            if server.requests() > answered:
                server.answered = answered + 1  # type: ignore[attr-defined]
                server.transport.write(self.reply)

    def send(
        self,
        body: Sequence[bytes] = (),
        method: bytes = b"GET",
        headers: Sequence[tuple[bytes, bytes]] = ((b"Host", b"upstream.test"),),
        receiver: Receiver | None = None,
    ) -> tuple[Receiver, Call]:
        """Begin a call."""
        receiver = receiver or Receiver()
        call = self.pool.send(RequestHead(method, b"/v1/x?y=z", list(headers)), body, receiver)
        receiver.sent = True
        return receiver, call

    def exchange(self, reply: bytes, method: bytes = b"GET") -> Receiver:
        """One call, answered by ``reply``; the connection stays open."""
        receiver, _ = self.send(method=method)
        self.network.flush()
        self.servers[-1].transport.write(reply)
        self.settle()
        return receiver

    def settle(self) -> None:
        """Run until nothing happens without time passing."""
        self.network.flush()
        self.clock.advance(0)
        self.network.flush()

    def pass_time(self, seconds: float) -> None:
        """Advance the clock in small steps."""
        whole, rest = divmod(seconds, 1.0)
        for _ in range(int(whole)):
            self.network.advance(1.0)
        self.network.advance(rest)

    @property
    def server(self) -> ScriptedServer:
        """The newest connection's server."""
        return self.servers[-1]

    @property
    def pump(self) -> Pump:
        """The newest connection."""
        return self.listener.connections[-1]


class _Servers(Factory):
    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def buildProtocol(self, addr: object) -> ScriptedServer:
        server = ScriptedServer(lambda server: self._scene.script(server))
        self._scene.servers.append(server)
        return server
