"""Inside of another Twisted program: what the package offers to whoever embeds it."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from typing import Any

import treq
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool

from ccmproxy import Config, loadConfig, makeService
from ccmproxy.config import load_text
from ccmproxy.root.multiplexer import ListenFailed
from ccmproxy.root.service import ProxyService
from ccmproxy.root.surroundings import Surroundings
from ccmproxy.simulator.server import Simulator
from ccmproxy.simulator.steps import Pace
from tests.conversation import CONFIGURATION, TOKEN
from tests.root.test_assembly import RecordingOutbound


class EmbeddingTests(TestCase):
    """Over real connections."""

    timeout = 20

    def setUp(self) -> None:
        from twisted.internet import reactor  # noqa: TID251

        self.reactor: Any = reactor
        self.simulator = Simulator(self.reactor, random.Random(1), pace=Pace(first=0.01, each=0.005))
        factory: Any = self.simulator.factory
        self.upstream: Any = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(self._stop_simulator)
        self.pool = HTTPConnectionPool(self.reactor, persistent=False)
        self.agent = Agent(self.reactor, pool=self.pool)

    async def _stop_simulator(self) -> None:
        await self.upstream.stopListening()
        self.simulator.factory.stop_accepting()
        self.simulator.factory.abort_all()
        await self.simulator.factory.drained()

    def config(self, token: str) -> Config:
        """A configuration from a file, for an account of its own."""
        path = os.path.abspath(f"{self.mktemp()}.json")
        with open(path, "wb") as file:
            file.write(self.simulator.add_account().credentials_document())
        upstream = f"http://127.0.0.1:{self.upstream.getHost().port}"
        text = CONFIGURATION.replace("listen_port: 8080", 'endpoint: "tcp:0:interface=127.0.0.1"').replace(
            "http://127.0.0.1:9000", upstream
        )
        file_name = self.mktemp()
        with open(file_name, "w") as out:
            out.write(text.format(path=path, token=token, more=""))
        return loadConfig(file_name)

    def start(self, service: ProxyService) -> None:
        """Start it, and see that it stops."""
        service.startService()
        self.addCleanup(service.stopService)

    def url(self, service: ProxyService, path: str) -> str:
        """Where it serves ``path``."""
        port: Any = next(iter(service.services.values())).port
        return f"http://127.0.0.1:{port.getHost().port}{path}"

    async def turn(self, service: ProxyService, token: str) -> bytes:
        """One turn, streamed."""
        body = (
            b'{"model":"claude-opus-4-5","max_tokens":50,"stream":true,'
            b'"messages":[{"role":"user","content":"[[tokens:20]]"}]}'
        )
        headers: Any = {"Authorization": f"Bearer {token}", "anthropic-version": "2023-06-01"}
        response = await treq.post(
            self.url(service, "/v1/messages"), data=body, headers=headers, agent=self.agent
        )
        self.assertEqual(response.code, 200)
        content: bytes = await response.content()
        return content

    async def test_two_in_one_process(self) -> None:
        """Each with its own users and account; stopping one leaves the other alone."""
        one, two = (makeService(self.config(f"token-{name}-4711"), self.reactor) for name in ("one", "two"))
        self.start(one)
        self.start(two)
        answers = await gatherResults(
            [
                Deferred.fromCoroutine(self.turn(one, "token-one-4711")),
                Deferred.fromCoroutine(self.turn(two, "token-two-4711")),
            ]
        )
        for answer in answers:
            self.assertIn(b"event: message_stop", answer)
        accounts = {request.account for request in self.simulator.requests.of("turn")}
        self.assertEqual(len(accounts), 2)
        await one.stopService()
        self.assertIn(b"event: message_stop", await self.turn(two, "token-two-4711"))
        await two.stopService()

    async def test_a_stop_with_a_stream_in_flight(self) -> None:
        service = makeService(self.config("token-one-4711"), self.reactor)
        self.start(service)
        turn = Deferred.fromCoroutine(self.turn(service, "token-one-4711"))
        while not self.simulator.requests.of("turn"):
            await deferLater(self.reactor, 0.005)
        await service.stopService()
        self.assertIn(b"event: message_stop", await turn)

    async def test_a_taken_port(self) -> None:
        config = self.config("token-one-4711")
        taken = self.reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        self.addCleanup(taken.stopListening)
        text = CONFIGURATION.replace("8080", str(taken.getHost().port))
        config = load_text(text.format(path=self.mktemp(), token=TOKEN, more=""), "test.yaml")
        service = makeService(config, self.reactor)
        self.assertRaises(ListenFailed, service.startService)
        await deferLater(self.reactor, 0)

    async def test_the_same_port_on_other_interfaces(self) -> None:
        """Spec 1, Reload: the system frees an address a moment after it was closed; the new listener waits for it."""
        config = self.config("token-one-4711")
        service = makeService(config, self.reactor)
        self.start(service)
        port: Any = next(iter(service.services.values())).port
        number = port.getHost().port
        for interface in ("127.0.0.1", "0.0.0.0", "127.0.0.1"):
            endpoint = f"tcp:{number}:interface={interface}"
            await service.reload(replace(config, services=(replace(config.services[0], endpoint=endpoint),)))
            self.assertEqual(list(service.services), [endpoint])
            self.assertIn(b"event: message_stop", await self.turn(service, "token-one-4711"))

    async def test_dead_peers_are_noticed(self) -> None:
        """F35: the kernel asks on connections from clients, and to the upstream."""
        made: dict[tuple[str, int], list[Any]] = {}
        real = Surroundings.of_reactor(self.reactor, random.Random(1))
        object.__setattr__(
            real,
            "outbound",
            lambda upstream, detour, inner=real.outbound: RecordingOutbound(inner(upstream, detour), made),
        )
        service = ProxyService(self.config("token-one-4711"), real)
        self.start(service)
        accepted: list[Any] = []
        factory = next(iter(service.services.values())).factory
        build = factory.buildProtocol

        def recording(addr: Any) -> Any:
            protocol = build(addr)
            accepted.append(protocol)
            return protocol

        factory.buildProtocol = recording  # type: ignore[method-assign]
        turn = Deferred.fromCoroutine(self.turn(service, "token-one-4711"))
        while not self.simulator.requests.of("turn"):
            await deferLater(self.reactor, 0.005)
        self.assertEqual(len(accepted), 1)
        self.assertTrue(accepted[0].transport.getTcpKeepAlive())
        self.assertTrue(accepted[0].transport.getTcpNoDelay())
        upstream = [each.transport for connections in made.values() for each in connections]
        alive = [transport for transport in upstream if transport.connected]
        self.assertGreater(len(alive), 0)
        for transport in alive:
            self.assertTrue(transport.getTcpKeepAlive())
            self.assertTrue(transport.getTcpNoDelay())
        await turn
        await service.stopService()
