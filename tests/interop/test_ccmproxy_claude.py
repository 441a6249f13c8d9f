"""The real clients through ccmproxy: Claude Code and the Python SDK, the service, and the simulator as its upstream.

What the clients show, what reached the upstream, and what the proxy logged must agree.
"""

from __future__ import annotations

import json
import random
from typing import Any, cast

from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher

from ccmproxy.config import load_text
from ccmproxy.root.service import ProxyService
from ccmproxy.root.surroundings import Surroundings
from ccmproxy.simulator import ClaudeAccount, upstream_settings
from tests.interop.cases import CLICase, ClientCase, SDKCase

ALICE = "interop-token-of-alice"
BOB = "interop-token-of-bob"
CAROL = "interop-token-of-carol"
GUESS = "interop-token-of-nobody"

#: The feature that makes the upstream accept a subscription's token.
OAUTH = b"oauth-2025-04-20"

#: A client that gets the usual number of retries, if it wants them.
PATIENT = {"CLAUDE_CODE_MAX_RETRIES": "10"}


class ThroughProxy(ClientCase):
    """The proxy between client and simulator: Alice has ``account``, Bob ``other``, and Carol a pool of both."""

    other: ClaudeAccount
    log_events: list[LogEvent]

    def setUp(self) -> None:
        super().setUp()
        self.other = self.simulator.add_account("b")
        self.log_events = []
        observer = cast(ILogObserver, self.log_events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        folder = self.home.with_name(self.home.name + "-accounts")
        folder.mkdir()
        for account in (self.account, self.other):
            file = folder / f"{account.name}.json"
            file.touch(mode=0o600)
            file.write_bytes(account.credentials_document())
        self.logins = folder
        entry = {
            "type": "ccm",
            "listen": "127.0.0.1",
            "listen_port": 0,
            "credentials": [
                *({"tag": tag, "credential_path": str(folder / f"{tag}.json")} for tag in ("a", "b")),
                {"tag": "pool", "type": "balancer", "credentials": ["a", "b"], "strategy": "fallback"},
            ],
            "ping_interval": "1s",
            "users": [
                {"name": "alice", "token": ALICE, "credential": "a"},
                {"name": "bob", "token": BOB, "credential": "b"},
                {"name": "carol", "token": CAROL, "credential": "pool"},
            ],
            "upstream": upstream_settings(self.url),
        }
        config = load_text(json.dumps({"services": [entry]}), "interop")
        self.service = ProxyService(config, Surroundings.of_reactor(self.reactor, random.Random(1)))
        self.service.startService()
        self.addCleanup(self.service.stopService)
        (running,) = self.service.services.values()
        assert running.port is not None
        self.url = f"http://127.0.0.1:{running.port.getHost().port}"  # type: ignore[attr-defined]

    def tearDown(self) -> None:
        """What holds for every conversation."""
        for request in self.simulator.requests:
            sent = b"\n".join([request.target, request.body, *(b": ".join(pair) for pair in request.headers)])
            for token in (ALICE, BOB, CAROL, GUESS):
                self.assertNotIn(token.encode(), sent)
            self.assertEqual(request.items(b"anthropic-beta").count(OAUTH), request.endpoint != "token")
            self.assertIsNone(request.header(b"x-api-key"))
        log = "\n".join(formatEvent(event) for event in self.log_events)
        accounts = (self.account, self.other)
        secrets = [token for account in accounts for token in (account.access_token, account.refresh_token)]
        for secret in (ALICE, BOB, CAROL, GUESS, *secrets):
            self.assertNotIn(secret, log)

    def login(self) -> dict[str, str]:
        return {"ANTHROPIC_AUTH_TOKEN": ALICE}

    def answers(self, user: str = "alice") -> list[tuple[int, str]]:
        """Status and result of every request that ``user`` made, as the proxy logged them."""
        return [
            (event["status"], event["result"])
            for event in self.log_events
            if "status" in event and "first_byte" in event and event["user"] == user
        ]

    def turns(self, account: str = "a") -> list[int]:
        """Statuses of the turns that reached the upstream for ``account``."""
        return [turn.status for turn in self.simulator.requests.of("turn") if turn.account == account]


class NodeTests(ThroughProxy, CLICase):
    """Conversations of the version that runs under node."""

    version = "2.1.90"

    #: Broken streams: what the upstream does. The client asks again until it has its answer.
    breaks: tuple[str, ...] = ("cut;at=mid", "truncated;size=4")

    async def test_text(self) -> None:
        text = "hello – 日本語 🙂"  # noqa: RUF001
        ways = [self.login(), {"ANTHROPIC_API_KEY": BOB}]
        for outcome in await self.ask_all([f"Hi [[say:{text}]]"] * 2, ways):
            self.answered(outcome, text)
        turns = self.simulator.requests.of("turn")
        self.assertEqual(sorted(str(turn.account) for turn in turns), ["a", "b"])
        self.assertEqual(len(self.sessions()), 2)
        for turn in turns:
            self.assertEqual((turn.status, turn.state), (200, "finished"))
            self.assertEqual(turn.target, b"/v1/messages?beta=true")
            features = turn.items(b"anthropic-beta")
            self.assertEqual(features[0], OAUTH)
            self.assertIn(b"claude-code-20250219", features)
            session = turn.header(b"x-claude-code-session-id")
            assert session is not None
            self.assertIn(session, json.loads(turn.body)["metadata"]["user_id"].encode())
        self.assertEqual(self.answers() + self.answers("bob"), [(200, "served")] * 2)

    async def test_resumed(self) -> None:
        first = (await self.ask("--output-format", "json", "[[think]] [[say:first]]")).json()
        second = await self.ask("--output-format", "json", "--resume", first["session_id"], "[[say:second]]")
        self.assertEqual(second.json()["result"], "second")
        self.assertEqual(self.sessions(), {first["session_id"].encode()})
        self.assertIn(b"[[say:first]]", self.simulator.requests.of("turn")[-1].body)

    async def test_an_account_runs_out_in_a_conversation(self) -> None:
        """The client goes on with its conversation, and never learns that it moved."""
        way = {"ANTHROPIC_AUTH_TOKEN": CAROL, **PATIENT}
        first = (await self.ask("--output-format", "json", "[[say:first]]", **way)).json()
        self.account.exhaust("five_hour")
        resume = ("--output-format", "json", "--resume", first["session_id"])
        second = (await self.ask(*resume, "[[say:second]]", **way)).json()
        third = (await self.ask(*resume, "[[say:third]]", **way)).json()
        self.assertEqual([each["result"] for each in (first, second, third)], ["first", "second", "third"])
        self.assertEqual((self.turns("a"), self.turns("b")), ([200, 429], [200, 200]))
        self.assertEqual(self.sessions(), {first["session_id"].encode()})
        self.assertEqual(self.answers("carol"), [(200, "served")] * 3)

    async def test_used_up(self) -> None:
        self.account.set_utilization("five_hour", 50, resets_in=7980)
        self.other.set_utilization("five_hour", 50, resets_in=7980)
        ways = [{"ANTHROPIC_AUTH_TOKEN": ALICE, **PATIENT}, {"CLAUDE_CODE_OAUTH_TOKEN": BOB, **PATIENT}]
        plain, oauth = await self.ask_all(["[[simulate:exhausted]]"] * 2, ways)
        self.assertEqual((plain.code, oauth.code), (1, 1))
        self.assertIn("all credentials rate-limited, earliest reset in 2h1", plain.output)
        self.assertIn("hit your", oauth.output)
        self.assertIn("resets", oauth.output)
        # one try each: neither client insisted
        self.assertEqual((self.turns("a"), self.turns("b")), ([429], [429]))
        self.assertEqual((self.answers(), self.answers("bob")), ([(429, "rate_limited")],) * 2)
        # and now that it is known, the upstream is left alone
        again = await self.ask("[[say:no]]", ANTHROPIC_AUTH_TOKEN=ALICE, **PATIENT)
        self.assertIn("all credentials rate-limited", again.output)
        self.assertEqual(len(self.answers()), 2)
        self.assertEqual(self.turns("a"), [429])

    async def test_unknown_token(self) -> None:
        outcome = await self.ask("[[say:no]]", ANTHROPIC_AUTH_TOKEN=GUESS, **PATIENT)
        self.assertEqual(outcome.code, 1)
        self.assertIn("invalid api key", outcome.output)
        refusals = [event for event in self.log_events if event.get("reason") == "invalid api key"]
        self.assertEqual(len(refusals), 1)
        self.assertEqual(self.simulator.requests.of("turn"), [])

    async def test_breaks(self) -> None:
        text = "all of it – one two three four five six seven eight"  # noqa: RUF001
        outcomes = await self.ask_all(
            [f"[[simulate:{fault};times=1]] [[say:{text}]]" for fault in self.breaks]
        )
        for outcome in outcomes:
            self.answered(outcome, text)
        bodies = [turn.body for turn in self.simulator.requests.of("turn")]
        for fault in self.breaks:
            asked = sum(f"[[simulate:{fault};".encode() in body for body in bodies)
            self.assertEqual(asked, 2, fault)
        self.assertEqual(self.answers().count((200, "served")), len(self.breaks))
        self.assertEqual(self.answers().count((200, "truncated")), 2)


class LatestTests(NodeTests):
    """The same conversations, and more of them, of the newest version."""

    version = "latest"
    breaks = (*NodeTests.breaks, "cut;at=before_head;how=fin", "error_first", "error_mid")

    async def test_thoughts_of_an_account_that_ran_out(self) -> None:
        """F12: the other account's upstream refuses what the first one has signed; the client drops it by itself."""
        way = {"ANTHROPIC_AUTH_TOKEN": CAROL, **PATIENT}
        first = (await self.ask("--output-format", "json", "[[think]] [[say:first]]", **way)).json()
        self.account.exhaust("five_hour")
        resume = ("--output-format", "json", "--resume", first["session_id"])
        second = (await self.ask(*resume, "[[say:second]]", **way)).json()
        self.assertEqual(second["result"], "second")
        self.assertEqual((self.turns("a"), self.turns("b")), ([200, 429], [400, 200]))

    async def test_expired_token(self) -> None:
        # once before, so that it is a turn that finds out, and not the first poll of the usage
        self.answered(await self.ask("[[say:good]]"), "good")
        self.account.expire_access_token()
        for outcome in await self.ask_all(["[[say:still there]]"] * 2):
            self.answered(outcome, "still there")
        self.assertEqual((self.account.counters.refreshes, self.account.counters.refused_refreshes), (1, 0))
        self.assertEqual(self.answers(), [(200, "served")] * 3)
        self.assertEqual(sorted(set(self.turns())), [200, 401])
        saved = json.loads((self.logins / "a.json").read_bytes())["claudeAiOauth"]
        self.assertEqual(saved["refreshToken"], self.account.refresh_token)

    async def test_ways_to_log_in(self) -> None:
        """What docs/clients.md says of settings, helpers and logins."""
        folder = self.home / ".claude"
        folder.mkdir()
        settings = folder / "settings.json"
        environment = {"ANTHROPIC_BASE_URL": self.url, "ANTHROPIC_AUTH_TOKEN": ALICE}
        settings.write_text(json.dumps({"env": environment}))
        nowhere = {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}
        self.answered(await self.ask("[[say:by settings]]", **nowhere), "by settings")
        settings.write_text(json.dumps({"apiKeyHelper": f"echo {ALICE}"}))
        none = {"ANTHROPIC_AUTH_TOKEN": ""}
        self.answered(await self.ask("[[say:by helper]]", **none), "by helper")
        settings.unlink()
        (folder / ".credentials.json").write_bytes(self.other.credentials_document())
        alone = await self.ask("[[say:no]]", **none)
        self.assertEqual(alone.code, 1)
        self.assertIn("invalid api key", alone.output)
        both = await self.ask("[[say:token before login]]")
        self.assertEqual((both.code, both.output.splitlines()[0]), (0, "token before login"))
        self.assertEqual((self.turns("a"), self.turns("b")), ([200] * 3, []))

    async def test_stream(self) -> None:
        self.account.set_utilization("five_hour", 42)
        arguments = ("--output-format", "stream-json", "--verbose", "--include-partial-messages")
        outcome = await self.ask(*arguments, "[[think]] [[tokens:200]]", CLAUDE_CODE_OAUTH_TOKEN=ALICE)
        self.assertEqual(outcome.code, 0, outcome.output)
        lines = outcome.lines()
        events = [line["event"] for line in lines if line["type"] == "stream_event"]
        deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
        text = "".join(delta["text"] for delta in deltas if delta["type"] == "text_delta")
        self.assertEqual(len(text.split()), 200)
        self.assertTrue(any(delta["type"] == "thinking_delta" for delta in deltas))
        self.assertEqual(events[-1]["type"], "message_stop")
        # the pool's state, not the account's: no word of its overage
        (limits,) = (line["rate_limit_info"] for line in lines if line["type"] == "rate_limit_event")
        self.assertEqual(limits["status"], "allowed")
        self.assertNotIn("org_level_disabled", outcome.output)

    async def test_deliveries(self) -> None:
        # in the silence the proxy sends pings of its own
        faults = ("random_pieces", "gzip", "stall;at=mid;seconds=3")
        text = "ré – 🙂 one two three four five six seven eight nine ten"  # noqa: RUF001
        for outcome in await self.ask_all([f"[[simulate:{fault}]] [[say:{text}]]" for fault in faults]):
            self.answered(outcome, text)
        self.assertEqual([status for status, _ in self.answers()], [200] * len(faults))

    async def test_tool(self) -> None:
        prompt = '[[tool:Bash:{"command":"echo result-$((40 + 2))","description":"Add"}]]'
        outcome = await self.ask("--allowedTools", "Bash", "--", prompt)
        self.assertEqual(outcome.code, 0, outcome.output)
        self.assertIn("result-42", outcome.output)
        self.assertEqual((self.turns(), len(self.sessions())), ([200, 200], 1))

    async def test_agent(self) -> None:
        arguments = {"description": "d", "prompt": "[[say:agent]]", "subagent_type": "general-purpose"}
        outcome = await self.ask("--allowedTools", "Agent", "--", f"[[tool:Agent:{json.dumps(arguments)}]]")
        self.assertEqual(outcome.code, 0, outcome.output)
        turns = self.simulator.requests.of("turn")
        self.assertGreaterEqual(len(turns), 3)
        self.assertEqual(len(self.sessions()), 1)
        self.assertTrue(any(turn.header(b"x-claude-code-agent-id") for turn in turns))

    async def test_context(self) -> None:
        outcome = await self.ask("/context")
        self.assertEqual(outcome.code, 0, outcome.output)
        counted = self.simulator.requests.of("count_tokens")
        self.assertGreater(len(counted), 3)
        self.assertEqual({(request.account, request.status) for request in counted}, {("a", 200)})

    async def test_errors(self) -> None:
        expected = {
            "too_long": ("rompt is too long", [400]),
            "529": ("Overloaded", [529, 529]),
            "400": ("Simulated status 400", None),
        }
        outcomes = await self.ask_all([f"[[simulate:{fault}]]" for fault in expected])
        for (fault, (message, statuses)), outcome in zip(expected.items(), outcomes, strict=True):
            self.assertEqual(outcome.code, 1)
            self.assertIn(message, outcome.output)
            marker = f"[[simulate:{fault}]]".encode()
            met = [turn.status for turn in self.simulator.requests.of("turn") if marker in turn.body]
            if statuses is not None:
                self.assertEqual(met, statuses)


class SDKTests(ThroughProxy, SDKCase):
    """The Python SDK: create, stream, tools, count_tokens, models, asynchronous, errors."""

    async def test_answers(self) -> None:
        results = await self.converse("create", "stream", "tools", "others", "headers", "retried")
        self.assertEqual(results["create"]["text"], "whole – 日本語")  # noqa: RUF001
        self.assertGreater(results["create"]["usage"]["input_tokens"], 0)
        self.assertEqual(results["stream"]["deltas"], "one two three 🙂")
        self.assertEqual((results["stream"]["output"], results["stream"]["stop"]), (4, "end_turn"))
        self.assertEqual(results["tools"]["call"]["input"], {"what": "hello"})
        self.assertIn("HELLO", results["tools"]["text"])
        self.assertGreater(results["others"]["tokens"], 100)
        self.assertIn(results["others"]["model"], results["others"]["models"])
        self.assertEqual(results["retried"], "third time")
        self.check_headers(results["headers"])
        self.assertEqual(self.simulator.requests.of("turn")[0].items(b"anthropic-beta"), [OAUTH])

    def check_headers(self, headers: dict[str, Any]) -> None:
        """The client sees what it may use, in the words of an account, and nothing of the account itself."""
        self.assertIn("x-ccm-request-id", headers)
        prefix = "anthropic-ratelimit-unified-"
        self.assertEqual(headers[prefix + "status"], "allowed")
        for field in ("overage-status", "overage-disabled-reason", "fallback-percentage"):
            self.assertNotIn(prefix + field, headers)
        self.assertNotIn("cf-ray", headers)

    async def test_asynchronous(self) -> None:
        stall = "pings:stall;at=mid;seconds=3"
        results = await self.converse("parallel", "asynchronous", stall, ANTHROPIC_API_KEY=ALICE)
        calm, stalled = results["pings"]
        self.assertGreaterEqual(stalled, calm + 2)
        self.assertEqual(results["parallel"]["texts"], [f"number {number}" for number in range(20)])
        self.assertEqual(results["asynchronous"]["words"], 150)
        self.assertEqual(set(self.turns()), {200})

    async def test_errors(self) -> None:
        faults = "529,too_long,error_first,error_mid,cut,truncated,truncated;size=4"
        results = await self.converse(f"errors:{faults}", "refusal:exhausted")
        errors = results["errors"]
        self.assertEqual(errors["529"], "OverloadedError")
        self.assertEqual(errors["too_long"], "BadRequestError")
        for broken in ("error_first", "error_mid", "cut", "truncated", "truncated;size=4"):
            self.assertNotEqual(errors[broken], "nothing", broken)
        refusal = results["refusal"]
        self.assertEqual((refusal["x-should-retry"], refusal["x-ccm-error"]), ("false", "rate_limited"))
        self.assertEqual([name for name in refusal if "ratelimit" in name or name == "retry-after"], [])

    async def test_unknown_token(self) -> None:
        errors = (await self.converse("errors:529", ANTHROPIC_AUTH_TOKEN=GUESS))["errors"]
        self.assertEqual(errors, {"529": "AuthenticationError"})
        self.assertEqual(self.simulator.requests.of("turn"), [])
