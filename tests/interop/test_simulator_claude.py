"""The simulator is believed by the real clients: the Claude Code CLI and the Python SDK, straight against it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.trial.unittest import SkipTest, TestCase

from ccmproxy.simulator import ApiKeyAccount, ClaudeAccount, Simulator
from tests.interop.claude_cli import Outcome, claude_command, client_environment, run_program, sdk_command

SDK_CLIENT = Path(__file__).with_name("anthropic_client.py")


class SimulatorCase(TestCase):
    """A simulator on a loopback port, with an account and a key; programs to run against it."""

    timeout = 300
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


class LatestTests(SimulatorCase):
    """Conversations of the newest CLI."""

    version = "latest"

    def find_command(self) -> list[str] | str:
        return claude_command(self.version)

    async def ask(self, *arguments: str, **settings: str) -> Outcome:
        """A run in print mode, by default with the account's token."""
        login = settings or {"CLAUDE_CODE_OAUTH_TOKEN": self.account.access_token}
        environment = client_environment(self.home, self.url, **login)
        return await run_program(self.reactor, [*self.command, "-p", *arguments], environment, self.home)

    async def ask_all(self, prompts: list[str]) -> list[Outcome]:
        """Several runs, some of them at the same time; outcomes in the order of the prompts."""
        at_once = DeferredSemaphore(4)
        return await gatherResults([at_once.run(self._ask, prompt) for prompt in prompts])

    def _ask(self, prompt: str) -> Deferred[Outcome]:
        return Deferred.fromCoroutine(self.ask(prompt))

    def answered(self, outcome: Outcome, text: str) -> None:
        """The run succeeded, and printed exactly that."""
        self.assertEqual((outcome.code, outcome.output.strip()), (0, text), outcome.errors)

    async def test_text(self) -> None:
        self.answered(await self.ask("Hi [[say:hello – 日本語 🙂]]"), "hello – 日本語 🙂")  # noqa: RUF001
        (turn,) = self.simulator.requests.of("turn")
        self.assertEqual((turn.account, turn.state, turn.status), ("a", "finished", 200))
        self.assertIn(b"oauth-2025-04-20", turn.items(b"anthropic-beta"))
        self.assertGreater(self.account.utilization("five_hour"), 0.0)

    async def test_logins(self) -> None:
        key = self.key.key
        self.answered(await self.ask("[[say:by token]]", ANTHROPIC_AUTH_TOKEN=key), "by token")
        self.answered(await self.ask("[[say:by key]]", ANTHROPIC_API_KEY=key), "by key")
        folder = self.home / ".claude"
        folder.mkdir(exist_ok=True)
        (folder / ".credentials.json").write_bytes(self.account.credentials_document())
        self.answered(await self.ask("[[say:by login]]", LOGIN="file"), "by login")
        self.assertEqual([turn.account for turn in self.simulator.requests.of("turn")], ["k", "k", "a"])

    async def test_stream(self) -> None:
        outcome = await self.ask(
            "--output-format",
            "stream-json",
            "--verbose",
            "--include-partial-messages",
            "[[think]] [[say:one two three four five six seven eight nine]]",
        )
        self.assertEqual(outcome.code, 0, outcome.output)
        lines = outcome.lines()
        events = [line["event"] for line in lines if line["type"] == "stream_event"]
        deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
        text = "".join(delta["text"] for delta in deltas if delta["type"] == "text_delta")
        self.assertEqual(text, "one two three four five six seven eight nine")
        self.assertTrue(any(delta["type"] == "thinking_delta" for delta in deltas))
        limits = [line["rate_limit_info"] for line in lines if line["type"] == "rate_limit_event"]
        self.assertEqual(limits[0]["status"], "allowed")
        (result,) = (line for line in lines if line["type"] == "result")
        self.assertFalse(result["is_error"])
        self.assertGreater(result["usage"]["cache_creation_input_tokens"], 1000)

    async def test_resumed(self) -> None:
        first = (await self.ask("--output-format", "json", "[[think]] [[say:first]]")).json()
        second = await self.ask("--output-format", "json", "--resume", first["session_id"], "[[say:second]]")
        self.assertEqual(second.json()["result"], "second")
        self.assertGreater(second.json()["usage"]["cache_read_input_tokens"], 1000)
        turns = self.simulator.requests.of("turn")
        self.assertEqual(len({turn.header(b"x-claude-code-session-id") for turn in turns}), 1)
        self.assertIn(b"[[say:first]]", turns[-1].body)

    async def test_tool(self) -> None:
        prompt = '[[tool:Bash:{"command":"echo result-$((40 + 2))","description":"Add"}]]'
        outcome = await self.ask("--allowedTools", "Bash", "--", prompt)
        self.assertEqual(outcome.code, 0, outcome.output)
        self.assertIn("result-42", outcome.output)
        self.assertEqual(len(self.simulator.requests.of("turn")), 2)

    async def test_errors(self) -> None:
        expected = {
            "400": "Simulated status 400",
            "too_long": "rompt is too long",
            "529": "Overloaded",
            "exhausted": "You've hit your",
        }
        outcomes = await self.ask_all([f"[[simulate:{fault}]]" for fault in expected])
        for outcome, message in zip(outcomes, expected.values(), strict=True):
            self.assertEqual(outcome.code, 1)
            self.assertIn(message, outcome.output)

    async def test_agent(self) -> None:
        arguments = {
            "description": "d",
            "prompt": "[[say:from the agent]]",
            "subagent_type": "general-purpose",
        }
        outcome = await self.ask("--allowedTools", "Agent", "--", f"[[tool:Agent:{json.dumps(arguments)}]]")
        self.assertEqual(outcome.code, 0, outcome.output)
        turns = self.simulator.requests.of("turn")
        self.assertGreaterEqual(len(turns), 3)
        self.assertEqual(len({turn.header(b"x-claude-code-session-id") for turn in turns}), 1)

    async def test_context(self) -> None:
        outcome = await self.ask("/context")
        self.assertEqual(outcome.code, 0, outcome.output)
        counted = self.simulator.requests.of("count_tokens")
        self.assertGreater(len(counted), 3)
        self.assertEqual({request.status for request in counted}, {200})

    async def test_used_up(self) -> None:
        self.account.exhaust("seven_day")
        outcome = await self.ask("[[say:no]]")
        self.assertEqual(outcome.code, 1)
        self.assertIn("resets", outcome.output)
        self.assertEqual(len(self.simulator.requests.of("turn")), 1)

    async def test_breaks(self) -> None:
        requests = {
            "cut;at=mid": 2,
            "cut;at=before_head;how=fin": 2,
            "error_first": 2,
            "error_mid": 2,
            # neither version minds a stream without message_stop
            "truncated": 1,
            "bad_chunk": 2,
            "garbage": 2,
            "half_head": 2,
            "long_content_length": 2,
            "short_content_length": 2,
        }
        outcomes = await self.ask_all(
            [f"[[simulate:{fault};times=1]] [[say:survived]]" for fault in requests]
        )
        for outcome in outcomes:
            self.answered(outcome, "survived")
        bodies = [turn.body for turn in self.simulator.requests.of("turn")]
        seen = {fault: sum(f"[[simulate:{fault};".encode() in body for body in bodies) for fault in requests}
        self.assertEqual(seen, requests)

    async def test_deliveries(self) -> None:
        faults = ("pieces", "random_pieces", "gzip", "pings", "stall;seconds=1", "slow_first_token;seconds=1")
        prompts = [f"[[simulate:{fault}]] [[say:ré – 🙂]]" for fault in faults]  # noqa: RUF001
        for outcome in await self.ask_all(prompts):
            self.answered(outcome, "ré – 🙂")  # noqa: RUF001


class NodeTests(LatestTests):
    """The same, of a version that runs under node."""

    version = "2.1.90"


class SDKTests(SimulatorCase):
    """The Python SDK."""

    def find_command(self) -> list[str] | str:
        return sdk_command()

    async def run_client(self, what: str) -> dict[str, Any]:
        environment = client_environment(self.home, self.url, ANTHROPIC_API_KEY=self.key.key)
        command = [*self.command, str(SDK_CLIENT), what]
        outcome = await run_program(self.reactor, command, environment, self.home)
        self.assertEqual(outcome.code, 0, outcome.errors)
        return outcome.json()

    async def test_create(self) -> None:
        result = await self.run_client("create")
        self.assertEqual((result["text"], result["stop"]), ("whole – 日本語", "end_turn"))  # noqa: RUF001
        self.assertGreater(result["usage"]["input_tokens"], 0)

    async def test_stream(self) -> None:
        result = await self.run_client("stream")
        self.assertEqual(result["text"], "one two three 🙂")
        self.assertEqual(result["deltas"], result["text"])
        self.assertEqual((result["output"], result["stop"]), (4, "end_turn"))

    async def test_tools(self) -> None:
        result = await self.run_client("tools")
        self.assertEqual((result["call"]["name"], result["call"]["input"]), ("shout", {"what": "hello"}))
        self.assertEqual(result["stop"], "tool_use")
        self.assertIn("HELLO", result["text"])

    async def test_others(self) -> None:
        result = await self.run_client("others")
        self.assertGreater(result["tokens"], 100)
        self.assertIn(result["model"], result["models"])

    async def test_errors(self) -> None:
        result = await self.run_client("errors")
        self.assertEqual(result["429"], "RateLimitError")
        self.assertEqual(result["529"], "OverloadedError")
        self.assertEqual(result["401"], "AuthenticationError")
        self.assertEqual(result["too_long"], "BadRequestError")
        self.assertNotEqual(result["error_first"], "nothing")
        self.assertNotEqual(result["cut"], "nothing")
        self.assertEqual(result["retried"], "third time")

    async def test_parallel(self) -> None:
        result = await self.run_client("parallel")
        self.assertEqual(result["texts"], [f"number {number}" for number in range(20)])
        self.assertGreater(self.key.counters.max_concurrent, 0)
