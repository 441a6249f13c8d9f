"""The second dialect through the same proxy: Codex over HTTP, in front of the simulated ChatGPT backend."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.codex.simulated_account import CodexAccount
from tests.conversation import TOKEN, Client, Response, World

CONFIGURATION = """
services:
  - type: ocm
    listen_port: 8080
    credential_path: {path}
    users:
      - {{name: alice, token: {token}}}
    upstream:
      api_url: http://127.0.0.1:9000/backend-api/codex
      token_url: http://127.0.0.1:9000/oauth/token
      usage_url: http://127.0.0.1:9000/backend-api/wham/usage
{more}
"""
KEYS = """
services:
  - type: ocm
    listen_port: 8080
    credentials: [{{tag: key, api_key: {key}}}]
    users: [{{name: alice, token: {token}, credential: key}}]
    upstream: {{api_url: "http://127.0.0.1:9000"}}
"""


class CodexWorld(World):
    """A world whose service speaks Codex, in front of one ChatGPT account."""

    codex: CodexAccount

    def __init__(self, case: SynchronousTestCase, more: str = "", configuration: str = CONFIGURATION) -> None:
        super().__init__(case, more, configuration, start=False, with_file=False)
        self.codex = self.simulator.add_codex_account()
        self.write_auth()
        self.start()

    def write_auth(self) -> None:
        """Write ``auth.json`` as the official CLI would now."""
        with open(self.path, "wb") as file:
            file.write(self.codex.auth_document())


def request(prompt: str, *headers: str, path: str = "/v1/responses", **body: Any) -> bytes:
    """The bytes of a request as Codex CLI makes it."""
    content = {
        "model": "gpt-5.4",
        "stream": True,
        "store": False,
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": prompt}]}],
        **body,
    }
    raw = json.dumps(content).encode()
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: proxy",
        f"Authorization: Bearer {TOKEN}",
        "Content-Type: application/json",
        f"Content-Length: {len(raw)}",
        *headers,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


def only(client: Client) -> Response:
    """The one answer."""
    (response,) = client.responses()
    return response


def events(response: Response) -> list[dict[str, Any]]:
    """The events of a stream, decoded."""
    return [
        json.loads(line.removeprefix(b"data: "))
        for line in response.body.split(b"\n")
        if line.startswith(b"data: ")
    ]


class TurnTests(SynchronousTestCase):
    """Ordinary turns."""

    def test_a_turn(self) -> None:
        world = CodexWorld(self)
        response = only(world.send(request("[[say:It works.]]", "session-id: s-1")))
        self.assertEqual((response.status, response.complete), (200, True))
        self.assertIn(b"It works.", response.body)
        self.assertEqual(events(response)[-1]["type"], "response.completed")
        self.assertEqual(response.header("x-accel-buffering"), "no")
        self.assertEqual(world.results(), ["served"])
        received = world.simulator.requests.of("turn")[-1]
        self.assertEqual(received.target, b"/backend-api/codex/responses")
        self.assertEqual(received.items(b"chatgpt-account-id"), [world.codex.account_id.encode()])

    def test_the_client_sees_the_aggregate_only(self) -> None:
        """F36: both headers and events show the pool, not the account."""
        world = CodexWorld(self)
        world.codex.set_utilization("five_hour", 30)
        response = only(world.send(request("hello")))
        shown = [event for event in events(response) if event["type"] == "codex.rate_limits"]
        headers = response.header("x-codex-primary-used-percent")
        self.assertIsNotNone(headers)
        for event in shown:
            window = event["rate_limits"]["primary"]
            self.assertAlmostEqual(window["used_percent"], float(headers or 0), places=1)
        self.assertIsNotNone(response.header("x-ocm-plan-weight"))

    def test_the_turn_state_goes_back_to_its_issuer_only(self) -> None:
        """Spec 3.6: a value is dropped unless this account has issued it to this session."""
        world = CodexWorld(self)
        first = only(world.send(request("hello", "session-id: s-1")))
        state = first.header("x-codex-turn-state")
        assert state is not None
        for session, value, passes in (
            ("s-1", state, True),
            ("s-1", "foreign", False),
            ("s-2", state, False),
        ):
            only(world.send(request("more", f"session-id: {session}", f"x-codex-turn-state: {value}")))
            received = world.simulator.requests.of("turn")[-1].items(b"x-codex-turn-state")
            self.assertEqual(received, [value.encode()] if passes else [], (session, value))

    def test_the_status(self) -> None:
        world = CodexWorld(self)
        world.codex.set_utilization("five_hour", 30)
        only(world.send(request("hello")))
        state = world.get("/ocm/v1/status").json()
        self.assertEqual(state["availability"]["state"], "usable")
        self.assertGreaterEqual(state["five_hour_utilization"], 29)

    def test_a_client_that_leaves_at_the_end_was_served(self) -> None:
        """Codex CLI closes the connection as soon as it has seen response.completed."""
        world = CodexWorld(self)
        client = world.send(request("hello [[simulate:stall;at=before_stop;seconds=1]]"))
        world.until(lambda: b"response.completed" in client.received, 5)
        assert client.transport is not None
        client.transport.loseConnection()
        world.network.flush()
        self.assertEqual(world.results(), ["served"])


class RecoveryTests(SynchronousTestCase):
    """Events of the account that the client does not notice."""

    def test_an_expired_token(self) -> None:
        world = CodexWorld(self)
        world.codex.expire_access_token()
        response = only(world.send(request("hello")))
        self.assertEqual(response.status, 200)
        self.assertEqual(world.codex.counters.refreshes, 1)
        with open(world.path, "rb") as file:
            tokens = json.load(file)["tokens"]
        self.assertTrue(tokens["access_token"] == world.codex.access_token, "the file holds the new login")

    def test_used_up(self) -> None:
        """The client is told once, in a format that it understands: usage_limit_reached with its time."""
        world = CodexWorld(self)
        world.codex.exhaust("five_hour", 7200)
        response = only(world.send(request("hello")))
        self.assertEqual(response.status, 429)
        self.assertEqual(response.error["type"], "usage_limit_reached")
        self.assertGreater(response.error["resets_at"], world.clock.seconds())
        turns = world.codex.counters.turns
        self.assertEqual(only(world.send(request("hello"))).status, 429)
        self.assertEqual(world.codex.counters.turns, turns, "the upstream is left alone")

    def test_a_cut_stream_is_cut(self) -> None:
        world = CodexWorld(self)
        client = world.send(request("[[tokens:60]] [[simulate:cut;at=mid]]"))
        world.network.advance(1)
        self.assertFalse(only(client).complete)
        self.assertTrue(client.broken)
        self.assertEqual(world.results(), ["truncated"])


class ChatCompletionTests(SynchronousTestCase):
    """Chat completions, which are available only with a key of the commercial API (spec 3.6)."""

    def test_not_with_a_login(self) -> None:
        world = CodexWorld(self)
        response = only(world.send(request("hello", path="/v1/chat/completions")))
        self.assertEqual(response.status, 400)
        self.assertEqual(world.simulator.requests.of("turn"), [])

    def test_with_a_key(self) -> None:
        world = World(self, start=False, with_file=False)
        key = world.simulator.add_openai_key()
        text = KEYS.replace("{key}", key.key)
        world = KeyWorld(self, world, text)
        messages = [{"role": "user", "content": "[[say:By key.]]"}]
        response = only(
            world.send(request("", path="/v1/chat/completions", messages=messages, stream=False, input=None))
        )
        self.assertEqual(response.status, 200)
        self.assertEqual(response.json()["choices"][0]["message"]["content"], "By key.")


class KeyWorld(World):
    """A world that uses the simulator of another world, with one of its keys in the configuration."""

    def __init__(self, case: SynchronousTestCase, other: World, text: str) -> None:
        super().__init__(case, configuration=text, start=False, with_file=False)
        self.network.listeners.clear()
        self.simulator = other.simulator
        self.network.listen("127.0.0.1", 9000, other.simulator.factory)
        self.start()
