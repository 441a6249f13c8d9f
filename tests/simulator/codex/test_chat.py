"""Chat completions: requests read, answers in one piece and in chunks that add up to it."""

from __future__ import annotations

import json
import random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.usage import Tokens
from ccmproxy.simulator.codex.chat import Completion, build_completion, check, error_event, read_prompt
from ccmproxy.simulator.conversation import Block, Said, Thinking, ToolCall
from ccmproxy.simulator.replies import InvalidRequest

TOOLS = [{"type": "function", "function": {"name": "shout", "parameters": {"type": "object"}}}]


def request(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The body of a request."""
    return {"model": "gpt-5.4", "messages": list(messages), **fields}


QUESTION = {"role": "user", "content": [{"type": "text", "text": "question"}]}


class ChatTests(SynchronousTestCase):
    """POST /v1/chat/completions, without its endpoint."""

    def build(self, blocks: list[Block], **fields: Any) -> Completion:
        """A completion that says ``blocks``."""
        return build_completion(
            request(QUESTION, **fields), blocks, Tokens(input=10, cache_read=2), 1000.5, random.Random(0)
        )

    def test_prompt(self) -> None:
        self.assertEqual(read_prompt(request({"role": "system", "content": "no"}, QUESTION)).text, "question")
        call: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": []}
        result = {"role": "tool", "tool_call_id": "1", "content": "LOUD"}
        prompt = read_prompt(request(QUESTION, call, result, tools=TOOLS))
        self.assertEqual((prompt.text, prompt.tool_results, prompt.tools), ("", ("LOUD",), {"shout"}))
        self.assertEqual(read_prompt({}).text, "")

    def test_forced(self) -> None:
        for choice in ("required", {"type": "function", "function": {"name": "shout"}}):
            forced = read_prompt(request(QUESTION, tools=TOOLS, tool_choice=choice)).forced
            self.assertEqual(forced, ("shout", {"type": "object"}))
        self.assertIsNone(read_prompt(request(QUESTION, tools=TOOLS, tool_choice="auto")).forced)
        wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "null"}}}
        self.assertEqual(read_prompt(request(QUESTION, response_format=wanted)).schema, {"type": "null"})

    def test_check(self) -> None:
        check(request(QUESTION))
        for body in ({}, {"model": "x"}, request(), {"model": "x", "messages": "hi"}):
            self.assertRaises(InvalidRequest, check, body)

    def test_whole(self) -> None:
        document = json.loads(self.build([Thinking("so so"), Said("one two")]).whole())
        self.assertEqual((document["object"], document["created"]), ("chat.completion", 1000))
        (choice,) = document["choices"]
        self.assertEqual((choice["message"]["content"], choice["finish_reason"]), ("one two", "stop"))
        usage = document["usage"]
        self.assertEqual((usage["prompt_tokens"], usage["completion_tokens"]), (12, 4))
        self.assertEqual(usage["completion_tokens_details"]["reasoning_tokens"], 2)
        self.assertEqual(usage["prompt_tokens_details"]["cached_tokens"], 2)

    def test_cut(self) -> None:
        completion = self.build([Said("a b c d")], max_completion_tokens=3)
        self.assertEqual((completion.text, completion.finish_reason), ("a b c", "length"))

    def test_chunks(self) -> None:
        completion = self.build([Said("one two three"), ToolCall("shout", {"what": "ä long argument"})])
        pieces = completion.events(random.Random(0), include_usage=True)
        self.assertEqual(pieces[-1], b"data: [DONE]\n\n")
        chunks = [json.loads(piece.removeprefix(b"data: ")) for piece in pieces[:-1]]
        self.assertEqual(chunks[-1]["usage"], json.loads(completion.whole())["usage"])
        self.assertEqual(chunks[-1]["choices"], [])
        self.assertTrue(all(chunk["usage"] is None for chunk in chunks[:-1]))
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
        self.assertEqual("".join(delta.get("content") or "" for delta in deltas), "one two three")
        calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
        self.assertEqual(calls[0]["function"]["name"], "shout")
        arguments = "".join(call["function"]["arguments"] for call in calls)
        self.assertEqual(json.loads(arguments), {"what": "ä long argument"})
        self.assertEqual(chunks[-2]["choices"][0]["finish_reason"], "tool_calls")
        plain = completion.events(random.Random(0), include_usage=False)
        self.assertNotIn(b"usage", b"".join(plain))

    def test_error_event(self) -> None:
        document = json.loads(error_event("overloaded").removeprefix(b"data: "))
        self.assertEqual(document["error"]["code"], "overloaded")
