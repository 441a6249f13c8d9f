"""``python -m bench.yamux_server PORT``: our server for the yamux benchmarks; see ``go_yamux/main.go``."""

from __future__ import annotations

import sys

from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IHalfCloseableProtocol, IPullProducer
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from ccmproxy.reverse import StreamTransport, YamuxProtocol
from ccmproxy.root.tuning import tune_process
from ccmproxy.yamux import Rate, SessionConfig

_PIECE = bytes(64 * 1024)
#: The load opens streams as fast as it can, and none must be refused.
_CONFIG = SessionConfig(opens=Rate(10**9, 1e9))


@implementer(IHalfCloseableProtocol, IPullProducer)
class _Stream(Protocol):
    """Serves one stream in the mode that its first byte selects."""

    transport: StreamTransport

    def __init__(self) -> None:
        self._command = b""
        self._left = 0

    def dataReceived(self, data: bytes) -> None:
        if not self._command:
            self._command, data = data[:1], data[1:]
            if self._command == b"e":
                self.transport.registerProducer(self.transport, True)
            elif self._command == b"g":
                self._left = int.from_bytes(data, "big")
                self.transport.registerProducer(self, False)
        if self._command == b"e" and data:
            self.transport.write(data)

    def readConnectionLost(self) -> None:
        if self._command == b"s":
            self.transport.write(b"s")
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing: the stream sends no more."""

    def resumeProducing(self) -> None:
        """Send the next piece."""
        size = min(self._left, len(_PIECE))
        self._left -= size
        self.transport.write(_PIECE[:size])
        if not self._left:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def stopProducing(self) -> None:
        """Do nothing: there is nothing to stop."""


def main(port: int) -> None:
    """Serve until the process is ended."""
    from twisted.internet import reactor  # noqa: TID251 - the outermost module

    streams = Factory.forProtocol(_Stream)
    streams.noisy = False

    class Sessions(Factory):
        """Makes each connection a session."""

        noisy = False

        def buildProtocol(self, addr: object) -> Protocol:
            return YamuxProtocol(reactor, False, streams, _CONFIG)

    tune_process(reactor)  # as the daemon does
    TCP4ServerEndpoint(reactor, port, interface="127.0.0.1").listen(Sessions())
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
