"""The simulator is believed by the real clients: the Claude Code CLI and the Python SDK, straight against it."""

from __future__ import annotations

import json

from tests.interop.cases import CLICase, SDKCase


class NodeTests(CLICase):
    """Conversations of the version that runs under node."""

    version = "2.1.90"

    #: Requests that it takes to survive a broken answer; no version minds a stream without message_stop.
    breaks = {"cut;at=mid": 2, "error_first": 2, "truncated": 1, "garbage": 2}

    def login(self) -> dict[str, str]:
        return {"CLAUDE_CODE_OAUTH_TOKEN": self.account.access_token}

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

    async def test_breaks(self) -> None:
        outcomes = await self.ask_all(
            [f"[[simulate:{fault};times=1]] [[say:survived]]" for fault in self.breaks]
        )
        for outcome in outcomes:
            self.answered(outcome, "survived")
        bodies = [turn.body for turn in self.simulator.requests.of("turn")]
        seen = {
            fault: sum(f"[[simulate:{fault};".encode() in body for body in bodies) for fault in self.breaks
        }
        self.assertEqual(seen, self.breaks)


class LatestTests(NodeTests):
    """The same conversations, and more of them, of the newest version."""

    version = "latest"
    breaks = {
        **NodeTests.breaks,
        "cut;at=before_head;how=fin": 2,
        "error_mid": 2,
        "bad_chunk": 2,
        "half_head": 2,
        "short_content_length": 2,
    }

    async def test_text(self) -> None:
        self.answered(await self.ask("Hi [[say:hello – 日本語 🙂]]"), "hello – 日本語 🙂")  # noqa: RUF001
        (turn,) = self.simulator.requests.of("turn")
        self.assertEqual((turn.account, turn.state, turn.status), ("a", "finished", 200))
        self.assertIn(b"oauth-2025-04-20", turn.items(b"anthropic-beta"))
        self.assertGreater(self.account.utilization("five_hour"), 0.0)

    async def test_used_up(self) -> None:
        self.account.exhaust("seven_day")
        outcome = await self.ask("[[say:no]]")
        self.assertEqual(outcome.code, 1)
        self.assertIn("resets", outcome.output)
        self.assertEqual(len(self.simulator.requests.of("turn")), 1)

    async def test_logins(self) -> None:
        key = self.key.key
        self.answered(await self.ask("[[say:by token]]", ANTHROPIC_AUTH_TOKEN=key), "by token")
        self.answered(await self.ask("[[say:by key]]", ANTHROPIC_API_KEY=key), "by key")
        folder = self.home / ".claude"
        folder.mkdir(exist_ok=True)
        (folder / ".credentials.json").write_bytes(self.account.credentials_document())
        self.answered(await self.ask("[[say:by login]]", LOGIN="file"), "by login")
        self.assertEqual([turn.account for turn in self.simulator.requests.of("turn")], ["k", "k", "a"])

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

    async def test_deliveries(self) -> None:
        # long_content_length: the answer is whole before the connection ends, and mostly not asked for again
        faults = (
            "long_content_length;times=1",
            "pieces",
            "random_pieces",
            "gzip",
            "pings",
            "stall;seconds=1",
            "slow_first_token;seconds=1",
        )
        prompts = [f"[[simulate:{fault}]] [[say:ré – 🙂]]" for fault in faults]  # noqa: RUF001
        for outcome in await self.ask_all(prompts):
            self.answered(outcome, "ré – 🙂")  # noqa: RUF001


class SDKTests(SDKCase):
    """The Python SDK."""

    def login(self) -> dict[str, str]:
        return {"ANTHROPIC_API_KEY": self.key.key}

    async def test_answers(self) -> None:
        results = await self.converse("create", "stream", "others")
        whole = results["create"]
        self.assertEqual((whole["text"], whole["stop"]), ("whole – 日本語", "end_turn"))  # noqa: RUF001
        self.assertGreater(whole["usage"]["input_tokens"], 0)
        streamed = results["stream"]
        self.assertEqual(streamed["text"], "one two three 🙂")
        self.assertEqual(streamed["deltas"], streamed["text"])
        self.assertEqual((streamed["output"], streamed["stop"]), (4, "end_turn"))
        self.assertGreater(results["others"]["tokens"], 100)
        self.assertIn(results["others"]["model"], results["others"]["models"])

    async def test_tools(self) -> None:
        result = (await self.converse("tools"))["tools"]
        self.assertEqual((result["call"]["name"], result["call"]["input"]), ("shout", {"what": "hello"}))
        self.assertEqual(result["stop"], "tool_use")
        self.assertIn("HELLO", result["text"])

    async def test_errors(self) -> None:
        results = await self.converse("errors:429,529,401,too_long,error_first,cut", "retried")
        errors = results["errors"]
        self.assertEqual(errors["429"], "RateLimitError")
        self.assertEqual(errors["529"], "OverloadedError")
        self.assertEqual(errors["401"], "AuthenticationError")
        self.assertEqual(errors["too_long"], "BadRequestError")
        self.assertNotEqual(errors["error_first"], "nothing")
        self.assertNotEqual(errors["cut"], "nothing")
        self.assertEqual(results["retried"], "third time")

    async def test_parallel(self) -> None:
        result = await self.converse("parallel", "asynchronous")
        self.assertEqual(result["parallel"]["texts"], [f"number {number}" for number in range(20)])
        self.assertEqual(result["asynchronous"]["words"], 150)
        self.assertGreater(self.key.counters.max_concurrent, 0)
