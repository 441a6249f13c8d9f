"""Connections as they leave the machine, over loopback TCP."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any, cast

from pydantic import SecretStr
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint
from twisted.internet.error import ConnectBindError, ConnectionRefusedError
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import URI, readBody
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from zope.interface.verify import verifyObject

from ccmproxy.config import DirectOutboundConfig, ProxyOutboundConfig
from ccmproxy.http.client.agent import PoolAgent
from ccmproxy.http.client.connection_pool import Call, ClientLimits, ConnectionPool
from ccmproxy.http.failures import RequestNotSent
from ccmproxy.http.message import RequestHead, ResponseHead
from ccmproxy.http.server.factory import HTTPServerFactory, ServerRequest
from ccmproxy.interfaces.network import IOutbound
from ccmproxy.testing.pump import KIB, MemoryNetwork
from ccmproxy.transports.outbounds import DirectOutbound, OutboundEndpoints, make_outbound
from ccmproxy.transports.proxy_dialogue import ProxyError
from ccmproxy.transports.tcp import KEEPALIVE_COUNT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, set_socket_options
from tests.http.upstream import Receiver
from tests.transports.certificates import make_authority
from tests.transports.proxies import ConnectProxy, Proxy, SocksProxy


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


class Echo(Protocol):
    """Sends everything back."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.transport.unregisterProducer()


class DirectOutboundTests(TestCase):
    """Direct connections, over real sockets on loopback addresses."""

    def setUp(self) -> None:
        from twisted.internet import reactor  # noqa: TID251 - the real thing

        self.reactor: Any = reactor
        self.authority = make_authority()
        self.ca_file = self.authority.write(Path(self.mktemp()))

    def listen(self, factory: IProtocolFactory, interface: str = "127.0.0.1") -> int:
        """Serve until the end of the test; return the port."""
        port = self.reactor.listenTCP(0, factory, interface=interface)
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def tls(self, factory: IProtocolFactory, *names: str) -> IProtocolFactory:
        """Serve ``factory`` behind TLS; return the port."""
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
        """F35: keep-alive is set, so that a connection which a NAT has forgotten is noticed."""
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
        endpoint = outbound.endpoint("127.0.0.1", port, True, "elsewhere.test")
        protocol: Any = await endpoint.connect(Factory.forProtocol(Listener))
        protocol.transport.abortConnection()

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
        """F30: treq and Agent connect through the outbound."""

        class Echo(Resource):
            isLeaf = True

            def render_GET(self, request: Request) -> bytes:
                address: Any = request.getClientAddress()
                return b"from " + str(address.host).encode()

        port = self.listen(self.tls(Site(Echo()), "127.0.0.1"))
        outbound = DirectOutbound(self.reactor, self.ca_file, "127.0.0.6")
        agent = PoolAgent(OutboundEndpoints(outbound), self.reactor, timeout=10, body_size=1000)
        response = await agent.request(b"GET", b"https://127.0.0.1:%d/" % port)
        self.assertEqual(await readBody(response), b"from 127.0.0.6")


class ProxiedTests(TestCase):
    """Connections through small proxies on loopback addresses: names, addresses, TLS at both ends, refusals."""

    def setUp(self) -> None:
        from twisted.internet import reactor  # noqa: TID251 - the real thing

        self.reactor: Any = reactor
        self.authority = make_authority()
        self.ca_file = self.authority.write(Path(self.mktemp()))
        self.accepted = 0

    def listen(self, factory: IProtocolFactory) -> int:
        """Serve until the end of the test; return the port."""
        port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def behind_tls(self, factory: IProtocolFactory, name: str) -> IProtocolFactory:
        """``factory`` with a certificate for ``name``."""
        return TLSMemoryBIOFactory(self.authority.server_options(name), False, factory)

    def proxy(
        self,
        kind: str,
        login: tuple[str, str] | None = None,
        tls: bool = False,
        password: SecretStr | None = SecretStr("s3cr3t"),  # noqa: B008 - frozen
    ) -> Proxy:
        """Start a proxy that resolves every name to this machine; ``self.outbound`` leads through it."""
        proxy = {"socks": SocksProxy, "http": ConnectProxy}[kind](
            lambda host, port: TCP4ClientEndpoint(self.reactor, "127.0.0.1", port), login
        )
        port = self.listen(self.behind_tls(proxy, "127.0.0.1") if tls else proxy)
        config = ProxyOutboundConfig(
            "p", "socks" if kind == "socks" else "http", "127.0.0.1", port, "me", password, tls
        )
        self.outbound = make_outbound(config, self.reactor, self.ca_file)
        verifyObject(IOutbound, self.outbound)
        return proxy

    async def echo(self, host: str, port: int, tls: bool) -> None:
        """Send a megabyte and receive it back."""
        protocol = await self.outbound.endpoint(host, port, tls).connect(Factory.forProtocol(Listener))
        assert isinstance(protocol, Listener)
        sent = bytes(range(256)) * 4096
        protocol.transport.write(sent)
        while len(protocol.received) < len(sent):
            await deferLater(self.reactor, 0.002)
        self.assertTrue(protocol.received == sent, "what came back is not what was sent")
        protocol.transport.loseConnection()

    async def gone(self, proxy: Proxy) -> None:
        """Wait until the proxy has no connection left."""
        while proxy.open:
            await deferLater(self.reactor, 0.002)
        await deferLater(self.reactor, 0.02)

    async def test_every_way(self) -> None:
        """TLS to the proxy, and TLS to the destination inside that; the proxy resolves the name."""
        name = "upstream.test"
        plain = self.listen(Factory.forProtocol(Echo))
        encrypted = self.listen(self.behind_tls(Factory.forProtocol(Echo), name))
        for kind, tls in (("socks", False), ("http", False), ("http", True)):
            for login in (None, ("me", "s3cr3t")):
                proxy = self.proxy(kind, login, tls)
                await self.echo("192.0.2.1", plain, False)
                await self.echo(name, encrypted, True)
                self.assertEqual(proxy.asked, [("192.0.2.1", plain), (name, encrypted)])
                if login:
                    self.assertEqual(proxy.logins, [login, login])
                await self.gone(proxy)

    async def test_another_certificate_inside(self) -> None:
        """The destination's certificate is verified: the proxy may connect us to anything."""
        port = self.listen(self.behind_tls(Factory.forProtocol(Echo), "elsewhere.test"))
        for kind in ("socks", "http"):
            proxy = self.proxy(kind)
            with self.assertRaises(ssl.SSLCertVerificationError):
                await self.echo("upstream.test", port, True)
            endpoint = self.outbound.endpoint("upstream.test", port, True, "elsewhere.test")
            protocol: Any = await endpoint.connect(Factory.forProtocol(Listener))
            protocol.transport.abortConnection()
            await self.gone(proxy)

    async def test_a_login_without_a_password(self) -> None:
        port = self.listen(Factory.forProtocol(Echo))
        for kind in ("socks", "http"):
            proxy = self.proxy(kind, ("me", ""), password=None)
            await self.echo("h.test", port, False)
            self.assertEqual(proxy.logins, [("me", "")])
            await self.gone(proxy)

    async def test_refusals(self) -> None:
        unused = socket.socket()
        self.addCleanup(unused.close)
        unused.bind(("127.0.0.1", 0))
        for kind, words in (
            ("socks", ("does not accept the user name", "not allowed", "host unreachable")),
            ("http", ("407 Proxy Authentication", "403 Forbidden", "502 Bad Gateway")),
        ):
            for number, expected in enumerate(words):
                proxy = self.proxy(kind, ("me", "other") if number == 0 else None)
                proxy.forbidden = {"forbidden.test"}
                with self.assertRaises(ProxyError) as raised:
                    await self.echo(
                        "forbidden.test" if number == 1 else "h.test", unused.getsockname()[1], True
                    )
                self.assertIn(expected, str(raised.exception))
                self.assertFalse("s3cr3t" in str(raised.exception), "the password is repeated")
                await self.gone(proxy)

    async def test_no_proxy_there(self) -> None:
        unused = socket.socket()
        self.addCleanup(unused.close)
        unused.bind(("127.0.0.1", 0))
        config = ProxyOutboundConfig("p", "socks", "127.0.0.1", unused.getsockname()[1])
        outbound = make_outbound(config, self.reactor)
        with self.assertRaisesRegex(ProxyError, "^cannot connect to the proxy: .*refused"):
            await outbound.endpoint("h.test", 443, True).connect(Factory.forProtocol(Listener))

    async def test_the_control_plane(self) -> None:
        """F30: the requests of an Agent go through the proxy too."""

        class Hello(Resource):
            isLeaf = True

            def render_GET(self, request: Request) -> bytes:
                return b"hello"

        port = self.listen(self.behind_tls(Site(Hello()), "upstream.test"))
        proxy = self.proxy("http", tls=True)
        agent = PoolAgent(OutboundEndpoints(self.outbound), self.reactor, timeout=10, body_size=1000)
        response = await agent.request(b"GET", b"https://upstream.test:%d/" % port)
        self.assertEqual(await readBody(response), b"hello")
        self.assertEqual(proxy.asked, [("upstream.test", port)])
        await self.gone(proxy)

    async def test_one_connection_each(self) -> None:
        """F43."""
        port = self.listen(Factory.forProtocol(Greeter))
        proxy = self.proxy("socks")
        endpoint = self.outbound.endpoint("h.test", port, False)
        first, second = [await endpoint.connect(Factory.forProtocol(Listener)) for _ in range(2)]
        self.assertEqual(proxy.open, 2)
        for protocol in (first, second):
            assert isinstance(protocol, Listener)
            protocol.transport.loseConnection()
        await self.gone(proxy)


class UpstreamTests(TestCase):
    """All layers together: a connection pool, an outbound, TLS, TCP, our own server."""

    def setUp(self) -> None:
        from twisted.internet import reactor  # noqa: TID251 - the real thing

        self.reactor: Any = reactor
        self.authority = make_authority()
        self.server = HTTPServerFactory(self.handle, reactor)
        self.gone = self.handled = 0
        self.port: Any = self.reactor.listenTCP(0, cast(Any, self.server), interface="127.0.0.1")

    async def tearDown(self) -> None:  # type: ignore[override]
        await self.port.stopListening()
        self.server.abort_all()
        await self.server.drained()

    def use_tls(self, name: str = "127.0.0.1") -> None:
        """Serve with a certificate for ``name``."""
        self.port.stopListening()
        options = self.authority.server_options(name, alpn=[b"http/1.1"])
        factory = TLSMemoryBIOFactory(options, False, self.server)
        self.port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")

    def pool(self, tls: bool) -> ConnectionPool:
        """Connections to the server, closed at the end."""
        outbound = DirectOutbound(self.reactor, self.authority.write(Path(self.mktemp())))
        pool = ConnectionPool(
            outbound.endpoint("127.0.0.1", self.port.getHost().port, tls),
            self.reactor,
            ClientLimits(connect_timeout=5.0),
        )

        async def close() -> None:
            pool.close()
            while pool.idle or pool.busy or self.server.connections:
                await deferLater(self.reactor, 0.005)
            # what is still being closed
            await deferLater(self.reactor, 0.02)
            self.assertEqual([call for call in self.reactor.getDelayedCalls() if "_check" in str(call)], [])

        self.addCleanup(lambda: Deferred.fromCoroutine(close()))
        return pool

    def handle(self, request: ServerRequest) -> None:
        """Echo the body; answer a GET with an unfinished stream."""

        def gone() -> None:
            self.gone += 1

        self.handled += 1
        request.on_gone(gone)
        if request.head.method == b"GET":
            request.start_response(ResponseHead(200, b"OK", []))
            request.write(b"half")
            return
        request.receive_body(
            64 * 1024 * KIB,
            lambda body: request.respond(ResponseHead(200, b"OK", []), body.joined()),
            lambda error: request.abort(),
        )

    async def call(self, pool: ConnectionPool, method: bytes, body: list[bytes]) -> tuple[Receiver, Call]:
        """Send a request; wait for the end of the response, or for some data where it is a GET."""
        receiver = Receiver()
        call = pool.send(RequestHead(method, b"/", [(b"Host", b"127.0.0.1")]), body, receiver)
        receiver.sent = True
        while receiver.outcome is None and not (method == b"GET" and receiver.pieces):
            await deferLater(self.reactor, 0.002)
        return receiver, call

    async def echo(self, tls: bool) -> None:
        pool = self.pool(tls)
        for size in (0, 1000, 200 * KIB, 5000 * KIB):
            payload = bytes(range(256)) * (size // 256)
            receiver, _ = await self.call(pool, b"POST", [payload[:1000], payload[1000:]])
            self.assertEqual(receiver.outcome, "ended")
            self.assertTrue(receiver.body == payload, f"{size} bytes differ")
        self.assertEqual(pool.idle, 1)

    async def test_plain(self) -> None:
        await self.echo(tls=False)

    async def test_tls(self) -> None:
        self.use_tls()
        await self.echo(tls=True)

    async def test_cancel(self) -> None:
        for tls in (False, True):
            if tls:
                self.use_tls()
            self.gone = 0
            receiver, call = await self.call(self.pool(tls), b"GET", [])
            self.assertEqual(receiver.body, b"half")
            call.cancel()
            receiver.cancelled = True
            while not self.gone:
                await deferLater(self.reactor, 0.002)

    async def test_certificate_of_somebody_else(self) -> None:
        """No request is sent to an upstream whose certificate does not verify, so another one may be tried."""
        self.use_tls("elsewhere.test")
        receiver, _ = await self.call(self.pool(tls=True), b"POST", [b"secret"])
        self.assertIsInstance(receiver.outcome, RequestNotSent)
        self.assertIn("certificate", str(receiver.outcome))
        self.assertEqual(self.handled, 0)

    async def test_no_tls_there(self) -> None:
        receiver, _ = await self.call(self.pool(tls=True), b"POST", [b"secret"])
        self.assertIsInstance(receiver.outcome, RequestNotSent)


class EndpointTests(SynchronousTestCase):
    """The kinds of endpoint, by configuration and destination."""

    def test_what_the_configuration_asks_for(self) -> None:
        reactor = MemoryReactorClock()
        for config, expected in (
            (None, ("192.0.2.9", 443, None)),
            (DirectOutboundConfig("d"), ("192.0.2.9", 443, None)),
            (DirectOutboundConfig("d", "192.0.2.1"), ("192.0.2.9", 443, ("192.0.2.1", 0))),
            (ProxyOutboundConfig("p", "socks", "192.0.2.2", 1080), ("192.0.2.2", 1080, None)),
            (ProxyOutboundConfig("p", "http", "192.0.2.3", 3128), ("192.0.2.3", 3128, None)),
        ):
            waiting = (
                make_outbound(config, reactor, connect_timeout=7.0)
                .endpoint("192.0.2.9", 443, True)
                .connect(Factory.forProtocol(Listener))
            )
            host, port, _, timeout, bind_address = reactor.tcpClients[-1]
            self.assertEqual((host, port, bind_address, timeout), (*expected, 7.0))
            waiting.addErrback(lambda reason: None).cancel()

    def test_time_for_the_handshake_with_a_proxy(self) -> None:
        reactor = MemoryReactorClock()
        outbound = make_outbound(
            ProxyOutboundConfig("p", "socks", "192.0.2.2", 1080), reactor, connect_timeout=7.0
        )
        waiting = outbound.endpoint("192.0.2.9", 443, False).connect(Factory.forProtocol(Listener))
        protocol: Any = reactor.tcpClients[-1][2].buildProtocol(None)
        protocol.makeConnection(StringTransport())
        reactor.advance(6.9)
        self.assertNoResult(waiting)
        reactor.advance(0.2)
        self.assertIn("within 7 seconds", str(self.failureResultOf(waiting, ProxyError).value))

    def test_a_host_that_is_none(self) -> None:
        config = ProxyOutboundConfig("p", "socks", "192.0.2.2", 1080)
        outbound = make_outbound(config, MemoryReactorClock())
        self.assertRaises(ValueError, outbound.endpoint, "x" * 256, 443, False)

    def test_a_file_that_cannot_be_read(self) -> None:
        for config in (None, ProxyOutboundConfig("p", "socks", "192.0.2.2", 1080)):
            self.assertRaises(OSError, make_outbound, config, MemoryReactorClock(), "/does/not/exist")

    def test_addresses_need_no_resolver(self) -> None:
        for host in ("192.0.2.1", "2001:db8::1"):
            endpoint = DirectOutbound(Clock()).endpoint(host, 80, False)
            self.assertNotIsInstance(vars(endpoint)["_endpoint"], HostnameEndpoint)

    def test_agent_hosts(self) -> None:
        """IPv6 addresses stand in brackets in a URL, and nowhere else."""
        asked = []

        class Outbound(DirectOutbound):
            def endpoint(self, host: str, port: int, tls: bool, server_name: str | None = None) -> Any:
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
