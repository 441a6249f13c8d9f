"""Connections as they leave the machine, over loopback TCP."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectBindError, ConnectionRefusedError
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import URI, readBody
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from zope.interface.verify import verifyObject

from ccmproxy.interfaces import IOutbound
from ccmproxy.net.outbounds import (
    KEEPALIVE_COUNT,
    KEEPALIVE_IDLE,
    KEEPALIVE_INTERVAL,
    DirectOutbound,
    OutboundEndpoints,
    agent,
    set_socket_options,
)
from ccmproxy.testing.pump import MemoryNetwork
from tests.net.certificates import make_authority


class Greeter(Protocol):
    """Says where the connection comes from."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.write(f"hello {self.transport.getPeer().host}".encode())


class Listener(Protocol):
    """Keeps what it receives."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class DirectOutboundTests(TestCase):
    """The real thing, on loopback addresses."""

    def setUp(self) -> None:
        from twisted.internet import reactor  # noqa: TID251 - the real thing

        self.reactor: Any = reactor
        self.authority = make_authority()
        self.ca_file = self.authority.write(Path(self.mktemp()))

    def listen(self, factory: IProtocolFactory, interface: str = "127.0.0.1") -> int:
        """Serve until the end of the test; the port."""
        port = self.reactor.listenTCP(0, factory, interface=interface)
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def tls(self, factory: IProtocolFactory, *names: str) -> IProtocolFactory:
        """``factory`` behind TLS."""
        options = self.authority.server_options(*names, alpn=[b"http/1.1"])
        return TLSMemoryBIOFactory(options, False, factory)

    async def greeting(self, outbound: DirectOutbound, host: str, port: int, tls: bool) -> tuple[bytes, Any]:
        """What the server says first, and the transport it came on."""
        protocol = await outbound.endpoint(host, port, tls).connect(Factory.forProtocol(Listener))
        assert isinstance(protocol, Listener)
        self.addCleanup(protocol.transport.abortConnection)
        while not protocol.received:
            await self.turn()
        return protocol.received, protocol.transport

    async def turn(self) -> None:
        await deferLater(self.reactor, 0.002)

    def check_socket(self, handle: socket.socket) -> None:
        """F35: a connection that a NAT has forgotten is noticed."""
        self.assertTrue(handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        self.assertTrue(handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        for name, value in (
            ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
            ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
            ("TCP_KEEPCNT", KEEPALIVE_COUNT),
        ):
            if hasattr(socket, name):
                self.assertEqual(handle.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)), value)

    async def test_plain(self) -> None:
        port = self.listen(Factory.forProtocol(Greeter))
        outbound = DirectOutbound(self.reactor)
        verifyObject(IOutbound, outbound)
        greeting, transport = await self.greeting(outbound, "127.0.0.1", port, False)
        self.assertEqual(greeting, b"hello 127.0.0.1")
        self.check_socket(transport.getHandle())

    async def test_name(self) -> None:
        port = self.listen(Factory.forProtocol(Greeter))
        greeting, transport = await self.greeting(DirectOutbound(self.reactor), "localhost", port, False)
        self.assertEqual(greeting, b"hello 127.0.0.1")
        self.check_socket(transport.getHandle())

    async def test_tls(self) -> None:
        port = self.listen(self.tls(Factory.forProtocol(Greeter), "127.0.0.1", "localhost"))
        outbound = DirectOutbound(self.reactor, self.ca_file)
        for number, host in enumerate(("127.0.0.1", "localhost", "127.0.0.1", "localhost")):
            greeting, transport = await self.greeting(outbound, host, port, True)
            self.assertEqual(greeting, b"hello 127.0.0.1")
            self.check_socket(transport.getHandle())
            self.assertEqual(transport.session_reused, number >= 2)

    async def test_other_name(self) -> None:
        port = self.listen(self.tls(Factory.forProtocol(Greeter), "elsewhere.test"))
        outbound = DirectOutbound(self.reactor, self.ca_file)
        with self.assertRaises(ssl.SSLCertVerificationError):
            await self.greeting(outbound, "127.0.0.1", port, True)

    async def test_system_store_does_not_know_us(self) -> None:
        port = self.listen(self.tls(Factory.forProtocol(Greeter), "127.0.0.1"))
        with self.assertRaises(ssl.SSLCertVerificationError):
            await self.greeting(DirectOutbound(self.reactor), "127.0.0.1", port, True)

    async def test_bind_address(self) -> None:
        port = self.listen(Factory.forProtocol(Greeter))
        outbound = DirectOutbound(self.reactor, bind_address="127.0.0.5")
        greeting, _ = await self.greeting(outbound, "127.0.0.1", port, False)
        self.assertEqual(greeting, b"hello 127.0.0.5")
        with self.assertRaises(ConnectBindError):
            await self.greeting(
                DirectOutbound(self.reactor, bind_address="192.0.2.1"), "127.0.0.1", port, False
            )

    async def test_refused(self) -> None:
        unused = socket.socket()
        self.addCleanup(unused.close)
        unused.bind(("127.0.0.1", 0))
        with self.assertRaises(ConnectionRefusedError):
            await self.greeting(DirectOutbound(self.reactor), "127.0.0.1", unused.getsockname()[1], True)

    async def test_agent(self) -> None:
        """F30: treq and Agent take the same way."""

        class Echo(Resource):
            isLeaf = True

            def render_GET(self, request: Request) -> bytes:
                address: Any = request.getClientAddress()
                return b"from " + str(address.host).encode()

        port = self.listen(self.tls(Site(Echo()), "127.0.0.1"))
        outbound = DirectOutbound(self.reactor, self.ca_file, "127.0.0.6")
        response = await agent(outbound, self.reactor).request(b"GET", b"https://127.0.0.1:%d/" % port)
        self.assertEqual(await readBody(response), b"from 127.0.0.6")


class EndpointTests(SynchronousTestCase):
    """Which endpoint is made of what."""

    def test_addresses_need_no_resolver(self) -> None:
        for host in ("192.0.2.1", "2001:db8::1"):
            endpoint = DirectOutbound(Clock()).endpoint(host, 80, False)
            self.assertNotIsInstance(vars(endpoint)["_endpoint"], HostnameEndpoint)

    def test_agent_hosts(self) -> None:
        """IPv6 addresses stand in brackets in a URL, and nowhere else."""
        asked = []

        class Outbound(DirectOutbound):
            def endpoint(self, host: str, port: int, tls: bool) -> Any:
                asked.append((host, port, tls))

        endpoints = OutboundEndpoints(Outbound(Clock()))
        for url in (b"https://h.test/x", b"http://h.test:81/", b"https://[2001:db8::1]:8443/"):
            endpoints.endpointForURI(URI.fromBytes(url))
        self.assertEqual(asked, [("h.test", 443, True), ("h.test", 81, False), ("2001:db8::1", 8443, True)])

    def test_transports_without_sockets(self) -> None:
        network = MemoryNetwork()
        network.listen("h", 1, Factory.forProtocol(Greeter))
        result = network.endpoint("h", 1).connect(Factory.forProtocol(Listener))
        network.flush()
        transport: Any = self.successResultOf(result).transport  # type: ignore[attr-defined]
        set_socket_options(transport)
        self.assertTrue(transport.getTcpNoDelay())
        set_socket_options(None)
