"""Reading requests of the Responses API, counting their tokens, telling the answer in one piece or in events."""

from __future__ import annotations

import json
import random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.usage import Tokens
from ccmproxy.simulator.codex.responses import (
    PromptCache,
    Response,
    check,
    check_backend,
    conversation_key,
    read_prompt,
    read_tools,
    sse,
    wants_compaction,
)
from ccmproxy.simulator.replies import InvalidRequest
from tests.simulator.codex.service import turn, user

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": "shell", "parameters": {"type": "object", "properties": {}}},
    {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}},
    {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "spawn"}]},
    {"type": "web_search"},
]


class PromptTests(SynchronousTestCase):
    """What matters of a request."""

    def test_last_user_message(self) -> None:
        developer = {"type": "message", "role": "developer", "content": "[[say:no]]"}
        document = turn(input=[developer, user("context"), user("question"), developer])
        self.assertEqual(read_prompt(document).text, "question")
        self.assertEqual(read_prompt({"input": "plain"}).text, "plain")
        self.assertEqual(read_prompt({"input": [{"role": "user", "content": "short"}]}).text, "short")

    def test_half_an_answer(self) -> None:
        kept = {"type": "message", "role": "assistant", "content": "so far"}
        self.assertEqual(read_prompt(turn(input=[user("question"), kept])).text, "question")

    def test_results_of_tools(self) -> None:
        outputs = [
            {"type": "function_call_output", "call_id": "1", "output": "one"},
            {
                "type": "custom_tool_call_output",
                "call_id": "2",
                "output": [{"type": "input_text", "text": "two"}],
            },
        ]
        prompt = read_prompt(turn(input=[user("question"), *outputs]))
        self.assertEqual((prompt.text, prompt.tool_results), ("", ("one", "two")))
        self.assertEqual(read_prompt(turn(input=outputs)).tool_results, ("one", "two"))
        answered = [user("old"), *outputs, {"type": "message", "role": "assistant", "content": []}]
        self.assertEqual(read_prompt(turn(input=[*answered, user("new")])).tool_results, ())

    def test_tools(self) -> None:
        tools = read_tools({"tools": TOOLS})
        self.assertEqual(set(tools.schemas), {"shell", "apply_patch", "spawn"})
        self.assertEqual((tools.custom, tools.namespaces), ({"apply_patch"}, {"spawn": "agents"}))

    def test_forced_tool(self) -> None:
        for choice, name in (
            ("required", "shell"),
            ({"type": "function", "name": "spawn"}, "spawn"),
            ({"type": "custom", "name": "apply_patch"}, "apply_patch"),
        ):
            forced = read_prompt(turn(tools=TOOLS, tool_choice=choice)).forced
            assert forced is not None
            self.assertEqual(forced[0], name)
        for choice in ("auto", "none", {"type": "function", "name": "x"}):
            self.assertIsNone(read_prompt(turn(tools=TOOLS, tool_choice=choice)).forced)

    def test_schema(self) -> None:
        wanted = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "integer"}}}
        self.assertEqual(read_prompt(turn(text=wanted)).schema, {"type": "integer"})
        self.assertIsNone(read_prompt(turn(text={"verbosity": "low"})).schema)

    def test_nonsense_is_passed_over(self) -> None:
        for document in ({}, {"input": 5}, {"input": [5, {}]}, {"input": [], "tools": {"a": 1}}):
            self.assertEqual(read_prompt(document).text, "")

    def test_compaction(self) -> None:
        self.assertTrue(wants_compaction(turn(input=[user("x"), {"type": "compaction_trigger"}])))
        self.assertFalse(wants_compaction(turn()))

    def test_conversation_key(self) -> None:
        self.assertEqual(conversation_key(b"header", {"prompt_cache_key": "body"}), "header")
        self.assertEqual(conversation_key(None, {"prompt_cache_key": "body"}), "body")
        self.assertEqual(conversation_key(None, {"prompt_cache_key": 5}), "")


class CheckTests(SynchronousTestCase):
    """What a client can trip over."""

    def test_both(self) -> None:
        check(turn())
        check_backend(turn())
        check_backend({**turn(), "stream": None}, stream=False)
        for body in (turn(model=5), turn(input=None), turn(max_output_tokens=0)):
            self.assertRaises(InvalidRequest, check, body)
        for body in (turn(stream=False), turn(store=None), turn(input="x"), turn(temperature=1)):
            self.assertRaises(InvalidRequest, check_backend, body)


class CacheTests(SynchronousTestCase):
    """Prompts that begin as the last one did."""

    def test_second_request_is_cached(self) -> None:
        cache = PromptCache()
        self.assertEqual(cache.tokens(("a",), 40_000, 0.0), Tokens(input=10_000))
        again = cache.tokens(("a",), 48_000, 1.0)
        self.assertEqual((again.cache_read, again.total_input), (9984, 12_000))
        self.assertEqual(cache.tokens(("b",), 48_000, 1.0).cache_read, 0)
        self.assertEqual(cache.tokens(("a",), 48_000, 700.0).cache_read, 0)

    def test_short_prompts_are_not(self) -> None:
        cache = PromptCache()
        cache.tokens(("a",), 4000, 0.0)
        self.assertEqual(cache.tokens(("a",), 4000, 0.0), Tokens(input=1000))


class ResponseTests(SynchronousTestCase):
    """An answer."""

    def make(self, **options: Any) -> Response:
        """A response with one item of an unknown kind."""
        tokens = Tokens(input=10, cache_read=5, output=3, reasoning=1)
        request = turn(tools=TOOLS, instructions="Be brief")
        return Response("resp_1", 1000, request, [{"id": "x_1", "type": "compaction"}], tokens, **options)

    def test_document(self) -> None:
        document = json.loads(self.make().whole())
        self.assertEqual((document["id"], document["status"]), ("resp_1", "completed"))
        self.assertEqual((document["tools"], document["instructions"]), (TOOLS, "Be brief"))
        self.assertEqual(
            document["usage"],
            {
                "input_tokens": 15,
                "input_tokens_details": {"cached_tokens": 5},
                "output_tokens": 3,
                "output_tokens_details": {"reasoning_tokens": 1},
                "total_tokens": 18,
            },
        )

    def test_events(self) -> None:
        found = self.make().events(random.Random(0))
        self.assertEqual(
            [event["type"].removeprefix("response.") for event in found],
            ["created", "in_progress", "output_item.added", "output_item.done", "completed"],
        )
        self.assertIsNone(found[0]["response"]["usage"])
        self.assertEqual(found[-1]["response"], self.make().document())

    def test_cut(self) -> None:
        response = self.make(is_cut=True)
        self.assertEqual(response.document()["incomplete_details"], {"reason": "max_output_tokens"})
        self.assertEqual(response.events(random.Random(0))[-1]["type"], "response.incomplete")

    def test_sse(self) -> None:
        self.assertEqual(sse({"type": "a.b", "n": 1}), b'event: a.b\ndata: {"type":"a.b","n":1}\n\n')
