"""What the tests with real clients have in common: a simulator on a loopback port, and runs of a client against it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.trial.unittest import SkipTest, TestCase

from ccmproxy.simulator import ApiKeyAccount, ClaudeAccount, Simulator
from tests.interop.claude_cli import Outcome, claude_command, client_environment, run_program, sdk_command

SDK_CLIENT = Path(__file__).with_name("anthropic_client.py")

#: Programs that run at the same time: each takes a core for a second or more.
AT_ONCE = 2


class ClientCase(TestCase):
    """A simulator with an account and a key; a client to run. ``url``: what the client talks to."""

    timeout = 240
    command: list[str]
    reactor: Any
    simulator: Simulator
    account: ClaudeAccount
    key: ApiKeyAccount
    url: str
    home: Path

    def setUp(self) -> None:
        from twisted.internet import reactor  # noqa: TID251 - real programs need real sockets

        self.reactor = reactor
        found = self.find_command()
        if isinstance(found, str):
            raise SkipTest(found)
        self.command = found
        self.home = Path(self.mktemp()).absolute()
        self.home.mkdir()
        self.simulator = Simulator(self.reactor, random.Random(1))
        self.account = self.simulator.add_account("a")
        self.key = self.simulator.add_api_key("k")
        port = self.reactor.listenTCP(0, self.simulator.factory, interface="127.0.0.1")
        self.url = f"http://127.0.0.1:{port.getHost().port}"
        self.addCleanup(port.stopListening)
        self.addCleanup(self.simulator.factory.abort_all)

    def find_command(self) -> list[str] | str:
        """How to start the client, or why it cannot be."""
        raise NotImplementedError

    def login(self) -> dict[str, str]:
        """The environment variables that let a client in."""
        raise NotImplementedError

    async def run_client(self, *arguments: str, **settings: str) -> Outcome:
        """One run to its end. ``settings``: environment variables, in place of :meth:`login`."""
        environment = client_environment(self.home, self.url, **(settings or self.login()))
        return await run_program(self.reactor, [*self.command, *arguments], environment, self.home)


class CLICase(ClientCase):
    """Runs of the CLI in print mode."""

    version = "latest"

    def find_command(self) -> list[str] | str:
        return claude_command(self.version)

    async def ask(self, *arguments: str, **settings: str) -> Outcome:
        """One turn, or several if tools are used."""
        return await self.run_client("-p", *arguments, **settings)

    async def ask_all(self, prompts: list[str], logins: list[dict[str, str]] | None = None) -> list[Outcome]:
        """Several runs, some of them at the same time; outcomes in the order of the prompts."""
        at_once = DeferredSemaphore(AT_ONCE)
        each_login = logins or [self.login()] * len(prompts)
        return await gatherResults(
            [at_once.run(self._ask, prompt, login) for prompt, login in zip(prompts, each_login, strict=True)]
        )

    def _ask(self, prompt: str, login: dict[str, str]) -> Deferred[Outcome]:
        return Deferred.fromCoroutine(self.ask(prompt, **login))

    def answered(self, outcome: Outcome, text: str) -> None:
        """The run succeeded, and printed exactly that."""
        self.assertEqual((outcome.code, outcome.output.strip()), (0, text), outcome.errors)

    def sessions(self) -> set[bytes | None]:
        """Session ids in the headers of all turns that reached the simulator."""
        return {turn.header(b"x-claude-code-session-id") for turn in self.simulator.requests.of("turn")}


class SDKCase(ClientCase):
    """Runs of the Python SDK."""

    def find_command(self) -> list[str] | str:
        return sdk_command()

    async def converse(self, *conversations: str, **settings: str) -> dict[str, Any]:
        """Results of some of the conversations in ``anthropic_client.py``, by name."""
        outcome = await self.run_client(str(SDK_CLIENT), *conversations, **settings)
        self.assertEqual(outcome.code, 0, outcome.errors)
        return outcome.json()
