"""The real clients through ccmproxy: the Codex CLI and OpenAI's SDK, the service, and the simulator as its upstream.

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
from ccmproxy.simulator import CodexAccount, ReceivedRequest
from tests.interop import test_simulator_codex as direct
from tests.interop.claude_cli import Outcome, run_program
from tests.interop.codex_cli import (
    Run,
    codex_command,
    codex_environment,
    sdk_command,
    sdk_environment,
    write_configuration,
)
from tests.source import ROOT

ALICE = "interop-token-of-alice"
BOB = "interop-token-of-bob"
CAROL = "interop-token-of-carol"
DAVE = "interop-token-of-dave"
GUESS = "interop-token-of-nobody"
TOKENS = (ALICE, BOB, CAROL, DAVE, GUESS)

#: What a client that is logged in by itself says of its own account; it must not pass.
FOREIGN_ACCOUNT = "account-of-the-client"

#: The address in the example of docs/clients.md.
DOCUMENTED_URL = "http://ccmproxy.example.org:8081/v1"

#: Settings of one run: nobody waits for the last of many tries.
IMPATIENT = (
    "-c",
    "model_providers.mux.stream_max_retries=1",
    "-c",
    "model_providers.mux.request_max_retries=1",
)


class ThroughProxy(direct.CodexCase):
    """The proxy between client and simulator. Alice has ``account``, Bob ``other``, Dave a pool of both; Carol has the
    key, in a service of its own, as it has another upstream. ``url`` and ``key_url``: the two services.
    """

    other: CodexAccount
    key_url: str
    log_events: list[LogEvent]

    def setUp(self) -> None:
        super().setUp()
        self.other = self.simulator.add_codex_account("b")
        self.log_events = []
        observer = cast(ILogObserver, self.log_events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.logins = self.home.with_name(self.home.name + "-accounts")
        for account in (self.account, self.other):
            file = self.logins / account.name / "auth.json"
            file.parent.mkdir(parents=True)
            file.touch(mode=0o600)
            file.write_bytes(account.auth_document())
        upstream = self.url
        self.url = self.serve(
            {
                "credentials": [
                    *(
                        {"tag": tag, "credential_path": str(self.logins / tag / "auth.json")}
                        for tag in ("a", "b")
                    ),
                    {"tag": "pool", "type": "balancer", "credentials": ["a", "b"], "strategy": "fallback"},
                ],
                "users": [
                    {"name": "alice", "token": ALICE, "credential": "a"},
                    {"name": "bob", "token": BOB, "credential": "b"},
                    {"name": "dave", "token": DAVE, "credential": "pool"},
                ],
                "upstream": {
                    "api_url": f"{upstream}/backend-api/codex",
                    "token_url": f"{upstream}/oauth/token",
                    "usage_url": f"{upstream}/backend-api/wham/usage",
                },
            }
        )
        self.key_url = self.serve(
            {
                "credentials": [{"tag": "k", "api_key": self.key.key}],
                "users": [{"name": "carol", "token": CAROL, "credential": "k"}],
                "upstream": {"api_url": upstream},
            }
        )

    def serve(self, options: dict[str, Any]) -> str:
        """Start a service with these options; where it is."""
        entry = {"type": "ocm", "listen": "127.0.0.1", "listen_port": 0, "ping_interval": "1s", **options}
        config = load_text(json.dumps({"services": [entry]}), "interop")
        service = ProxyService(config, Surroundings.of_reactor(self.reactor, random.Random(1)))
        service.startService()
        self.addCleanup(service.stopService)
        (running,) = service.services.values()
        assert running.port is not None
        return f"http://127.0.0.1:{running.port.getHost().port}"  # type: ignore[attr-defined]

    def tearDown(self) -> None:
        """What holds for every conversation."""
        accounts = {account.name: account for account in (self.account, self.other)}
        for request in self.simulator.requests:
            sent = b"\n".join([request.target, request.body, *(b": ".join(pair) for pair in request.headers)])
            for secret in (*TOKENS, FOREIGN_ACCOUNT):
                self.assertNotIn(secret.encode(), sent)
            if request.endpoint in ("turn", "warm_up", "websocket", "models"):
                self.check_account(request, accounts)
        log = "\n".join(formatEvent(event) for event in self.log_events)
        secrets = [
            token for account in accounts.values() for token in (account.access_token, account.refresh_token)
        ]
        for secret in (*TOKENS, self.key.key, *secrets):
            self.assertNotIn(secret, log)

    def check_account(self, request: ReceivedRequest, accounts: dict[str, CodexAccount]) -> None:
        """An account's traffic names it and goes where logins go; a key's does neither."""
        identities = request.items(b"chatgpt-account-id")
        if request.target.startswith(b"/v1/"):
            self.assertEqual(identities, [])
            return
        self.assertTrue(request.target.startswith(b"/backend-api/codex/"), request.target)
        self.assertEqual(len(identities), 1)
        if request.account is not None:
            self.assertEqual(identities, [accounts[request.account].account_id.encode()])

    def answers(self, user: str = "alice") -> list[tuple[int, str]]:
        """Status and result of every request and every WebSocket of ``user``, as the proxy logged them."""
        return [
            (event["status"], event["result"])
            for event in self.log_events
            if "status" in event and "first_byte" in event and event["user"] == user
        ]

    def turns(self, account: str = "a") -> list[int]:
        """Statuses of the turns that reached the upstream for ``account``."""
        return [turn.status for turn in self.simulator.requests.of("turn") if turn.account == account]


class StreamTests(ThroughProxy):
    """The CLI over event streams."""

    websockets = False

    #: Broken streams: what the upstream does. The client asks again until it has its answer.
    breaks: tuple[str, ...] = (
        "cut;at=mid",
        "cut;at=before_head;how=fin",
        "truncated",
        "error_mid;type=server_error",
    )
    #: Strange ways to deliver an answer, the last with a silence that is longer than the client's patience: the
    #: proxy's keepalives carry it over.
    deliveries: tuple[str, ...] = ("random_pieces", "pieces;size=7", "stall;at=mid;seconds=7")

    def find_command(self) -> list[str] | str:
        return codex_command()

    async def ask(self, *arguments: str, token: str = ALICE, catalog: bool = False) -> Run:
        """One run of the CLI: a turn, or several if tools are used."""
        base = f"{self.key_url if token == CAROL else self.url}/v1"
        catalog_url = f"{base}/models" if catalog else ""
        write_configuration(self.home, base, websockets=self.websockets, catalog_url=catalog_url)
        return Run(await self.execute(token, *arguments))

    async def execute(self, token: str, *arguments: str, **settings: str) -> Outcome:
        """One run with the configuration that is there. ``settings``: environment variables."""
        command = [*self.command, "exec", "--skip-git-repo-check", "--json", *arguments]
        environment = {**codex_environment(self.home, token), **settings}
        return await run_program(self.reactor, command, environment, self.home)

    def answered(self, run: Run, text: str) -> None:
        """The run succeeded, and said exactly that."""
        self.assertEqual(run.outcome.code, 0, run.outcome.output)
        self.assertEqual(run.text, text)

    def failed(self, run: Run) -> str:
        """The run failed; what it said."""
        self.assertEqual(run.outcome.code, 1, run.outcome.output)
        (failed,) = run.of("turn.failed")
        return str(failed["error"]["message"])

    def sessions(self) -> set[bytes | None]:
        """Session ids of all turns that reached the simulator."""
        return {turn.header(b"session-id") for turn in self.simulator.requests.of("turn")}

    async def test_turn(self) -> None:
        foreign = f'model_providers.mux.http_headers={{"ChatGPT-Account-Id"="{FOREIGN_ACCOUNT}"}}'
        text = "hello – 日本語 🙂"  # noqa: RUF001
        run = await self.ask("-c", foreign, f"[[think]] [[say:{text}]]")
        self.answered(run, text)
        self.assertEqual(len(run.said("reasoning")), 1)
        self.assertGreater(run.usage["input_tokens"], 1000)
        self.answered(await self.ask("[[say:the other one]]", token=BOB), "the other one")
        self.assertEqual((self.turns("a"), self.turns("b")), ([200], [200]))
        self.assertEqual(len(self.sessions()), 2)

    async def test_tool(self) -> None:
        run = await self.ask('[[tool:exec_command:{"cmd":"echo result-$((40 + 2))"}]]')
        self.assertEqual(run.outcome.code, 0, run.outcome.output)
        (command,) = (item for item in run.items if item["type"] == "command_execution")
        self.assertEqual((command["aggregated_output"], command["exit_code"]), ("result-42\n", 0))
        self.assertIn("result-42", run.text)
        self.assertEqual((self.turns(), len(self.sessions())), ([200, 200], 1))
        # the account's own value for the rest of a turn came back to it, and to it alone
        states = [
            b'"x-codex-turn-state":"ts-' in turn.body or turn.header(b"x-codex-turn-state") is not None
            for turn in self.simulator.requests.of("turn")
        ]
        self.assertEqual((states, self.account.foreign_turn_states), ([False, True], 0))

    async def test_resumed(self) -> None:
        first = await self.ask("[[think]] [[say:first]]")
        second = await self.ask("resume", first.thread, "[[say:second]]")
        self.answered(second, "second")
        self.assertEqual(len(self.sessions()), 1)
        self.assertIn(b"[[say:first]]", self.simulator.requests.of("turn")[-1].body)

    async def test_an_account_runs_out_in_a_conversation(self) -> None:
        """Between two runs, and between two turns of one: the client goes on, and says nothing of it."""
        first = await self.ask("[[say:first]]", token=DAVE)
        self.answered(first, "first")
        self.simulator.faults.next("none", account="a")
        self.simulator.faults.next("exhausted", account="a")
        second = await self.ask(
            "resume", first.thread, '[[tool:exec_command:{"cmd":"echo result-$((40 + 2))"}]]', token=DAVE
        )
        self.assertEqual(second.outcome.code, 0, second.outcome.output)
        self.assertIn("result-42", second.text)
        self.assertEqual((self.turns("a"), self.turns("b")), ([200, 200, 429], [200]))
        third = await self.ask("resume", first.thread, "[[say:third]]", token=DAVE)
        self.answered(third, "third")
        self.assertEqual(self.turns("b"), [200, 200])
        self.assertEqual(len(self.sessions()), 1)

    async def test_with_a_key(self) -> None:
        self.answered(await self.ask("[[say:by key]]", token=CAROL), "by key")
        self.assertEqual(self.turns("k"), [200])

    async def test_used_up(self) -> None:
        # a personal plan, whose owner would be shown a shop; whoever uses the proxy is sent to its operator
        admin = "send a request to your admin or try again at"
        self.other.set_utilization("five_hour", 50, resets_in=7980)
        message = self.failed(await self.ask("[[simulate:exhausted]]", token=BOB))
        self.assertIn("hit your usage limit", message)
        # what an open WebSocket's upstream says of an error passes as it is
        self.assertIn("try again at" if self.websockets else admin, message)
        self.assertEqual(self.turns("b"), [429])
        # and now that it is known, the upstream is left alone
        asked = len(self.simulator.requests.of("websocket"))
        self.assertIn(admin, self.failed(await self.ask("[[say:no]]", token=BOB)))
        self.assertEqual(self.turns("b"), [429])
        self.assertEqual(len(self.simulator.requests.of("websocket")), asked)
        self.assertEqual(self.answers("bob")[-1], (429, "rate_limited"))
        # which is no concern of others
        self.answered(await self.ask("[[say:yes]]"), "yes")

    async def test_expired_token(self) -> None:
        # once before, so that it is a turn that finds out, and not the first poll of the usage
        self.answered(await self.ask("[[say:good]]"), "good")
        self.account.expire_access_token()
        self.answered(await self.ask("[[say:still there]]"), "still there")
        self.assertEqual((self.account.counters.refreshes, self.account.counters.refused_refreshes), (1, 0))
        tokens = json.loads((self.logins / "a" / "auth.json").read_bytes())["tokens"]
        self.assertTrue(tokens["refresh_token"] == self.account.refresh_token, "the file holds the new login")
        self.assertEqual(len(self.answers()), 2)

    async def test_breaks(self) -> None:
        for fault in self.breaks:
            marker = f"[[simulate:{fault};times=1]]"
            self.answered(
                await self.ask(f"{marker} [[say:one two three four five six]]"), "one two three four five six"
            )
            asked = sum(marker.encode() in turn.body for turn in self.simulator.requests.of("turn"))
            self.assertEqual(asked, 2, fault)

    async def test_ways_to_log_in(self) -> None:
        """What docs/clients.md says of tokens in the configuration, and of a key with the built-in provider."""
        base = f"{self.url}/v1"
        write_configuration(self.home, base, websockets=self.websockets)
        file = self.home / ".codex" / "config.toml"
        ours = file.read_text(encoding="utf-8").partition("[model_providers.mux]")[0]
        ours = ours.replace('model_provider = "mux"\n', "")
        page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
        documented = page.partition("```toml\n")[2].partition("```")[0]
        documented = documented.replace(DOCUMENTED_URL, base)
        if not self.websockets:
            documented = documented.replace("supports_websockets = true\n", "")
        selection, section, provider = documented.partition("[model_providers")
        file.write_text(selection + ours + section + provider, encoding="utf-8")
        run = Run(await self.execute("", "[[say:by variable]]", CCMPROXY_TOKEN=ALICE))
        self.answered(run, "by variable")
        in_file = provider.replace('env_key = "CCMPROXY_TOKEN"', f'experimental_bearer_token = "{ALICE}"')
        file.write_text(selection + ours + section + in_file, encoding="utf-8")
        self.answered(Run(await self.execute("", "[[say:by file]]")), "by file")
        built_in = ("-c", "model_provider=openai", "-c", f"openai_base_url={base}")
        run = Run(await self.execute("", *built_in, "[[say:built in]]", CODEX_API_KEY=ALICE))
        self.answered(run, "built in")
        self.assertEqual(self.turns(), [200] * 3)

    async def test_catalog(self) -> None:
        run = await self.ask("[[say:listed]]", catalog=True)
        self.answered(run, "listed")
        self.assertEqual({request.account for request in self.simulator.requests.of("models")}, {"a"})
        self.assertEqual([item["type"] for item in run.items], ["agent_message"], "no warning of metadata")

    async def test_deliveries(self) -> None:
        for fault in self.deliveries:
            run = await self.ask(f"[[simulate:{fault}]] [[say:ré – 🙂 one two three]]")  # noqa: RUF001
            self.answered(run, "ré – 🙂 one two three")  # noqa: RUF001
        self.assertEqual(self.turns(), [200] * len(self.deliveries))

    async def test_unknown_token(self) -> None:
        message = self.failed(await self.ask(*IMPATIENT, "[[say:no]]", token=GUESS))
        self.assertIn("401", message)
        self.assertIn("invalid api key", message)
        self.assertEqual(self.turns(), [])


class WebSocketTests(StreamTests):
    """The CLI over WebSocket: the same conversations."""

    websockets = True
    breaks = (
        "cut;at=mid",
        "close;code=1011",
        "close;code=1012",
        "connection_limit",
        "error_mid;type=server_error",
    )
    deliveries = ("pieces;size=5", "pings", "invalid_event", "huge_message;size=2000000")

    def tearDown(self) -> None:
        """It was WebSocket, and not what clients fall back on."""
        super().tearDown()
        for turn in self.simulator.requests.of("turn"):
            self.assertEqual(turn.method, b"GET")

    async def test_one_connection(self) -> None:
        run = await self.ask('[[tool:exec_command:{"cmd":"true"}]]')
        self.assertEqual(run.outcome.code, 0, run.outcome.output)
        requests = self.simulator.requests
        (opened,) = requests.of("websocket")
        self.assertEqual(opened.header(b"openai-beta"), b"responses_websockets=2026-02-06")
        self.assertEqual(len(requests.of("warm_up")), 1)
        turns = requests.of("turn")
        self.assertEqual(len(turns), 2)
        self.assertTrue(all(b'"previous_response_id":"resp_' in turn.body for turn in turns))


class SDKTests(ThroughProxy):
    """OpenAI's Python SDK."""

    def find_command(self) -> list[str] | str:
        return sdk_command()

    async def execute(self, token: str, *conversations: str) -> Outcome:
        """Some of the conversations in ``openai_client.py``."""
        base = f"{self.key_url if token == CAROL else self.url}/v1"
        command = [*self.command, str(direct.SDK_CLIENT), *conversations]
        return await run_program(self.reactor, command, sdk_environment(self.home, base, token), self.home)

    async def converse(self, *conversations: str, token: str = CAROL) -> dict[str, Any]:
        """Their results, by name."""
        outcome = await self.execute(token, *conversations)
        self.assertEqual(outcome.code, 0, outcome.errors)
        return outcome.json()

    async def test_responses(self) -> None:
        results = await self.converse("create", "stream", "tools", "structured", "models", "retried")
        whole = results["create"]
        self.assertEqual((whole["text"], whole["status"]), ("whole – 日本語", "completed"))  # noqa: RUF001
        streamed = results["stream"]
        self.assertEqual((streamed["text"], streamed["deltas"]), ("one two three 🙂", "one two three 🙂"))
        called = results["tools"]
        self.assertEqual((called["name"], called["arguments"]), ("shout", '{"what":"hello"}'))
        self.assertIn("HELLO", called["text"])
        self.assertEqual(results["structured"], {"n": 1, "done": True})
        self.assertIn(results["models"]["model"], results["models"]["models"])
        self.assertEqual(results["retried"], "third time")
        self.assertEqual(set(self.turns("k")), {200, 500})

    async def test_chat(self) -> None:
        found = (await self.converse("chat"))["chat"]
        self.assertEqual((found["whole"], found["streamed"]), ("chat 日本語", "chat 日本語"))
        self.assertEqual(found["whole_usage"]["completion_tokens"], 2)
        self.assertEqual(found["usage"]["completion_tokens"], 2)
        self.assertEqual((found["finish"], found["arguments"]), ("tool_calls", '{"what":"hello"}'))
        self.assertEqual(self.turns("k"), [200] * 3)
        self.assertEqual(self.answers("carol"), [(200, "served")] * 3)

    async def test_chat_with_an_account(self) -> None:
        outcome = await self.execute(ALICE, "chat")
        self.assertEqual(outcome.code, 1)
        self.assertIn("BadRequestError", outcome.errors)
        self.assertIn("chat completions need an API key", outcome.errors)
        self.assertEqual(self.simulator.requests.of("turn"), [])

    async def test_websocket(self) -> None:
        found = (await self.converse("websocket"))["websocket"]
        self.assertEqual(found["texts"], ["one", "two"])
        self.assertGreater(found["tokens"][1], found["tokens"][0])
        self.assertEqual(len(self.simulator.requests.of("websocket")), 1)

    async def test_errors(self) -> None:
        # a stream without its end is broken off, where the SDK by itself would not notice
        results = await self.converse("errors:500,too_long,cut,error_mid,truncated,429")
        self.assertEqual(
            results["errors"],
            {
                "429": "RateLimitError",
                "500": "InternalServerError",
                "too_long": "BadRequestError",
                "cut": "APIConnectionError",
                "error_mid": "response.failed",
                "truncated": "APIConnectionError",
            },
        )

    async def test_unknown_token(self) -> None:
        errors = (await self.converse("errors:500", token=GUESS))["errors"]
        self.assertEqual(errors, {"500": "AuthenticationError"})
        self.assertEqual(self.simulator.requests.of("turn"), [])
