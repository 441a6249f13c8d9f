"""One connection's conversation: turns that build on each other, and refusals as events."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.codex.authorization import Authenticated
from ccmproxy.simulator.codex.websocket_session import MAX_AGE, MessageAnswer, WebSocketSession, error_message
from ccmproxy.simulator.codex.websocket_steps import CloseFrame, Text
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import page_reply
from ccmproxy.simulator.steps import Hang, Pace
from tests.simulator.codex.service import NOW, Service, turn


def told(exchange: MessageAnswer) -> list[dict[str, Any]]:
    """The events that answer a message."""
    return [json.loads(step.text) for step in exchange.steps if isinstance(step, Text)]


class SessionTests(SynchronousTestCase):
    """A ChatGPT account's connection."""

    def setUp(self) -> None:
        self.service = Service()
        self.account = self.service.account
        self.session = self.open(self.account)

    def open(self, account: Authenticated) -> WebSocketSession:
        """A new connection."""
        headers = [(b"session-id", b"s")]
        handshake = ReceivedRequest(1, NOW, b"GET", b"/x", headers, b"", "test", account=account.name)
        return WebSocketSession(self.service.upstream.turns, account, handshake, Pace)

    def say(
        self, prompt: str = "Hello", session: WebSocketSession | None = None, **fields: Any
    ) -> MessageAnswer:
        """One turn."""
        message = {"type": "response.create", **turn(prompt), **fields}
        return (session or self.session).receive(json.dumps(message))

    def test_turn(self) -> None:
        exchange = self.say("[[say:hi]]")
        found = told(exchange)
        self.assertEqual(
            [event["type"] for event in found[:3]],
            ["codex.rate_limits", "response.metadata", "response.created"],
        )
        self.assertIn("x-codex-turn-state", found[1]["headers"])
        self.assertEqual(found[-1]["response"]["output"][0]["content"][0]["text"], "hi")
        self.assertIs(exchange.turn, self.account)
        received = exchange.received
        self.assertEqual((received.endpoint, received.account, received.status), ("turn", "a", 200))
        self.assertIn(b"response.create", received.body)

    def test_turns_build_on_each_other(self) -> None:
        warm_up = self.say("x" * 40_000, generate=False)
        found = told(warm_up)
        self.assertEqual((warm_up.received.endpoint, warm_up.turn), ("warm_up", None))
        self.assertEqual(
            [event["type"] for event in found],
            ["codex.rate_limits", "response.created", "response.in_progress", "response.completed"],
        )
        self.assertEqual(self.account.utilization("five_hour"), 0.0)
        first = told(self.say(previous_response_id=found[-1]["response"]["id"]))[-1]["response"]
        self.assertGreater(first["usage"]["input_tokens"], 10_000)
        second = told(self.say(previous_response_id=first["id"]))[-1]["response"]
        self.assertGreater(second["usage"]["input_tokens"], first["usage"]["input_tokens"])
        self.assertEqual(second["previous_response_id"], first["id"])

    def test_unknown_predecessor(self) -> None:
        first = told(self.say())[-1]["response"]
        (event,) = told(self.say(session=self.open(self.account), previous_response_id=first["id"]))
        self.assertEqual((event["type"], event["status"]), ("error", 400))
        self.assertEqual(event["error"]["code"], "previous_response_not_found")

    def test_used_up(self) -> None:
        self.account.exhaust("five_hour", 600)
        exchange = self.say()
        (event,) = told(exchange)
        self.assertEqual((event["type"], event["status"]), ("error", 429))
        self.assertEqual(event["error"]["type"], "usage_limit_reached")
        self.assertEqual(event["error"]["resets_at"], NOW + 600)
        self.assertEqual(event["headers"]["x-codex-primary-used-percent"], "100")
        self.assertEqual((exchange.received.status, self.account.counters.refused_turns), (429, 1))

    def test_age(self) -> None:
        self.service.clock.advance(MAX_AGE)
        (event,) = told(self.say())
        self.assertEqual(event["error"]["code"], "websocket_connection_limit_reached")
        self.assertEqual(told(self.say(session=self.open(self.account)))[-1]["type"], "response.completed")

    def test_turn_state(self) -> None:
        state = told(self.say())[1]["headers"]["x-codex-turn-state"]
        again = told(self.say(client_metadata={"x-codex-turn-state": state}))[1]
        self.assertEqual(again["headers"]["x-codex-turn-state"], state)
        other = self.open(self.service.add_account("b"))
        moved = told(self.say(session=other, client_metadata={"x-codex-turn-state": state}))[1]
        self.assertNotEqual(moved["headers"]["x-codex-turn-state"], state)

    def test_faults(self) -> None:
        (event,) = told(self.say("[[simulate:overloaded]]"))
        self.assertEqual((event["status"], event["error"]["code"]), (503, "server_is_overloaded"))
        self.assertEqual(self.say("[[simulate:hang]]").steps, [Hang()])
        (event,) = told(self.say("[[simulate:connection_limit]]"))
        self.assertEqual(event["error"]["code"], "websocket_connection_limit_reached")
        exchange = self.say("[[simulate:close;code=1012]]")
        self.assertEqual(exchange.steps[-1], CloseFrame(1012, "simulated"))
        self.assertEqual(exchange.received.fault, "close")
        exchange = self.say("[[simulate:error_mid;type=server_error]]")
        self.assertEqual(told(exchange)[-1]["response"]["error"]["code"], "server_error")
        self.service.faults.next("500", endpoint="warm_up")
        self.assertEqual(told(self.say())[-1]["type"], "response.completed")
        self.assertEqual(told(self.say(generate=False))[0]["status"], 500)

    def test_nonsense(self) -> None:
        for message in ("", "[]", '{"type":"x"}', '{"type":"response.create"}'):
            (event,) = told(self.session.receive(message))
            self.assertEqual((event["type"], event["status"]), ("error", 400), message)
        (step,) = self.session.receive(b"binary").steps
        assert isinstance(step, CloseFrame)
        self.assertEqual(step.code, 1003)
        self.assertEqual(self.session.receive('{"type":"response.processed","response_id":"x"}').steps, [])

    def test_key(self) -> None:
        session = self.open(self.service.key)
        message = {"type": "response.create", "model": "gpt-5.4", "input": "[[say:x]]"}
        found = told(session.receive(json.dumps(message)))
        self.assertEqual((found[0]["type"], found[-1]["type"]), ("response.created", "response.completed"))
        self.assertEqual(json.loads(session.early_message())["type"], "keepalive")
        self.assertEqual(json.loads(self.session.early_message())["type"], "codex.rate_limits")

    def test_error_of_a_page(self) -> None:
        event = json.loads(error_message(page_reply(502, b"Bad gateway", [])))
        self.assertEqual((event["status"], event["error"]["message"]), (502, "Bad Gateway"))
