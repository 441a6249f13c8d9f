"""From a body to a prompt, and from a turn to a message: the parts that whole conversations do not show."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.usage import Tokens
from ccmproxy.simulator.claude.messages import (
    PromptCache,
    build_message,
    conversation_key,
    error_event,
    event,
    foreign_thought,
    read_prompt,
    sign_thought,
)
from ccmproxy.simulator.conversation import Block, Said, Thinking, ToolCall

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "role", "content", "type", "text", "tools", "name", "output_config", "format"]
            )
            | st.text(max_size=3),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


class PromptTests(SynchronousTestCase):
    """Reading a request."""

    def test_last_user_message(self) -> None:
        prompt = read_prompt(
            {
                "messages": [
                    {"role": "user", "content": "first"},
                    {"role": "assistant", "content": "no"},
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "a"},
                            {"type": "tool_result", "content": "result"},
                            {"type": "text", "text": "b"},
                        ],
                    },
                    {"role": "system", "content": "no"},
                ],
                "tools": [{"name": "Bash"}, {"name": "Read", "defer_loading": True}],
            }
        )
        self.assertEqual(prompt.text, "a\nb")
        self.assertEqual(prompt.tool_results, ("result",))
        self.assertEqual(prompt.tools, {"Bash", "Read"})
        self.assertIsNone(prompt.schema)

    @given(
        st.dictionaries(
            st.sampled_from(["messages", "tools", "tool_choice", "output_config", "metadata"]), JSON
        )
    )
    def test_anything_is_a_prompt(self, document: dict[str, Any]) -> None:
        read_prompt(document)
        conversation_key(None, document)
        foreign_thought(document, "organization")

    def test_conversation_key(self) -> None:
        document = {"metadata": {"user_id": "u"}, "messages": [{"role": "user", "content": "x"}]}
        self.assertEqual(conversation_key(b"s", document), "s")
        self.assertEqual(conversation_key(None, document), "u")
        first = conversation_key(None, {"messages": document["messages"]})
        longer = conversation_key(None, {"messages": [*document["messages"], {"role": "assistant"}]})
        self.assertEqual(first, longer)
        self.assertNotEqual(first, conversation_key(None, {"messages": [{"role": "user"}]}))


class MessageTests(SynchronousTestCase):
    """Building an answer."""

    def build(self, *blocks: Any, max_tokens: int = 100) -> dict[str, Any]:
        document = {"model": "m", "max_tokens": max_tokens}
        message = build_message(document, blocks, Tokens(input=5), lambda text: "signed", random.Random(0))
        decoded = json.loads(message.whole())
        assert isinstance(decoded, dict)
        return decoded

    def test_cut_at_max_tokens(self) -> None:
        message = self.build(Said("one two three four"), ToolCall("t", {}), max_tokens=3)
        self.assertEqual(message["content"], [{"type": "text", "text": "one two three"}])
        self.assertEqual(message["stop_reason"], "max_tokens")
        self.assertEqual(message["usage"]["output_tokens"], 3)

    def test_order_and_stop_reason(self) -> None:
        message = self.build(Thinking("hm"), Said("so"), ToolCall("t", {"a": 1}))
        self.assertEqual([block["type"] for block in message["content"]], ["thinking", "text", "tool_use"])
        self.assertEqual(message["content"][0]["signature"], "signed")
        self.assertEqual(message["stop_reason"], "tool_use")

    @given(st.text(min_size=1), st.integers())
    def test_stream_says_what_the_whole_says(self, text: str, seed: int) -> None:
        blocks: list[Block] = [Thinking(text), Said(text), ToolCall("t", {"x": text, "y": [1, {}]})]
        document = {"model": "m", "max_tokens": 10**6}
        message = build_message(document, blocks, Tokens(), lambda text: "signed", random.Random(seed))
        whole = json.loads(message.whole())
        content: list[dict[str, Any]] = []
        final: dict[str, Any] = {}
        for data in map(self.decode, message.events(random.Random(seed))):
            if data["type"] == "content_block_start":
                content.append(data["content_block"])
            elif data["type"] == "content_block_delta":
                delta, block = data["delta"], content[data["index"]]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "signature_delta":
                        block["signature"] += delta["signature"]
                    case "input_json_delta":
                        block["partial"] = block.get("partial", "") + delta["partial_json"]
            elif data["type"] == "message_delta":
                final = data
        content[-1]["input"] = json.loads(content[-1].pop("partial"))
        self.assertEqual(content, whole["content"])
        self.assertEqual(final["delta"]["stop_reason"], whole["stop_reason"])
        self.assertEqual(final["usage"]["output_tokens"], whole["usage"]["output_tokens"])

    def decode(self, data: bytes) -> dict[str, Any]:
        lines = data.decode().split("\n")
        self.assertEqual((len(lines), lines[2:]), (4, ["", ""]))
        decoded = json.loads(lines[1].removeprefix("data: "))
        assert isinstance(decoded, dict)
        return decoded

    def test_events_are_padded_differently(self) -> None:
        rng = random.Random(0)
        found = {event("x", {"a": 1}, rng) for _ in range(50)}
        self.assertGreater(len(found), 5)
        for data in found:
            self.assertEqual(self.decode(data), {"a": 1})

    def test_error_event(self) -> None:
        data = error_event("overloaded_error")
        self.assertTrue(data.startswith(b"event: error\n"))
        self.assertEqual(self.decode(data)["error"]["type"], "overloaded_error")


class ThoughtTests(SynchronousTestCase):
    """Signatures."""

    def test_signature(self) -> None:
        own = {"type": "thinking", "thinking": "x", "signature": sign_thought("mine", "x")}
        foreign = {**own, "signature": sign_thought("yours", "x")}
        for blocks, place in (
            ([own], None),
            ([{"type": "text"}, foreign], (0, 1)),
            ([{**own, "signature": "no base64 ~"}], (0, 0)),
            ([{"type": "thinking"}], (0, 0)),
        ):
            document = {"messages": [{"role": "assistant", "content": blocks}]}
            self.assertEqual(foreign_thought(document, "mine"), place)


class PromptCacheTests(SynchronousTestCase):
    """Bounds of the memory."""

    def test_forgets_the_oldest(self) -> None:
        cache = PromptCache()
        body = b'"cache_control"' + b"x" * 1000
        for number in range(1500):
            cache.tokens((str(number),), body, 0.0)
        self.assertEqual(cache.tokens(("0",), body, 0.0).cache_read, 0)
        self.assertGreater(cache.tokens(("1499",), body, 0.0).cache_read, 0)
        self.assertLessEqual(len(cache._prefixes), 1000)

    def test_a_shorter_conversation_reads_no_more_than_it_has(self) -> None:
        cache = PromptCache()
        cache.tokens(("k",), b'"cache_control"' + b"x" * 1000, 0.0)
        tokens = cache.tokens(("k",), b'"cache_control"' + b"x" * 100, 0.0)
        self.assertEqual(tokens.cache_creation, 0)
        self.assertEqual(tokens.total_input, 29)
