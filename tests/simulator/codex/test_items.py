"""Items of a response: built from what is said, and told in events that add up to them."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.codex.items import (
    Tools,
    build_items,
    compaction,
    encrypt,
    foreign_item,
    item_events,
)
from ccmproxy.simulator.conversation import Block, Said, Thinking, ToolCall
from ccmproxy.simulator.request_parts import dictionaries

TOOLS = Tools({"shell": {}, "patch": {}, "spawn": {}}, frozenset({"patch"}), {"spawn": "agents"})
BLOCKS: list[Block] = [
    Thinking("let me see"),
    Said("one two three"),
    ToolCall("shell", {"cmd": "ls – la"}),  # noqa: RUF001
    ToolCall("patch", {"input": "*** Begin Patch\n*** End Patch"}),
    ToolCall("spawn", {}),
]


class ItemTests(SynchronousTestCase):
    """All kinds."""

    def setUp(self) -> None:
        self.rng = random.Random(0)

    def test_kinds(self) -> None:
        items, used, reasoning, is_cut = build_items(BLOCKS, TOOLS, "w", None, self.rng)
        self.assertEqual(
            [item["type"] for item in items],
            ["reasoning", "message", "function_call", "custom_tool_call", "function_call"],
        )
        self.assertEqual((reasoning, is_cut), (3, False))
        self.assertGreater(used, 6)
        self.assertEqual(items[3]["input"], "*** Begin Patch\n*** End Patch")
        self.assertEqual(items[4]["namespace"], "agents")
        self.assertEqual(len({item["id"] for item in items}), 5)

    def test_cut(self) -> None:
        items, used, _, is_cut = build_items([Said("a b c d"), *BLOCKS], TOOLS, "w", 2, self.rng)
        self.assertEqual((len(items), used, is_cut), (1, 2, True))
        self.assertEqual(items[0]["content"][0]["text"], "a b")

    def test_events_add_up(self) -> None:
        items, *_ = build_items(BLOCKS, TOOLS, "w", None, self.rng)
        told = {
            "reasoning": lambda item: item["summary"][0]["text"],
            "message": lambda item: item["content"][0]["text"],
            "function_call": lambda item: item["arguments"],
            "custom_tool_call": lambda item: item["input"],
        }
        for index, item in enumerate(items):
            found = list(item_events(item, index, self.rng))
            self.assertEqual(found[0]["type"], "response.output_item.added")
            self.assertEqual((found[-1]["type"], found[-1]["item"]), ("response.output_item.done", item))
            deltas = "".join(event["delta"] for event in found if "delta" in event)
            self.assertEqual(deltas, told[item["type"]](item))
            self.assertTrue(all(event["output_index"] == index for event in found))
            self.assertTrue(all(event["item_id"] == item["id"] for event in found[1:-1]))

    def test_seals(self) -> None:
        own = {"id": "rs_1", "encrypted_content": encrypt("w", "thought")}
        self.assertIsNone(foreign_item({"input": [own, {"type": "message"}]}, "w"))
        self.assertEqual(foreign_item({"input": [own]}, "v"), "rs_1")
        self.assertEqual(foreign_item({"input": [{"id": "x", "encrypted_content": "ü"}]}, "w"), "x")
        self.assertIsNone(foreign_item({"input": [compaction("w", self.rng)]}, "w"))

    def test_dictionaries(self) -> None:
        self.assertEqual(dictionaries([1, {"a": 1}]), [{"a": 1}])
        self.assertEqual(dictionaries("x"), [])
