"""The transports that keep the contract of a byte stream: its methods, and for TLS its conversations too.

The conversations over TCP and in-memory transports are in :mod:`tests.testing.test_pump`, those over streams in
:mod:`tests.reverse.test_stream_transport`.
"""

from __future__ import annotations

from twisted.internet.endpoints import connectProtocol
from twisted.internet.protocol import Factory
from twisted.internet.tcp import Client, Server
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyClass, verifyObject

from ccmproxy.reverse import StreamTransport
from ccmproxy.testing.memory_transport import MemoryTransport
from ccmproxy.transports.contract import IByteStream
from ccmproxy.transports.tls_transport import TLSTransport
from tests.transports.contract import ByteStreamContract, InMemory, Recorder
from tests.transports.tls_scene import HOST, PORT, Scene


class InterfaceTests(SynchronousTestCase):
    """The transports that have the methods of IByteStream."""

    def test_ours_say_so(self) -> None:
        for transport in (TLSTransport, StreamTransport):
            self.assertTrue(verifyClass(IByteStream, transport))

    def test_twisteds_do_without_saying_so(self) -> None:
        for transport in (Client, Server, MemoryTransport):
            self.assertTrue(verifyClass(IByteStream, transport, tentative=True))


class TLSContractTests(InMemory, ByteStreamContract, TestCase):
    """Our TLS transport is the side under test, pyOpenSSL's is the peer."""

    #: Whether our side plays the conversation's server; it is our side that connects in either case.
    is_swapped = False

    async def connect(self, client: Recorder, server: Recorder) -> None:
        ours, theirs = (server, client) if self.is_swapped else (client, server)
        self.scene = scene = Scene(self)

        def build() -> Recorder:
            return theirs

        options = scene.authority.server_options(HOST)
        served = TLSMemoryBIOFactory(options, False, Factory.forProtocol(build), scene.network.clock)
        scene.network.listen("10.0.0.1", PORT, served)
        below = scene.network.endpoint("10.0.0.1", PORT)
        connected = connectProtocol(scene.tls.wrap(below, HOST, PORT, scene.network.clock), ours)
        self.flush()
        self.successResultOf(connected)

    def flush(self) -> None:
        self.scene.settle()

    async def test_interface(self) -> None:
        client, server = await self.pair()
        assert verifyObject(IByteStream, client.transport)
        assert verifyObject(IByteStream, server.transport, tentative=True)

    async def test_exception_costs_the_connection(self) -> None:
        self.is_swapped = True
        await super().test_exception_costs_the_connection()

    async def test_paused_reader_of_ours_receives_nothing(self) -> None:
        self.is_swapped = True
        await self.test_paused_reader_receives_nothing()

    async def test_slow_reader_of_ours_pauses_the_producer(self) -> None:
        self.is_swapped = True
        await self.test_slow_reader_pauses_the_producer()
