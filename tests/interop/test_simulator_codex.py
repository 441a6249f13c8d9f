"""The simulated Codex backend is believed by the real clients: the Codex CLI and OpenAI's SDK, straight against it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, TestCase

from ccmproxy.simulator import CodexAccount, OpenAIKey, Simulator
from tests.interop.claude_cli import run_program
from tests.interop.codex_cli import (
    Run,
    codex_command,
    codex_environment,
    sdk_command,
    sdk_environment,
    write_configuration,
)

SDK_CLIENT = Path(__file__).with_name("openai_client.py")


class CodexCase(TestCase):
    """A simulator with an account and a key; a client to run."""

    timeout = 180
    command: list[str]
    reactor: Any
    simulator: Simulator
    account: CodexAccount
    key: OpenAIKey
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
        self.account = self.simulator.add_codex_account("a", "team")
        self.key = self.simulator.add_openai_key("k")
        port = self.reactor.listenTCP(0, self.simulator.factory, interface="127.0.0.1")
        self.url = f"http://127.0.0.1:{port.getHost().port}"
        self.addCleanup(port.stopListening)
        self.addCleanup(self.simulator.factory.abort_all)

    def find_command(self) -> list[str] | str:
        """How to start the client, or why it cannot be."""
        raise NotImplementedError


class StreamTests(CodexCase):
    """The CLI over event streams."""

    websockets = False

    #: What a turn of two requests looks like to the simulator: endpoints in order.
    tool_round = ["turn", "turn"]
    #: Faults that the client gets over, by trying again.
    breaks = ["cut", "truncated", "error_mid;type=server_error", "stall", "500"]

    def find_command(self) -> list[str] | str:
        return codex_command()

    async def ask(self, *arguments: str, key: bool = False, catalog: bool = False) -> Run:
        """One run of the CLI; as the account, or with the key."""
        base = f"{self.url}/v1" if key else f"{self.url}/backend-api/codex"
        catalog_url = f"{base}/models" if catalog else ""
        write_configuration(self.home, base, websockets=self.websockets, catalog_url=catalog_url)
        token = self.key.key if key else self.account.access_token
        outcome = await run_program(
            self.reactor,
            [*self.command, "exec", "--skip-git-repo-check", "--json", *arguments],
            codex_environment(self.home, token),
            self.home,
        )
        return Run(outcome)

    def answered(self, run: Run, text: str) -> None:
        """The run succeeded, and said exactly that."""
        self.assertEqual(run.outcome.code, 0, run.outcome.output)
        self.assertEqual(run.text, text)

    def endpoints(self) -> list[str]:
        """What was asked for, in order, the opening of connections aside."""
        return [request.endpoint for request in self.simulator.requests if request.endpoint != "websocket"]

    async def test_turn(self) -> None:
        run = await self.ask("[[think]] [[say:hello – 日本語 🙂]]")  # noqa: RUF001
        self.answered(run, "hello – 日本語 🙂")  # noqa: RUF001
        self.assertEqual(len(run.said("reasoning")), 1)
        self.assertGreater(run.usage["input_tokens"], 1000)
        (turn,) = self.simulator.requests.of("turn")
        self.assertEqual((turn.account, turn.status), ("a", 200))
        self.assertGreater(self.account.utilization("five_hour"), 0.0)

    async def test_tool_with_a_key(self) -> None:
        run = await self.ask('[[tool:exec_command:{"cmd":"echo result-$((40 + 2))"}]]', key=True)
        self.assertEqual(run.outcome.code, 0, run.outcome.output)
        (command,) = (item for item in run.items if item["type"] == "command_execution")
        self.assertEqual((command["aggregated_output"], command["exit_code"]), ("result-42\n", 0))
        self.assertIn("result-42", run.text)
        self.assertEqual(self.endpoints(), self.tool_round)
        self.assertEqual({request.account for request in self.simulator.requests}, {"k"})

    async def test_turn_state_within_a_turn(self) -> None:
        run = await self.ask('[[tool:exec_command:{"cmd":"true"}]]')
        self.assertEqual(run.outcome.code, 0, run.outcome.output)
        turns = self.simulator.requests.of("turn")
        self.assertEqual(len(turns), 2)
        states = [
            b'"x-codex-turn-state":"ts-' in turn.body or turn.header(b"x-codex-turn-state") for turn in turns
        ]
        self.assertEqual([bool(state) for state in states], [False, True])
        self.assertEqual(self.account.foreign_turn_states, 0)

    async def test_resumed(self) -> None:
        first = await self.ask("[[think]] [[say:first]]")
        second = await self.ask("resume", first.thread, "[[say:second]]")
        self.answered(second, "second")
        turns = self.simulator.requests.of("turn")
        self.assertEqual(len({turn.header(b"session-id") for turn in turns}), 1)
        self.assertIn(b"[[say:first]]", turns[-1].body)
        self.assertGreater(second.usage["cached_input_tokens"], 1000)

    async def test_used_up(self) -> None:
        self.account.exhaust("seven_day", 7200)
        run = await self.ask("[[say:no]]")
        self.assertEqual(run.outcome.code, 1)
        (failed,) = run.of("turn.failed")
        message = failed["error"]["message"]
        self.assertIn("hit your usage limit", message)
        self.assertIn("try again at", message)
        self.assertEqual(len(self.simulator.requests.of("turn")), 1)

    async def test_catalog(self) -> None:
        run = await self.ask("[[say:listed]]", catalog=True)
        self.answered(run, "listed")
        self.assertGreater(len(self.simulator.requests.of("models")), 0)
        self.assertEqual([item["type"] for item in run.items], ["agent_message"], "no warning of metadata")

    async def test_breaks(self) -> None:
        for fault in self.breaks:
            before = len(self.simulator.requests.of("turn"))
            self.answered(await self.ask(f"[[simulate:{fault};times=1]] [[say:survived]]"), "survived")
            self.assertEqual(len(self.simulator.requests.of("turn")) - before, 2, fault)


class WebSocketTests(StreamTests):
    """The CLI over WebSocket: the same conversations."""

    websockets = True
    tool_round = ["warm_up", "turn", "turn"]
    breaks = [
        *StreamTests.breaks,
        "close;code=1012",
        "connection_limit",
        "binary_frame",
    ]

    async def test_one_connection(self) -> None:
        run = await self.ask('[[tool:exec_command:{"cmd":"true"}]]')
        self.assertEqual(run.outcome.code, 0, run.outcome.output)
        requests = self.simulator.requests
        (opened,) = requests.of("websocket")
        self.assertEqual(opened.header(b"openai-beta"), b"responses_websockets=2026-02-06")
        self.assertIn(b"permessage-deflate", opened.header(b"sec-websocket-extensions") or b"")
        (warm_up,) = requests.of("warm_up")
        self.assertIn(b'"generate":false', warm_up.body)
        self.assertTrue(all(b'"previous_response_id":"resp_' in turn.body for turn in requests.of("turn")))

    async def test_refused_handshakes(self) -> None:
        self.simulator.faults.always("status;code=426", endpoint="websocket")
        self.answered(await self.ask("[[say:over HTTP]]"), "over HTTP")
        self.simulator.faults.clear()
        self.simulator.faults.always("exhausted", endpoint="websocket")
        run = await self.ask("[[say:no]]")
        self.assertIn("hit your usage limit", run.of("turn.failed")[0]["error"]["message"])

    async def test_strange_messages(self) -> None:
        self.simulator.faults.next("early_text", endpoint="websocket")
        self.answered(await self.ask("[[say:early]]"), "early")
        self.answered(await self.ask("[[simulate:pings]] [[say:pinged]]"), "pinged")
        self.answered(await self.ask("[[simulate:invalid_event]] [[say:passed over]]"), "passed over")
        self.answered(await self.ask("[[simulate:pieces;size=5]] [[say:größer]]"), "größer")
        self.answered(await self.ask("[[simulate:huge_message;size=2000000]] [[say:huge]]"), "huge")
        self.assertEqual(len(self.simulator.requests.of("turn")), 5)


class SDKTests(CodexCase):
    """OpenAI's Python SDK."""

    def find_command(self) -> list[str] | str:
        return sdk_command()

    async def converse(self, *conversations: str) -> dict[str, Any]:
        """Results of some of the conversations in ``openai_client.py``, by name."""
        outcome = await run_program(
            self.reactor,
            [*self.command, str(SDK_CLIENT), *conversations],
            sdk_environment(self.home, f"{self.url}/v1", self.key.key),
            self.home,
        )
        self.assertEqual(outcome.code, 0, outcome.errors)
        return outcome.json()

    async def test_responses(self) -> None:
        results = await self.converse("create", "stream", "tools", "structured", "models")
        whole = results["create"]
        self.assertEqual((whole["text"], whole["status"]), ("whole – 日本語", "completed"))  # noqa: RUF001
        self.assertEqual(whole["usage"]["output_tokens"], 3)
        streamed = results["stream"]
        self.assertEqual((streamed["text"], streamed["deltas"]), ("one two three 🙂", "one two three 🙂"))
        self.assertEqual((streamed["output"], streamed["status"]), (4, "completed"))
        called = results["tools"]
        self.assertEqual((called["name"], called["arguments"]), ("shout", '{"what":"hello"}'))
        self.assertIn("HELLO", called["text"])
        self.assertEqual(results["structured"], {"n": 1, "done": True})
        self.assertIn(results["models"]["model"], results["models"]["models"])

    async def test_chat(self) -> None:
        found = (await self.converse("chat"))["chat"]
        self.assertEqual((found["whole"], found["streamed"]), ("chat 日本語", "chat 日本語"))
        self.assertEqual(found["whole_usage"]["completion_tokens"], 2)
        self.assertEqual(found["usage"]["completion_tokens"], 2)
        self.assertEqual((found["finish"], found["arguments"]), ("tool_calls", '{"what":"hello"}'))

    async def test_websocket(self) -> None:
        found = (await self.converse("websocket"))["websocket"]
        self.assertEqual(found["texts"], ["one", "two"])
        self.assertGreater(found["tokens"][1], found["tokens"][0])
        self.assertEqual(len(self.simulator.requests.of("websocket")), 1)

    async def test_errors(self) -> None:
        results = await self.converse("errors:429,500,401,too_long,cut,error_mid,truncated", "retried")
        self.assertEqual(
            results["errors"],
            {
                "429": "RateLimitError",
                "500": "InternalServerError",
                "401": "AuthenticationError",
                "too_long": "BadRequestError",
                "cut": "APIConnectionError",
                "error_mid": "response.failed",
                "truncated": "response.output_item.done",
            },
        )
        self.assertEqual(results["retried"], "third time")
