"""Codex's side of the simulator, asked as clients ask it over HTTP."""

from __future__ import annotations

import gzip
import json
from typing import Any

import zstandard
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.codex.simulated_account import SPARK, SimulatedCredits
from ccmproxy.simulator.codex.upstream import upstream_settings
from ccmproxy.simulator.record import ReceivedRequest
from tests.simulator.codex.service import BACKEND, NOW, Service, document, events, header, turn, user


class BackendTests(SynchronousTestCase):
    """POST /backend-api/codex/responses."""

    def setUp(self) -> None:
        self.service = Service()

    def test_stream(self) -> None:
        answer = self.service.respond(turn("[[say:one two – three four five six]]"))  # noqa: RUF001
        self.assertEqual(answer.reply.head.status, 200)
        self.assertTrue(answer.reply.is_stream)
        self.assertEqual(header(answer, "content-type"), "text/event-stream; charset=utf-8")
        found = events(answer)
        self.assertEqual(
            [event["type"] for event in found[:5]],
            [
                "codex.rate_limits",
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.content_part.added",
            ],
        )
        text = "".join(e["delta"] for e in found if e["type"] == "response.output_text.delta")
        self.assertEqual(text, "one two – three four five six")  # noqa: RUF001
        self.assertEqual([event["sequence_number"] for event in found[1:]], list(range(len(found) - 1)))
        last = found[-1]
        self.assertEqual((last["type"], last["response"]["status"]), ("response.completed", "completed"))
        self.assertEqual(last["response"]["usage"]["output_tokens"], 7)
        self.assertEqual(last["response"]["model"], "gpt-5.4")
        self.assertIs(answer.turn, self.service.account)
        self.assertEqual((self.service.last.account, self.service.last.endpoint), ("a", "turn"))

    def test_headers(self) -> None:
        self.service.account.set_utilization("five_hour", 42.0)
        answer = self.service.respond(turn())
        self.assertEqual(header(answer, "x-codex-primary-used-percent"), "42")
        self.assertEqual(header(answer, "openai-model"), "gpt-5.4")
        self.assertTrue(header(answer, "x-request-id"))
        models = self.service.ask(b"GET", b"/backend-api/codex/models?client_version=0.169.0")
        self.assertEqual(header(models, "etag"), header(answer, "x-models-etag"))
        self.assertEqual(document(models)["models"][0]["slug"], document(models)["data"][0]["id"])

    def test_compressed_requests(self) -> None:
        body = json.dumps(turn("[[say:unpacked]]")).encode()
        for coding, packed in (
            (b"zstd", zstandard.ZstdCompressor().compress(body)),
            (b"gzip", gzip.compress(body)),
        ):
            answer = self.service.respond(packed, more=[(b"Content-Encoding", coding)])
            self.assertIn(b"unpacked", answer.reply.body)
            self.assertEqual(self.service.last.body, packed)
        answer = self.service.respond(body, more=[(b"Content-Encoding", b"zstd")])
        self.assertEqual(answer.reply.head.status, 400)
        self.assertIn("zstd", document(answer)["detail"])

    def test_what_the_backend_insists_on(self) -> None:
        refused: tuple[tuple[str, Any, str], ...] = (
            ("stream", False, "Stream must be set to true"),
            ("store", True, "Store must be set to false"),
            ("input", "hi", "Input must be a list"),
            ("max_output_tokens", 5, "Unsupported parameter: max_output_tokens"),
            ("model", "claude-opus-5", "The 'claude-opus-5' model is not supported"),
        )
        for field, value, detail in refused:
            answer = self.service.respond({**turn(), field: value})
            self.assertEqual(answer.reply.head.status, 400)
            self.assertIn(detail, document(answer)["detail"])

    def test_tool_round(self) -> None:
        tools = [{"type": "function", "name": "exec_command", "parameters": {"type": "object"}}]
        first = events(self.service.respond(turn('[[tool:exec_command:{"cmd":"ls"}]]', tools=tools)))
        items = first[-1]["response"]["output"]
        self.assertEqual([item["type"] for item in items], ["message", "function_call"])
        call = items[1]
        self.assertEqual((call["name"], json.loads(call["arguments"])), ("exec_command", {"cmd": "ls"}))
        history = [user('[[tool:exec_command:{"cmd":"ls"}]]'), *items]
        history.append({"type": "function_call_output", "call_id": call["call_id"], "output": "README"})
        second = events(self.service.respond(turn(tools=tools, input=history)))
        self.assertIn("README", second[-1]["response"]["output"][0]["content"][0]["text"])

    def test_turn_state(self) -> None:
        service = self.service
        state = header(service.respond(turn()), "x-codex-turn-state")
        assert state is not None
        more = [(b"x-codex-turn-state", state.encode())]
        self.assertEqual(header(service.respond(turn(), more=more), "x-codex-turn-state"), state)
        self.assertEqual(service.account.foreign_turn_states, 0)
        other = service.add_account("b")
        moved = header(service.respond(turn(), other, more), "x-codex-turn-state")
        self.assertNotEqual(moved, state)
        self.assertEqual(other.foreign_turn_states, 1)

    def test_used_up(self) -> None:
        account = self.service.account
        account.exhaust("seven_day", 7200)
        answer = self.service.respond(turn())
        self.assertEqual(answer.reply.head.status, 429)
        error = document(answer)["error"]
        self.assertEqual((error["type"], error["plan_type"]), ("usage_limit_reached", "pro"))
        self.assertEqual((error["resets_at"], error["resets_in_seconds"]), (NOW + 7200, 7200))
        self.assertEqual(header(answer, "x-codex-secondary-used-percent"), "100")
        self.assertEqual(header(answer, "x-codex-active-limit"), "codex")
        self.assertEqual(account.counters.refused_turns, 1)
        self.service.clock.advance(7200)
        self.assertEqual(self.service.respond(turn()).reply.head.status, 200)

    def test_credits(self) -> None:
        account = self.service.add_account("b", credits=SimulatedCredits(has_credits=True, balance=1.0))
        account.exhaust()
        self.assertEqual(self.service.respond(turn("[[tokens:5000]]"), account).reply.head.status, 200)
        self.assertLess(account.credits.balance, 1.0)
        account.credits.balance = 0.0
        self.assertEqual(self.service.respond(turn(), account).reply.head.status, 429)

    def test_limit_of_one_model(self) -> None:
        account = self.service.add_account("b", named_limits=(SPARK,))
        account.exhaust("codex_bengalfox.five_hour", 60)
        spark = self.service.respond(turn(model="gpt-5.3-codex-spark"), account)
        self.assertEqual(spark.reply.head.status, 429)
        self.assertEqual(header(spark, "x-codex-active-limit"), "codex_bengalfox")
        self.assertEqual(self.service.respond(turn(), account).reply.head.status, 200)

    def test_faults(self) -> None:
        answer = self.service.respond(turn("[[simulate:503;retry_after=2]]"))
        self.assertEqual((answer.reply.head.status, header(answer, "retry-after")), (503, "2"))
        answer = self.service.respond(turn("[[simulate:exhausted]]"))
        self.assertEqual(document(answer)["error"]["resets_in_seconds"], 18000)
        self.assertEqual(header(answer, "x-codex-primary-used-percent"), "100")
        self.assertEqual(self.service.respond(turn()).reply.head.status, 200)
        answer = self.service.respond(turn(), more=[(b"x-simulate", b"cut;at=mid")])
        assert answer.fault is not None
        self.assertEqual((answer.fault.name, self.service.last.fault), ("cut", "cut"))
        self.assertEqual(self.service.respond(turn("[[simulate:nothing]]")).reply.head.status, 400)

    def test_failed_event(self) -> None:
        answer = self.service.respond(turn("[[simulate:error_mid;type=rate_limit_exceeded]]"))
        assert answer.reply.error_event is not None
        name, data = answer.reply.error_event("rate_limit_exceeded").decode().strip().split("\n")
        self.assertEqual(name, "event: response.failed")
        response = json.loads(data.removeprefix("data: "))["response"]
        self.assertEqual((response["status"], response["error"]["code"]), ("failed", "rate_limit_exceeded"))

    def test_foreign_thought(self) -> None:
        thought = events(self.service.respond(turn("[[think]] [[say:x]]")))[-1]["response"]["output"][0]
        self.assertEqual(thought["type"], "reasoning")
        again = turn(input=[thought, user("Hello")])
        self.assertEqual(self.service.respond(again).reply.head.status, 200)
        answer = self.service.respond(again, self.service.add_account("b"))
        self.assertEqual(answer.reply.head.status, 400)
        self.assertEqual(document(answer)["error"]["code"], "invalid_encrypted_content")


class KeyTests(SynchronousTestCase):
    """The OpenAI API."""

    def setUp(self) -> None:
        self.service = Service()

    def test_whole_response(self) -> None:
        answer = self.service.respond_to_key({"model": "gpt-5.4", "input": "[[say:hi]]"})
        found = document(answer)
        self.assertEqual((found["object"], found["status"]), ("response", "completed"))
        self.assertEqual(found["output"][0]["content"][0]["text"], "hi")
        self.assertEqual(header(answer, "content-type"), "application/json")
        self.assertEqual(header(answer, "x-ratelimit-remaining-requests"), "4999")
        self.assertIsNone(header(answer, "x-codex-primary-used-percent"))
        self.assertIsNone(header(answer, "x-codex-turn-state"))

    def test_stream_has_no_limits(self) -> None:
        answer = self.service.respond_to_key({"model": "gpt-5.4", "input": "hi", "stream": True})
        self.assertEqual(events(answer)[0]["type"], "response.created")

    def test_chat(self) -> None:
        body: dict[str, Any] = {
            "model": "gpt-5.4",
            "messages": [{"role": "user", "content": "[[say:hi]]"}],
        }
        answer = self.service.respond_to_key(body, b"/v1/chat/completions")
        self.assertEqual(document(answer)["choices"][0]["message"]["content"], "hi")
        self.assertEqual(self.service.last.endpoint, "turn")
        streamed = self.service.respond_to_key({**body, "stream": True}, b"/v1/chat/completions")
        self.assertEqual(streamed.reply.pieces[-1], b"data: [DONE]\n\n")
        self.assertNotIn(b'"usage"', streamed.reply.body)
        options = {"stream": True, "stream_options": {"include_usage": True}}
        counted = self.service.respond_to_key({**body, **options}, b"/v1/chat/completions")
        self.assertIn(b'"total_tokens"', counted.reply.pieces[-2])
        login = self.service.ask(b"POST", b"/v1/chat/completions", body)
        self.assertEqual(login.reply.head.status, 401)

    def test_used_up(self) -> None:
        self.service.key.exhaust()
        answer = self.service.respond_to_key({"model": "gpt-5.4", "input": "hi"})
        self.assertEqual((answer.reply.head.status, header(answer, "retry-after")), (429, "60"))
        self.assertEqual(document(answer)["error"]["code"], "rate_limit_exceeded")

    def test_invalid(self) -> None:
        for body, message in (
            ({}, "'model'"),
            ({"model": "gpt-5.4"}, "'input'"),
            ({"model": "gpt-5.4", "input": 5}, "'input'"),
            ([], "not a JSON object"),
        ):
            answer = self.service.respond_to_key(body)
            self.assertEqual(answer.reply.head.status, 400)
            self.assertIn(message, document(answer)["error"]["message"])
        answer = self.service.respond_to_key({"model": "no-such", "input": "hi"})
        self.assertEqual(document(answer)["error"]["code"], "model_not_found")

    def test_models(self) -> None:
        service = self.service
        answer = service.ask(b"GET", b"/v1/models", headers=service.key_headers())
        self.assertIn("gpt-5.4", [model["id"] for model in document(answer)["data"]])
        one = service.ask(b"GET", b"/v1/models/gpt-5.4", headers=service.key_headers())
        self.assertEqual(document(one)["id"], "gpt-5.4")
        none = service.ask(b"GET", b"/v1/models/x", headers=service.key_headers())
        self.assertEqual(none.reply.head.status, 404)


class OtherTests(SynchronousTestCase):
    """What is no turn."""

    def setUp(self) -> None:
        self.service = Service()

    def test_usage(self) -> None:
        answer = self.service.ask(b"GET", b"/backend-api/wham/usage")
        self.assertEqual(document(answer)["plan_type"], "pro")
        self.assertEqual(self.service.account.counters.usage_polls, 1)
        self.service.faults.next("429;retry_after=9", endpoint="usage", account="a")
        answer = self.service.ask(b"GET", b"/backend-api/wham/usage")
        self.assertEqual((answer.reply.head.status, header(answer, "retry-after")), (429, "9"))

    def test_paths_of_others(self) -> None:
        upstream = self.service.upstream
        anthropic = [(b"anthropic-version", b"2023-06-01"), (b"x-api-key", b"sk-ant-x")]
        for method, target, headers in (
            (b"POST", b"/v1/messages", []),
            (b"GET", b"/v1/models", anthropic),
            (b"GET", b"/", []),
        ):
            request = ReceivedRequest(1, NOW, method, target, headers, b"", "test")
            self.assertIsNone(upstream.answer(request), target)

    def test_wrong_method_and_path(self) -> None:
        self.assertEqual(self.service.ask(b"PUT", BACKEND).reply.head.status, 405)
        self.assertEqual(self.service.ask(b"GET", BACKEND).reply.head.status, 405)
        self.assertEqual(
            self.service.ask(b"GET", b"/backend-api/ps/plugins/installed").reply.head.status, 404
        )

    def test_settings(self) -> None:
        settings = upstream_settings("http://127.0.0.1:1")
        self.assertEqual(settings["api_url"], "http://127.0.0.1:1/backend-api/codex")
        for name in ("token_url", "usage_url"):
            self.assertTrue(settings[name].startswith("http://127.0.0.1:1/"))
