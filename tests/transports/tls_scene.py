"""A server that speaks TLS by pyOpenSSL, and clients that speak ours, in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.testing.pump import MemoryListener, MemoryNetwork
from ccmproxy.transports.tls import ClientTLS
from tests.transports.certificates import make_authority
from tests.transports.contract import Building, Recorder

HOST = "upstream.test"
PORT = 443


class Scene:
    """A TLS server in memory, and a client that trusts its authority."""

    def __init__(self, test: SynchronousTestCase, trust: bool = True, **options: Any) -> None:
        self.test = test
        self.authority = make_authority()
        self.network = MemoryNetwork()
        self.servers = Building()
        self.clients = Building()
        names = options.pop("names", (HOST,))
        self.listener = self.serve(self.authority.server_options(*names, **options))
        ca_file = self.authority.write(Path(test.mktemp())) if trust else None
        self.tls = ClientTLS(ca_file, handshake_timeout=5.0)

    def serve(self, options: CertificateOptions) -> MemoryListener:
        """Replaces the server."""
        factory = TLSMemoryBIOFactory(options, False, self.servers, self.network.clock)
        self.listener = self.network.listen("10.0.0.1", PORT, factory)
        return self.listener

    def connect(self, host: str = HOST) -> Deferred[IProtocol]:
        """Begin to connect."""
        endpoint = self.tls.wrap(self.network.endpoint("10.0.0.1", PORT), host, PORT, self.network.clock)
        return endpoint.connect(self.clients)

    def settle(self) -> None:
        """Carry everything, and let the server write what it holds back for a turn."""
        for _ in range(3):
            self.network.flush()
            self.network.clock.advance(0)
        self.network.flush()

    def connected(self, host: str = HOST) -> tuple[Any, Any]:
        """A client and its server, after the handshake."""
        result = self.connect(host)
        self.settle()
        client = self.test.successResultOf(result)
        assert isinstance(client, Recorder)
        return client, self.servers.built[-1]
