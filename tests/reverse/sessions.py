"""Two sessions on one connection in memory, and protocols for their streams."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.task import Clock

from ccmproxy.reverse import StreamTransport, YamuxProtocol
from ccmproxy.testing.pump import Pump
from ccmproxy.yamux import SessionConfig
from tests.transports.contract import Building, Recorder


class StreamRecorder(Recorder):
    """A recorder on a stream."""

    transport: StreamTransport


class SessionPair:
    """Two sessions joined by a pump; ``client`` opens streams with odd ids."""

    def __init__(
        self,
        acceptor: IProtocolFactory | None = None,
        *,
        config: SessionConfig = SessionConfig(),  # noqa: B008 - frozen
        server_config: SessionConfig | None = None,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.acceptor = acceptor or Building(StreamRecorder)
        self.client = YamuxProtocol(self.clock, True, None, config)
        self.server = YamuxProtocol(self.clock, False, self.acceptor, server_config or config)
        self.pump = Pump(self.client, self.server, **options)

    @property
    def accepted(self) -> list[Any]:
        """The protocols at the other ends of the client's streams."""
        assert isinstance(self.acceptor, Building)
        return self.acceptor.built

    def flush(self) -> None:
        """Deliver all bytes, and run all calls that are due now."""
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
        """Open a stream from the client for ``protocol``; return the protocol."""
        opened: list[Any] = []
        factory = Building(lambda: protocol or StreamRecorder())
        self.client.open(factory).addCallback(opened.append)
        (found,) = opened
        return found

    def stream(self, client: IProtocol | None = None) -> tuple[Any, Any]:
        """Open a stream from the client; return the protocols at both ends."""
        near = self.open(client)
        self.flush()
        return near, self.accepted[-1]
