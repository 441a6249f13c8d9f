"""Two sessions on one connection in memory, and protocols for their streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from ccmproxy.reverse import StreamTransport, YamuxProtocol
from ccmproxy.testing.pump import Pump
from ccmproxy.yamux import SessionConfig
from tests.testing.transport_contract import Recorder


class StreamRecorder(Recorder):
    """A recorder on a stream."""

    transport: StreamTransport


class Building(Factory):
    """A factory that builds what it is told to. ``built``: all of them."""

    noisy = False

    def __init__(self, build: Callable[[], Any] = StreamRecorder) -> None:
        self.build = build
        self.built: list[Any] = []
        self.started = self.stopped = 0

    def buildProtocol(self, addr: object) -> Any:
        protocol = self.build()
        self.built.append(protocol)
        return protocol

    def startFactory(self) -> None:
        self.started += 1

    def stopFactory(self) -> None:
        self.stopped += 1


class SessionPair:
    """Two sessions joined by a pump: ``client`` opens odd ids. ``accepted``: what the server's streams went to."""

    def __init__(
        self,
        acceptor: IProtocolFactory | None = None,
        *,
        config: SessionConfig = SessionConfig(),  # noqa: B008 - frozen
        server_config: SessionConfig | None = None,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.acceptor = acceptor or Building()
        self.client = YamuxProtocol(self.clock, True, None, config)
        self.server = YamuxProtocol(self.clock, False, self.acceptor, server_config or config)
        self.pump = Pump(self.client, self.server, **options)

    @property
    def accepted(self) -> list[Any]:
        """The protocols at the other ends of the client's streams."""
        assert isinstance(self.acceptor, Building)
        return self.acceptor.built

    def flush(self) -> None:
        """Let everything arrive, and everything happen that needs no time."""
        for _ in range(100_000):
            before = self.clock.getDelayedCalls()
            self.clock.advance(0)
            if not self.pump.advance() and before == self.clock.getDelayedCalls():
                return
        raise AssertionError("the sessions did not come to rest")

    def wait(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass, in steps."""
        while seconds > 0:
            self.clock.advance(min(step, seconds))
            self.flush()
            seconds -= step

    def open(self, protocol: IProtocol | None = None) -> Any:
        """A stream of the client, for ``protocol``."""
        opened: list[Any] = []
        factory = Building(lambda: protocol or StreamRecorder())
        self.client.open(factory).addCallback(opened.append)
        (found,) = opened
        return found

    def stream(self, client: IProtocol | None = None) -> tuple[Any, Any]:
        """A stream, both of its ends."""
        near = self.open(client)
        self.flush()
        return near, self.accepted[-1]
