"""Conversations with the simulator over HTTP, in memory."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.faults import Fault, Scenario
from ccmproxy.simulator.record import Record
from ccmproxy.simulator.steps import Pace
from tests.simulator.client import Conversation, Response


class AnswerTests(SynchronousTestCase):
    """Requests and answers."""

    def setUp(self) -> None:
        self.conversation = Conversation()
        self.simulator = self.conversation.simulator
        self.client = self.conversation.connect()

    def test_stream_and_whole_on_one_connection(self) -> None:
        self.conversation.ask(self.client, "[[say:first – 🙂]]")  # noqa: RUF001
        response = self.client.take()
        self.assertEqual((response.status, response.complete), (200, True))
        self.assertTrue(response.body.endswith(b"\n\n"))
        self.assertIn(b"event: message_stop\n", response.body)
        self.conversation.ask(self.client, "[[say:second]]", stream=False)
        response = self.client.take()
        self.assertEqual(response.json()["content"][0]["text"], "second")
        self.assertIsNone(self.client.lost)

    def test_record(self) -> None:
        self.conversation.ask(
            self.client, "Hello", headers=[(b"X-Odd_Name", b"  kept "), (b"X-Odd_Name", b"2")]
        )
        (received,) = self.simulator.requests
        self.assertEqual((received.method, received.target), (b"POST", b"/v1/messages?beta=true"))
        self.assertIn((b"X-Odd_Name", b"kept"), received.headers)
        self.assertIn((b"X-Odd_Name", b"2"), received.headers)
        self.assertTrue(received.body.startswith(b'{"model": "claude-opus-5"'))
        self.assertEqual(
            (received.endpoint, received.account, received.status, received.state, received.number),
            ("turn", "a", 200, "finished", 1),
        )

    def test_unknown_path(self) -> None:
        self.conversation.send(self.client, "GET", "/nowhere")
        response = self.client.take()
        self.assertEqual(response.status, 404)
        self.assertEqual(response.json()["error"]["type"], "not_found_error")

    def test_preconnect(self) -> None:
        self.conversation.send(self.client, "HEAD", "/")
        self.assertEqual(self.client.take().status, 200)
        self.conversation.send(self.client, "GET", "/v1/models")
        self.assertEqual(self.client.take().status, 200)

    def test_refresh(self) -> None:
        account = self.conversation.account
        account.expire_access_token()
        self.conversation.ask(self.client, "Hello")
        self.assertEqual(self.client.take().status, 401)
        request = {
            "grant_type": "refresh_token",
            "refresh_token": account.refresh_token,
            "client_id": "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
        }
        self.conversation.send(self.client, "POST", "/v1/oauth/token", request)
        self.assertEqual(self.client.take().json()["access_token"], account.access_token)
        self.conversation.ask(self.client, "Hello")
        self.assertEqual(self.client.take().status, 200)
        self.conversation.send(self.client, "POST", "/v1/oauth/token", request)
        self.assertEqual(self.client.take().status, 400)
        self.assertFalse(account.logged_in)

    def test_too_large_body(self) -> None:
        assert self.client.transport is not None
        self.client.transport.write(
            b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 40000000\r\n\r\n"
        )
        self.conversation.flush()
        response = self.client.take()
        self.assertEqual(response.status, 413)
        self.assertEqual(response.json()["error"]["type"], "request_too_large")

    def test_windows_fill_and_pass(self) -> None:
        account = self.conversation.account
        account.set_utilization("five_hour", 99.999)
        self.conversation.ask(self.client, "[[tokens:5000]]")
        self.client.take()
        self.conversation.ask(self.client, "Hello")
        response = self.client.take()
        self.assertEqual(response.status, 429)
        self.assertEqual(response.header(b"anthropic-ratelimit-unified-status"), b"rejected")
        wait = int(response.header(b"retry-after") or 0)
        self.client = self.conversation.connect()
        self.conversation.advance(wait)
        self.client = self.conversation.connect()
        account.log_in()
        self.conversation.ask(self.client, "Hello")
        self.assertEqual(self.client.take().status, 200)

    def test_accounts_have_names_and_differ(self) -> None:
        second, third = self.simulator.add_account(plan="pro"), self.simulator.add_account()
        self.assertEqual((second.name, third.name), ("account-2", "account-3"))
        key = self.simulator.add_api_key()
        self.assertEqual(key.name, "key-1")
        self.conversation.ask(self.client, "Hello", account=third)
        self.assertEqual(self.simulator.requests[-1].account, "account-3")
        self.assertEqual((second.counters.turns, third.counters.turns), (0, 1))


class ConcurrencyTests(SynchronousTestCase):
    """Several at once."""

    def test_counters(self) -> None:
        conversation = Conversation()
        clients = [conversation.connect() for _ in range(3)]
        for client in clients:
            conversation.ask(client, "[[simulate:slow;seconds=2]] [[say:x]]")
        simulator = conversation.simulator
        self.assertEqual((simulator.concurrent, conversation.account.counters.concurrent), (3, 3))
        conversation.advance(2.0)
        self.assertEqual((simulator.concurrent, simulator.max_concurrent), (0, 3))
        self.assertEqual(conversation.account.counters.max_concurrent, 3)
        for client in clients:
            self.assertTrue(client.take().complete)

    def test_client_that_leaves(self) -> None:
        conversation = Conversation()
        client = conversation.connect()
        conversation.ask(client, "[[simulate:hang]]")
        self.assertEqual(conversation.simulator.requests[-1].state, "answering")
        assert client.transport is not None
        client.transport.loseConnection()
        conversation.flush()
        self.assertEqual(conversation.simulator.requests[-1].state, "gone")
        self.assertEqual(conversation.simulator.concurrent, 0)
        self.assertEqual(conversation.account.counters.concurrent, 0)


class OptionTests(SynchronousTestCase):
    """Pace, speed, scenario, record."""

    def test_pace(self) -> None:
        conversation = Conversation(pace=Pace(first=1.0, each=0.5))
        client = conversation.connect()
        conversation.ask(client, "[[say:x]]")
        self.assertEqual(client.received.count(b"event: "), 0)
        self.assertIn(b"200 OK", client.received)
        conversation.advance(1.0)
        self.assertEqual(client.received.count(b"event: "), 1)
        for expected in range(2, 8):
            conversation.advance(0.5)
            self.assertEqual(client.received.count(b"event: "), expected)
        self.assertTrue(client.take().complete)

    def test_speed(self) -> None:
        conversation = Conversation(speed=3600.0)
        conversation.account.exhaust("five_hour")
        conversation.advance(5.0)
        client = conversation.connect()
        conversation.ask(client, "x")
        self.assertEqual(client.take().status, 200)

    def test_scenario(self) -> None:
        conversation = Conversation(scenario=Scenario(((1.0, Fault("overloaded")),)))
        client = conversation.connect()
        conversation.ask(client, "x")
        self.assertEqual(client.take().status, 529)

    def test_record(self) -> None:
        conversation = Conversation(record=Record(max_requests=0))
        client = conversation.connect()
        conversation.ask(client, "x")
        self.assertEqual(len(conversation.simulator.requests), 0)
        self.assertEqual(conversation.simulator.received, 1)


class ProvidersTests(SynchronousTestCase):
    """Both providers on one port."""

    def setUp(self) -> None:
        self.conversation = Conversation()
        self.simulator = self.conversation.simulator
        self.client = self.conversation.connect()

    def get(self, target: str, token: str) -> Response:
        """A request of a client that sends nothing but a token."""
        assert self.client.transport is not None
        head = f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        self.client.transport.write(head.encode())
        self.conversation.flush()
        return self.client.take()

    def test_names(self) -> None:
        names = [self.simulator.add_codex_account().name, self.simulator.add_codex_account().name]
        self.assertEqual(names, ["codex-1", "codex-2"])
        self.assertEqual(self.simulator.add_openai_key().name, "openai-key-1")
        self.assertEqual(len(self.simulator.codex.accounts), 2)
        self.assertRaises(KeyError, self.simulator.add_codex_account, plan="diamond")

    def test_shared_path(self) -> None:
        key = self.simulator.add_openai_key()
        self.assertIn("gpt-5.4", [model["id"] for model in self.get("/v1/models", key.key).json()["data"]])
        self.conversation.send(self.client, "GET", "/v1/models")
        self.assertIn("claude-opus-5", [model["id"] for model in self.client.take().json()["data"]])
        self.assertEqual(self.get("/v1/models", "nobody").json()["error"]["code"], "invalid_api_key")
        self.assertEqual([request.account for request in self.simulator.requests], [key.name, "a", None])

    def test_usage(self) -> None:
        account = self.simulator.add_codex_account(plan="plus")
        account.exhaust("five_hour", 60)
        usage = self.get("/backend-api/wham/usage", account.access_token).json()
        self.assertEqual((usage["plan_type"], usage["rate_limit"]["limit_reached"]), ("plus", True))
        self.conversation.advance(60)
        usage = self.get("/backend-api/wham/usage", account.access_token).json()
        self.assertEqual(usage["rate_limit"]["primary_window"]["used_percent"], 0)
