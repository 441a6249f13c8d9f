"""The demo in this process; ``tests.system.test_demo`` runs all of it as a program."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from ccmproxy.demo.script import a_turn, an_account_that_runs_out
from ccmproxy.demo.stage import ALICE, Demo
from ccmproxy.root.multiplexer import ListenFailed


class DemoTests(TestCase):
    """On ports of its own."""

    timeout = 30

    def setUp(self) -> None:
        self.directory = Path(os.path.abspath(self.mktemp()))
        self.directory.mkdir()

    async def start(self) -> Demo:
        """Start one."""
        from twisted.internet import reactor  # noqa: TID251

        for _ in range(3):
            demo = Demo(reactor, self.directory, None)
            self.addCleanup(demo.end)
            try:
                await demo.start()
            except ListenFailed:
                # The ports were free when it chose them; another program was quicker.
                continue
            return demo
        self.fail("three times somebody else took a port")

    async def test_requests(self) -> None:
        """Each becomes what the script says."""
        demo = await self.start()
        for step in (a_turn, an_account_that_runs_out):
            outcome = await step(demo)
            self.assertEqual(outcome.observed, outcome.expected)

    async def test_invitation(self) -> None:
        """It names what is running."""
        demo = await self.start()
        said = demo.invitation()
        for words in (demo.url, ALICE, f":{demo.codex_port}/", f"port {demo.neighbour_port}"):
            self.assertIn(words, said)
        self.assertEqual(len({demo.port, demo.codex_port, demo.neighbour_port}), 3)

    async def test_credential_files(self) -> None:
        """As the official programs would leave them: readable for nobody else."""
        await self.start()
        files = sorted(self.directory.glob("*.json"))
        self.assertEqual([file.stem for file in files], ["codex", "main", "small", "spent"])
        self.assertEqual({file.stat().st_mode & 0o777 for file in files}, {0o600})

    async def test_ends(self) -> None:
        """Nobody listens any more; and whoever ends it does not need to know whether somebody has."""
        demo = await self.start()
        await demo.stop()
        for port in (demo.port, demo.codex_port, demo.neighbour_port):
            connecting = TCP4ClientEndpoint(demo.reactor, "127.0.0.1", port).connect(
                Factory.forProtocol(Protocol)
            )
            await self.assertFailure(connecting, ConnectionRefusedError)
        await demo.stop()
