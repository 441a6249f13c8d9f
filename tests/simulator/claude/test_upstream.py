"""Claude's side of the simulator, asked as clients ask it."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.claude.upstream import upstream_settings
from tests.simulator.claude.requests import NOW, Service, document, events, header, turn


class MessageTests(SynchronousTestCase):
    """POST /v1/messages."""

    def setUp(self) -> None:
        self.service = Service()

    def test_whole_message(self) -> None:
        answer = self.service.message(turn("[[say:Hello – there]]"))  # noqa: RUF001
        self.assertEqual(answer.reply.head.status, 200)
        self.assertEqual(header(answer, "content-type"), "application/json")
        message = document(answer)
        self.assertEqual(message["content"], [{"type": "text", "text": "Hello – there"}])  # noqa: RUF001
        self.assertEqual((message["role"], message["stop_reason"]), ("assistant", "end_turn"))
        self.assertEqual(message["model"], "claude-opus-5")
        self.assertGreater(message["usage"]["input_tokens"], 1)
        self.assertEqual(message["usage"]["output_tokens"], 3)
        self.assertIs(answer.turn, self.service.account)
        self.assertEqual((self.service.last.account, self.service.last.endpoint), ("a", "turn"))

    def test_stream(self) -> None:
        answer = self.service.message(turn("[[say:one two three four five six seven]]", stream=True))
        self.assertTrue(answer.reply.is_stream)
        self.assertEqual(header(answer, "content-type"), "text/event-stream; charset=utf-8")
        found = events(answer)
        names = [name for name, _ in found]
        self.assertEqual(names[:3], ["message_start", "content_block_start", "ping"])
        self.assertEqual(names[-3:], ["content_block_stop", "message_delta", "message_stop"])
        self.assertTrue(all(name == data["type"] for name, data in found))
        text = "".join(data["delta"]["text"] for name, data in found if name == "content_block_delta")
        self.assertEqual(text, "one two three four five six seven")
        self.assertEqual(found[0][1]["message"]["usage"]["output_tokens"], 1)
        self.assertEqual(found[-2][1]["usage"]["output_tokens"], 7)
        self.assertEqual(found[-2][1]["delta"]["stop_reason"], "end_turn")

    def test_tool_turn(self) -> None:
        tools = [{"name": "Bash", "input_schema": {"type": "object"}}]
        prompt = '[[tool:Bash:{"command":"echo hi there"}]]'
        answer = self.service.message(turn(prompt, stream=True, tools=tools))
        blocks = [data for name, data in events(answer) if name == "content_block_start"]
        self.assertEqual(blocks[1]["content_block"]["name"], "Bash")
        self.assertEqual(blocks[1]["content_block"]["input"], {})
        arguments = "".join(
            data["delta"]["partial_json"]
            for name, data in events(answer)
            if name == "content_block_delta" and data["index"] == 1
        )
        self.assertEqual(arguments, '{"command":"echo hi there"}')
        self.assertEqual(events(answer)[-2][1]["delta"]["stop_reason"], "tool_use")

        identity = blocks[1]["content_block"]["id"]
        conversation = [
            {"role": "user", "content": prompt},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": identity, "name": "Bash", "input": {}}],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": identity,
                        "content": [{"type": "text", "text": "hi there"}],
                    }
                ],
            },
            {"role": "system", "content": "a reminder"},
        ]
        answer = self.service.message(turn(messages=conversation, tools=tools))
        self.assertIn("hi there", document(answer)["content"][0]["text"])
        self.assertEqual(document(answer)["stop_reason"], "end_turn")

    def test_forced_tool(self) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
        tools = [{"name": "other"}, {"name": "answer", "input_schema": schema}]
        for choice, called in (
            ({"type": "tool", "name": "answer"}, ("answer", {"n": 1})),
            ({"type": "any"}, ("other", {})),
            ({"type": "tool", "name": "nosuch"}, None),
            ({"type": "auto"}, None),
        ):
            block = document(self.service.message(turn(tools=tools, tool_choice=choice)))["content"][-1]
            found = (block["name"], block["input"]) if block["type"] == "tool_use" else None
            self.assertEqual(found, called)

    def test_quota_probe(self) -> None:
        message = document(self.service.message(turn("quota", max_tokens=1)))
        self.assertEqual(message["stop_reason"], "max_tokens")
        self.assertEqual(message["usage"]["output_tokens"], 1)

    def test_schema(self) -> None:
        schema = {"type": "object", "properties": {"title": {"type": "string"}}}
        configuration = {"format": {"type": "json_schema", "schema": schema}}
        message = document(self.service.message(turn(output_config=configuration)))
        self.assertEqual(message["content"][0]["text"], '{"title": "Simulated conversation"}')

    def test_thought_is_accepted_by_its_own_organization_alone(self) -> None:
        content = document(self.service.message(turn("[[think]]")))["content"]
        self.assertEqual(content[0]["type"], "thinking")
        conversation = [{"role": "assistant", "content": content}, {"role": "user", "content": "and?"}]
        self.assertEqual(self.service.message(turn(messages=conversation)).reply.head.status, 200)
        other = self.service.add_account("b")
        answer = self.service.message(turn(messages=conversation), account=other)
        self.assertEqual(answer.reply.head.status, 400)
        self.assertIn("signature", document(answer)["error"]["message"])
        colleague = self.service.add_account("c", same_organization_as=self.service.account)
        answer = self.service.message(turn(messages=conversation), account=colleague)
        self.assertEqual(answer.reply.head.status, 200)

    def test_refused_bodies(self) -> None:
        complete = turn()
        for body, message in (
            (b"{", "JSON"),
            (b"\xff\xfe", "JSON"),
            (b"[]", "dictionary"),
            (b"[" * 100_000, "JSON"),
            ({**complete, "messages": []}, "messages"),
            ({**complete, "messages": [1]}, "messages.0"),
            ({**complete, "messages": [{"role": "robot", "content": ""}]}, "messages.0"),
            ({**complete, "max_tokens": "many"}, "max_tokens"),
            ({key: value for key, value in complete.items() if key != "model"}, "model: Field required"),
        ):
            answer = self.service.message(body)
            self.assertEqual(answer.reply.head.status, 400)
            error = document(answer)
            self.assertEqual(error["error"]["type"], "invalid_request_error")
            self.assertIn(message, error["error"]["message"])
            self.assertEqual(error["request_id"], header(answer, "request-id"))

    def test_odd_content_is_no_error(self) -> None:
        contents: list[object] = [None, 7, [None, {"type": "image"}, {"type": "text"}], {}]
        for content in contents:
            answer = self.service.message(turn(messages=[{"role": "user", "content": content}]))
            self.assertEqual(answer.reply.head.status, 200)

    def test_unknown_model(self) -> None:
        answer = self.service.message(turn(model="gpt-5"))
        self.assertEqual(answer.reply.head.status, 404)
        self.assertEqual(document(answer)["error"], {"type": "not_found_error", "message": "model: gpt-5"})

    def test_version_is_required(self) -> None:
        headers = [pair for pair in self.service.headers() if pair[0] != b"anthropic-version"]
        answer = self.service.message(turn(), headers=headers)
        self.assertEqual(answer.reply.head.status, 400)


class CacheTests(SynchronousTestCase):
    """Cache reads and writes of a conversation."""

    def setUp(self) -> None:
        self.service = Service()

    def usage(self, size: int, **fields: Any) -> dict[str, Any]:
        system = [{"type": "text", "text": "x" * size, "cache_control": {"type": "ephemeral", **fields}}]
        usage = document(self.service.message(turn(system=system)))["usage"]
        assert isinstance(usage, dict)
        return usage

    def test_second_turn_reads_what_the_first_wrote(self) -> None:
        first = self.usage(4000)
        self.assertEqual(first["cache_read_input_tokens"], 0)
        written = first["cache_creation_input_tokens"]
        self.assertGreater(written, 1000)
        self.assertEqual(first["cache_creation"]["ephemeral_5m_input_tokens"], written)
        second = self.usage(6000)
        self.assertEqual(second["cache_read_input_tokens"], written)
        self.assertEqual(second["cache_creation_input_tokens"], 500)
        self.assertEqual(second["input_tokens"], 4)

    def test_one_hour(self) -> None:
        usage = self.usage(4000, ttl="1h")
        self.assertEqual(usage["cache_creation"]["ephemeral_5m_input_tokens"], 0)
        self.assertEqual(
            usage["cache_creation"]["ephemeral_1h_input_tokens"], usage["cache_creation_input_tokens"]
        )
        self.service.clock.advance(3000)
        self.assertGreater(self.usage(4000, ttl="1h")["cache_read_input_tokens"], 0)

    def test_expires(self) -> None:
        self.usage(4000)
        self.service.clock.advance(301)
        self.assertEqual(self.usage(4000)["cache_read_input_tokens"], 0)

    def test_conversations_do_not_share(self) -> None:
        self.usage(4000)
        system = [{"type": "text", "text": "x" * 4000, "cache_control": {"type": "ephemeral"}}]
        answer = self.service.message(turn("Another conversation", system=system))
        self.assertEqual(document(answer)["usage"]["cache_read_input_tokens"], 0)


class LimitTests(SynchronousTestCase):
    """Windows fill, and say so."""

    def setUp(self) -> None:
        self.service = Service()

    def test_tokens_fill_both_windows(self) -> None:
        account = self.service.account
        answer = self.service.message(turn("[[tokens:1000]]", max_tokens=5000))
        five_hour = account.utilization("five_hour")
        self.assertGreater(five_hour, 0.0)
        self.assertLess(account.utilization("seven_day"), five_hour)
        self.assertEqual(header(answer, "anthropic-ratelimit-unified-status"), "allowed")
        self.assertEqual(header(answer, "anthropic-ratelimit-unified-5h-reset"), str(round(NOW) + 18000))
        self.assertEqual(header(answer, "anthropic-ratelimit-unified-representative-claim"), "five_hour")
        self.assertEqual(header(answer, "anthropic-organization-id"), account.organization_uuid)

    def test_used_up(self) -> None:
        service = self.service
        service.account.exhaust("five_hour", resets_in=90.0)
        answer = service.message(turn())
        self.assertEqual(answer.reply.head.status, 429)
        self.assertEqual(document(answer)["error"]["type"], "rate_limit_error")
        self.assertEqual(header(answer, "retry-after"), "90")
        self.assertEqual(header(answer, "x-should-retry"), "true")
        self.assertEqual(header(answer, "anthropic-ratelimit-unified-5h-status"), "rejected")
        self.assertEqual(header(answer, "anthropic-ratelimit-unified-7d-status"), "allowed")
        self.assertEqual(service.account.counters.refused_turns, 1)
        service.clock.advance(90.0)
        self.assertEqual(service.message(turn()).reply.head.status, 200)

    def test_model_window(self) -> None:
        account = self.service.add_account("b", model_windows=("seven_day_opus",))
        account.exhaust("seven_day_opus")
        answer = self.service.message(turn(), account=account)
        self.assertEqual(answer.reply.head.status, 429)
        self.assertEqual(header(answer, "anthropic-ratelimit-unified-7d_opus-status"), "rejected")
        self.assertEqual(header(answer, "anthropic-ratelimit-unified-representative-claim"), "seven_day_opus")
        answer = self.service.message(turn(model="claude-sonnet-5"), account=account)
        self.assertEqual(answer.reply.head.status, 200)
        self.assertIsNone(header(answer, "anthropic-ratelimit-unified-7d_opus-status"))

    def test_key(self) -> None:
        service = self.service
        headers = [(b"x-api-key", service.key.key.encode()), (b"anthropic-version", b"2026-10-21")]
        answer = service.message(turn(), headers=headers)
        self.assertEqual(answer.reply.head.status, 200)
        self.assertEqual(header(answer, "anthropic-ratelimit-requests-remaining"), "3999")
        self.assertIsNone(header(answer, "anthropic-ratelimit-unified-status"))
        service.key.exhaust()
        answer = service.message(turn(), headers=headers)
        self.assertEqual(answer.reply.head.status, 429)
        self.assertEqual(header(answer, "retry-after"), "60")
        service.clock.advance(60)
        self.assertEqual(service.message(turn(), headers=headers).reply.head.status, 200)


class FaultTests(SynchronousTestCase):
    """Faults by header, by prompt and queued."""

    def setUp(self) -> None:
        self.service = Service()

    def test_marker(self) -> None:
        answer = self.service.message(turn("[[simulate:529]]"))
        self.assertEqual(answer.reply.head.status, 529)
        self.assertEqual(document(answer)["error"]["type"], "overloaded_error")
        self.assertEqual(self.service.last.fault, "overloaded")
        self.assertEqual(self.service.account.utilization("five_hour"), 0.0)

    def test_header(self) -> None:
        headers = [*self.service.headers(), (b"X-Simulate", b"429;retry_after=7")]
        answer = self.service.message(turn("[[simulate:529]]"), headers=headers)
        self.assertEqual(answer.reply.head.status, 429)
        self.assertEqual(header(answer, "retry-after"), "7")
        self.assertIsNone(header(answer, "anthropic-ratelimit-unified-status"))

    def test_queued(self) -> None:
        self.service.faults.next("exhausted;window=seven_day", account="a")
        answer = self.service.message(turn())
        self.assertEqual(answer.reply.head.status, 429)
        self.assertEqual(header(answer, "anthropic-ratelimit-unified-7d-status"), "rejected")
        self.assertEqual(header(answer, "anthropic-ratelimit-unified-representative-claim"), "seven_day")
        self.assertEqual(self.service.message(turn()).reply.head.status, 200)

    def test_unknown_window_and_key_account(self) -> None:
        self.service.faults.next("exhausted;window=fortnight", times=2)
        answer = self.service.message(turn())
        self.assertEqual(header(answer, "anthropic-ratelimit-unified-5h-status"), "rejected")
        key = [(b"x-api-key", self.service.key.key.encode())]
        answer = self.service.message(turn(), headers=key)
        self.assertEqual(answer.reply.head.status, 429)

    def test_unknown_fault_is_told(self) -> None:
        answer = self.service.message(turn("[[simulate:nosuch]]"))
        self.assertEqual(answer.reply.head.status, 400)
        self.assertIn("nosuch", document(answer)["error"]["message"])

    def test_delivery_fault_goes_with_the_real_answer(self) -> None:
        answer = self.service.message(turn("[[simulate:cut;at=mid]] [[say:x]]"))
        self.assertEqual(document(answer)["content"][0]["text"], "x")
        assert answer.fault is not None
        self.assertEqual(answer.fault.name, "cut")

    def test_control_endpoints(self) -> None:
        service = self.service
        service.faults.next("403", endpoint="usage")
        service.faults.next("429;retry_after=60", endpoint="profile")
        self.assertEqual(service.ask(b"GET", b"/api/oauth/usage").reply.head.status, 403)
        self.assertEqual(header(service.ask(b"GET", b"/api/oauth/profile"), "retry-after"), "60")
        self.assertEqual(service.ask(b"GET", b"/api/oauth/usage").reply.head.status, 200)


class OtherEndpointTests(SynchronousTestCase):
    """Everything but messages and tokens."""

    def setUp(self) -> None:
        self.service = Service()

    def test_count_tokens(self) -> None:
        body = {"model": "claude-opus-5", "messages": [{"role": "user", "content": "x" * 400}]}
        answer = self.service.ask(b"POST", b"/v1/messages/count_tokens?beta=true", body)
        self.assertGreater(document(answer)["input_tokens"], 100)
        self.assertIsNone(answer.turn)
        self.assertEqual(self.service.account.utilization("five_hour"), 0.0)

    def test_models(self) -> None:
        page = document(self.service.ask(b"GET", b"/v1/models?limit=1000"))
        self.assertFalse(page["has_more"])
        model = page["data"][0]
        self.assertEqual(document(self.service.ask(b"GET", b"/v1/models/" + model["id"].encode())), model)
        self.assertEqual(self.service.ask(b"GET", b"/v1/models/nosuch").reply.head.status, 404)

    def test_usage(self) -> None:
        usage = document(self.service.ask(b"GET", b"/api/oauth/usage"))
        self.assertEqual(usage["five_hour"], {"utilization": 0.0, "resets_at": None})
        self.assertIsNone(usage["seven_day_opus"])
        self.service.account.set_utilization("seven_day", 41.5, resets_in=3600.0)
        usage = document(self.service.ask(b"GET", b"/api/oauth/usage"))
        self.assertEqual(usage["seven_day"], {"utilization": 41.5, "resets_at": "2026-11-18T12:06:40+00:00"})
        self.assertEqual(self.service.account.counters.usage_polls, 2)

    def test_profile(self) -> None:
        profile = document(self.service.ask(b"GET", b"/api/oauth/profile"))
        self.assertEqual(profile["account"]["email"], "a@example.com")
        self.assertEqual(profile["organization"]["organization_type"], "claude_max")
        self.assertEqual(profile["organization"]["rate_limit_tier"], "default_claude_max_20x")

    def test_settings(self) -> None:
        settings = upstream_settings("http://127.0.0.1:1")
        paths = {value.removeprefix("http://127.0.0.1:1").encode() for value in settings.values()}
        self.assertLessEqual(paths - {b""}, self.service.upstream._routing.paths)

    def test_preconnect(self) -> None:
        for target in (b"/", b"/api/hello"):
            answer = self.service.ask(b"HEAD", target, headers=[])
            self.assertEqual((answer.reply.head.status, answer.reply.body), (200, b""))

    def test_wrong_method_and_unknown_path(self) -> None:
        self.assertEqual(self.service.ask(b"GET", b"/v1/messages").reply.head.status, 405)
        self.assertRaises(AssertionError, self.service.ask, b"GET", b"/nowhere")
