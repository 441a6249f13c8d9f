"""Our sessions with peers that are not ours: hashicorp/yamux itself, and libp2p's in JavaScript."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest, TestCase

from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.http.client.upgrade import SwitchedConnection
from ccmproxy.http.message import Body, RequestHead, ResponseHead
from ccmproxy.http.server.factory import HTTPServerFactory, ServerRequest
from ccmproxy.reverse import SessionLost, StreamClientEndpoint, StreamNotOpened, YamuxProtocol
from ccmproxy.yamux import SessionConfig
from tests.http.upstream import Receiver
from tests.interop.claude_cli import Outcome
from tests.interop.yamux_programs import Program, ask, commands, go_peer, node_peer, pattern
from tests.transports.certificates import make_authority

MIB = 1024 * 1024


class PeerCase(TestCase):
    """A program as the peer of a session of ours."""

    timeout = 90
    command: list[str]

    def setUp(self) -> None:
        from twisted.internet import reactor  # noqa: TID251 - real programs need real sockets

        self.reactor: Any = reactor
        found = self.find_program()
        if isinstance(found, str):
            raise SkipTest(found)
        self.command = found
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def find_program(self) -> list[str] | str:
        """How to start it, or why it cannot be."""
        raise NotImplementedError

    def start(self, *arguments: str) -> Program:
        """Start it; it is killed at the end of the test."""
        program = Program(self.reactor, [*self.command, *arguments], self.directory)
        ended: Deferred[None] = Deferred()

        def tell(outcome: Outcome) -> Outcome:
            ended.callback(None)
            return outcome

        program.ended.addCallback(tell)

        def kill() -> Deferred[None]:
            program.kill()
            return ended

        self.addCleanup(kill)
        return program

    def session(self, peer_role: str, config: SessionConfig | None = None) -> YamuxProtocol:
        """A session of ours that understands commands."""
        made = YamuxProtocol(
            self.reactor, peer_role == "server", commands(lambda: made), config or SessionConfig()
        )
        return made

    def drop(self, session: YamuxProtocol) -> Deferred[Exception]:
        """However the test ended, the connection goes."""
        session.abort()
        return session.when_lost()

    async def connect(
        self, *arguments: str, role: str, tls: bool = False, config: SessionConfig | None = None
    ) -> tuple[YamuxProtocol, Program]:
        """Start the program, which connects to us, as ``role`` of the session."""
        connected: Deferred[YamuxProtocol] = Deferred()
        factory = Factory()
        factory.noisy = False

        def build(address: object) -> YamuxProtocol:
            session = self.session(role, config)
            self.reactor.callLater(0, connected.callback, session)
            self.addCleanup(self.drop, session)
            return session

        factory.buildProtocol = build  # type: ignore[method-assign,assignment]
        options = []
        if tls:
            authority = make_authority()
            options = ["-ca", authority.write(self.directory / "ca.pem")]
            port = self.reactor.listenSSL(
                0, factory, authority.server_options("localhost"), interface="127.0.0.1"
            )
        else:
            port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        address = f"127.0.0.1:{port.getHost().port}"
        program = self.start("-connect", address, "-role", role, *options, *arguments)
        program.ended.addCallback(self.early, connected)
        return await connected, program

    def early(self, outcome: Outcome, connected: Deferred[Any]) -> Outcome:
        """The program has ended; it should have connected before."""
        if not connected.called:
            connected.errback(AssertionError(f"{outcome.output}\n{outcome.errors}"))
        return outcome

    async def finished(self, program: Program, *lines: str) -> None:
        """It was satisfied, and printed exactly that."""
        outcome = await program.ended
        self.assertEqual((outcome.code, outcome.output.splitlines()), (0, [*lines]), outcome.errors)

    async def echoes(self, session: YamuxProtocol, count: int, size: int) -> None:
        """Several at the same time, each of its own length."""
        said = [pattern(size + number) for number in range(count)]
        questions = [await ask(session, "echo", data, end=True) for data in said]
        for data, back in zip(said, await gatherResults([q.ended for q in questions]), strict=True):
            self.assertTrue(data == back, f"{len(back)} bytes of {len(data)} came back")

    async def half_closed(self, session: YamuxProtocol) -> None:
        """The answer comes after our end."""
        data = pattern(MIB)
        question = await ask(session, "sink", data, end=True)
        expected = f"{len(data)} {hashlib.sha256(data).hexdigest()}"
        self.assertEqual((await question.ended).decode(), expected)

    async def sources(self, session: YamuxProtocol) -> None:
        """Short streams, one after the other."""
        for number in range(50):
            question = await ask(session, f"source {number * 20_000}")
            self.assertTrue(await question.ended == pattern(number * 20_000), f"source {number}")


class GoTests(PeerCase):
    """hashicorp/yamux."""

    def find_program(self) -> list[str] | str:
        return go_peer()

    async def go_drives(self, held: int, *arguments: str, role: str, tls: bool = False) -> None:
        """Go opens the streams. ``held``: how much one that is not read takes."""
        _, program = await self.connect("-mode", "drive", *arguments, role=role, tls=tls)
        await self.finished(
            program,
            f"held after {held}",
            "echoed",
            "half closed",
            "read sources",
            "pinged",
            "told to go away",
            "done",
        )

    async def go_serves(self, *arguments: str, role: str, tls: bool = False) -> None:
        """Go accepts the streams."""
        session, program = await self.connect("-mode", "serve", *arguments, role=role, tls=tls)
        held = await ask(session, "hold", bytes(8 * MIB))
        await self.echoes(session, 20, MIB)
        await self.half_closed(session)
        await self.sources(session)
        self.assertGreater(held.transport.stream.queue.size, 3 * MIB)
        self.assertLess(await session.ping(), 5)
        self.assertEqual(await (await ask(session, "ping")).ended, b"pong")
        held.transport.abortConnection()
        survivor = await ask(session, "echo", b"still ")
        await survivor.until(6)
        self.assertEqual(await (await ask(session, "goaway")).ended, b"gone")
        await self.assertFailure(Deferred.fromCoroutine(ask(session, "echo")), StreamNotOpened)
        survivor.transport.write(b"here")
        self.assertEqual(await survivor.until(10), b"still here")
        survivor.transport.loseConnection()
        await session.close()
        await self.finished(program, "session over: EOF", "done")

    async def test_go_drives_as_client(self) -> None:
        await self.go_drives(512 * 1024, role="client")

    async def test_go_drives_as_server(self) -> None:
        await self.go_drives(512 * 1024, role="server")

    async def test_go_drives_under_tls(self) -> None:
        await self.go_drives(512 * 1024, role="client", tls=True)

    async def test_go_serves_as_client(self) -> None:
        await self.go_serves(role="client")

    async def test_go_serves_as_server(self) -> None:
        await self.go_serves(role="server")

    async def test_go_serves_under_tls(self) -> None:
        await self.go_serves(role="server", tls=True)

    async def test_smallest_window(self) -> None:
        await self.go_serves("-window", "262144", role="server")

    async def test_large_window(self) -> None:
        await self.go_serves("-window", str(4 * MIB), role="server")

    async def test_many_streams(self) -> None:
        """More than may wait to be acknowledged."""
        session, _ = await self.connect("-mode", "serve", role="server")
        await self.echoes(session, 1000, 1000)
        self.assertEqual(session.streams, 0)

    async def test_keepalive(self) -> None:
        """Both ask often, and both are busy."""
        config = SessionConfig(keepalive_interval=0.1, ping_timeout=2.0)
        session, program = await self.connect(
            "-mode", "serve", "-keepalive", "100ms", "-timeout", "2s", role="server", config=config
        )
        for _ in range(3):
            await self.echoes(session, 10, MIB)
            await deferLater(self.reactor, 0.3)
        self.assertTrue(session.is_usable)
        await session.close()
        await self.finished(program, "session over: EOF", "done")

    async def test_peer_that_stopped(self) -> None:
        """It is there, and does nothing."""
        config = SessionConfig(keepalive_interval=0.2, ping_timeout=1.0)
        session, program = await self.connect("-mode", "serve", role="server", config=config)
        question = await ask(session, "echo", b"hello")
        await question.until(5)
        program.signal("STOP")
        await self.assertFailure(question.ended, SessionLost)
        self.assertEqual(str(await session.when_lost()), "no answer to a ping within 1 seconds")

    async def test_peer_that_stopped_reading(self) -> None:
        config = SessionConfig(write_timeout=1.0)
        session, program = await self.connect("-mode", "serve", role="server", config=config)
        questions = [await ask(session, "echo", b"x") for _ in range(100)]
        for question in questions:
            await question.until(1)
        program.signal("STOP")
        for question in questions:
            question.transport.write(bytes(256 * 1024))
        for question in questions:
            await self.assertFailure(question.ended, SessionLost)
        self.assertEqual(str(await session.when_lost()), "the peer took nothing for 1 seconds")

    async def test_peer_that_was_killed(self) -> None:
        session, program = await self.connect("-mode", "serve", role="server")
        question = await ask(session, "echo", b"hello")
        await question.until(5)
        program.kill()
        await self.assertFailure(question.ended, SessionLost)

    # The handshake of a reverse connection, and HTTP behind it

    async def test_go_is_the_connector(self) -> None:
        """It dials and upgrades; then our requests go to it."""
        switched: Deferred[YamuxProtocol] = Deferred()

        def upgrade(request: ServerRequest) -> None:
            session = YamuxProtocol(self.reactor, True)
            request.take_over(session)
            session.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: reverse-proxy\r\n\r\n"
            )
            self.addCleanup(self.drop, session)
            self.reactor.callLater(0, switched.callback, session)

        server = HTTPServerFactory(upgrade, self.reactor)
        port = self.reactor.listenTCP(0, server, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.addCleanup(server.drained)
        address = f"127.0.0.1:{port.getHost().port}"
        program = self.start("-connect", address, "-upgrade", "-role", "server", "-mode", "http-serve")
        program.ended.addCallback(self.early, switched)
        session = await switched
        pool = ConnectionPool(StreamClientEndpoint(session), self.reactor)

        bodies = [pattern(number * 50_000) for number in range(30)]
        answers = [self.send(pool, b"POST", b"/echo", body) for body in bodies]
        for body, answer in zip(bodies, await gatherResults(answers), strict=True):
            self.assertTrue(answer.body == body, f"{len(answer.body)} of {len(body)}: {answer.outcome}")
        source = await self.send(pool, b"GET", b"/source?size=3000000")
        self.assertTrue(source.body == pattern(3_000_000))

        receiver = Receiver()
        started: Deferred[None] = Deferred()
        receiver.on_start = lambda: started.callback(None)
        call = pool.send(RequestHead(b"GET", b"/wait", [(b"Host", b"test")]), (), receiver)
        receiver.sent = True
        await started
        receiver.cancelled = True
        call.cancel()
        await deferLater(self.reactor, 0.1)
        pool.close()
        await session.close()
        await self.finished(program, "upgraded", "request cancelled", "done")

    def send(
        self, pool: ConnectionPool, method: bytes, target: bytes, body: bytes = b""
    ) -> Deferred[Receiver]:
        """A request; fires when it is answered."""
        receiver = Receiver()
        ended: Deferred[Receiver] = Deferred()
        receiver.on_end = lambda: ended.callback(receiver)
        pool.send(RequestHead(method, target, [(b"Host", b"test")]), [body] if body else [], receiver)
        receiver.sent = True
        return ended

    async def test_go_is_the_receiver(self) -> None:
        """We dial and upgrade; then its requests come to us."""
        program = self.start("-listen", "127.0.0.1:0", "-upgrade", "-role", "client", "-mode", "http-drive")
        port = await program.listening
        cancelled: list[str] = []

        def answer(request: ServerRequest) -> None:
            head = ResponseHead(200, b"OK", [])
            if request.head.target == b"/wait":
                request.on_gone(lambda: cancelled.append("x"))
                request.start_response(head, b"begun")
            elif request.head.target == b"/cancelled":
                request.respond(head, b"%d" % len(cancelled))
            else:
                request.receive_body(10 * MIB, lambda body: respond(request, body), self.fail)

        def respond(request: ServerRequest, body: Body) -> None:
            request.respond(ResponseHead(200, b"OK", []), body.joined())

        server = HTTPServerFactory(answer, self.reactor)
        self.addCleanup(server.drained)
        session = YamuxProtocol(self.reactor, False, server)

        def hand_over(head: ResponseHead, connection: SwitchedConnection) -> None:
            connection.hand_over(session)

        from twisted.internet.endpoints import TCP4ClientEndpoint

        pool = ConnectionPool(TCP4ClientEndpoint(self.reactor, "127.0.0.1", port), self.reactor)
        fields = [
            (b"Host", b"test"),
            (b"Connection", b"Upgrade"),
            (b"Upgrade", b"reverse-proxy"),
            (b"Authorization", b"Bearer the-token-of-the-test"),
        ]
        receiver = Receiver()
        pool.upgrade(RequestHead(b"GET", b"/ccm/v1/reverse", fields), receiver, hand_over)
        receiver.sent = True
        await self.finished(
            program, f"listening 127.0.0.1:{port}", "upgraded", "posted", "cancelled", "seen", "done"
        )
        await session.when_lost()


class NodeTests(PeerCase):
    """@chainsafe/libp2p-yamux, which is stricter."""

    def find_program(self) -> list[str] | str:
        return node_peer()

    async def test_node_serves(self) -> None:
        for role in ("server", "client"):
            session, _ = await self.connect("-mode", "serve", role=role)
            await self.echoes(session, 20, 300_000)
            await self.half_closed(session)
            await self.sources(session)
            self.assertLess(await session.ping(), 5)
            await session.close()

    async def test_node_drives(self) -> None:
        for role in ("server", "client"):
            _, program = await self.connect("-mode", "drive", role=role)
            await self.finished(program, "echoed", "half closed", "read sources", "pinged", "done")
