"""The simulated model does what a prompt's markers say, and otherwise says something."""

from __future__ import annotations

import json
import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.conversation import (
    Block,
    Prompt,
    Said,
    Thinking,
    ToolCall,
    compose,
    estimate_tokens,
    example,
    simulate_marker,
    split_into_deltas,
)


def say(text: str, *results: str, tools: tuple[str, ...] = ("Bash", "Read")) -> list[Block]:
    """The turn that answers ``text``."""
    return compose(Prompt(text, results, frozenset(tools)), random.Random(0))


class ComposeTests(SynchronousTestCase):
    """Markers and their effects."""

    def test_ordinary_answer_is_repeatable(self) -> None:
        self.assertEqual(say("Hello"), say("Hello"))
        (block,) = say("Hello")
        assert isinstance(block, Said)
        self.assertTrue(block.text)

    def test_say(self) -> None:
        self.assertEqual(say("please [[say:exactly\nthis – 🙂]] now"), [Said("exactly\nthis – 🙂")])  # noqa: RUF001

    def test_tool(self) -> None:
        blocks = say('run [[tool:Bash:{"command":"echo [[hi]] }]]x"}]] and [[tool:Read:{"path":{"a":[]}}]]')
        self.assertEqual(
            blocks[1:],
            [ToolCall("Bash", {"command": "echo [[hi]] }]]x"}), ToolCall("Read", {"path": {"a": []}})],
        )
        self.assertIsInstance(blocks[0], Said)

    def test_tool_that_is_not_on_offer(self) -> None:
        (block,) = say('[[tool:Bash:{"command":"echo"}]]', tools=("Read",))
        assert isinstance(block, Said)
        self.assertIn("Bash", block.text)

    def test_broken_tool_markers_are_passed_over(self) -> None:
        for text in (
            "[[tool:Bash:{]]",
            "[[tool:Bash:[1]]]",
            '[[tool:Bash:{"a":1}',
            "[[tool:Bash:" + "[" * 5000,
        ):
            (block,) = say(text)
            self.assertIsInstance(block, Said)

    def test_tool_result_is_quoted(self) -> None:
        (block,) = say("", "hello from the shell")
        assert isinstance(block, Said)
        self.assertIn("hello from the shell", block.text)

    def test_think_comes_first(self) -> None:
        blocks = say("[[think]] [[say:x]]")
        self.assertIsInstance(blocks[0], Thinking)
        self.assertEqual(blocks[1], Said("x"))

    def test_tokens(self) -> None:
        (block,) = say("[[tokens:250]]")
        assert isinstance(block, Said)
        self.assertEqual(len(block.text.split(" ")), 250)

    def test_schema(self) -> None:
        schema = {"type": "object", "properties": {"title": {"type": "string"}, "n": {"type": "integer"}}}
        (block,) = compose(Prompt("x", schema=schema), random.Random(0))
        assert isinstance(block, Said)
        self.assertEqual(json.loads(block.text).keys(), {"title", "n"})

    def test_simulate_marker(self) -> None:
        self.assertIsNone(simulate_marker("no marker"))
        self.assertEqual(simulate_marker("a [[simulate:529]] [[simulate:cut;at=mid]] b"), "cut;at=mid")


class ExampleTests(SynchronousTestCase):
    """Small values for schemas."""

    def test_kinds(self) -> None:
        for schema, expected in (
            ({"const": 3}, 3),
            ({"enum": ["a", "b"]}, "a"),
            ({"type": "boolean"}, True),
            ({"type": "null"}, None),
            ({"type": "array", "items": {"type": "number", "minimum": 7}}, [7]),
            ({"type": "array"}, []),
            ({"type": ["null", "string"]}, None),
            ({"anyOf": [{"type": "boolean"}]}, True),
            ({}, "Simulated conversation"),
        ):
            self.assertEqual(example(schema), expected)


class SplitTests(SynchronousTestCase):
    """Deltas."""

    @given(st.text(), st.integers())
    def test_deltas_make_the_text(self, text: str, seed: int) -> None:
        self.assertEqual("".join(split_into_deltas(text, random.Random(seed))), text)

    def test_several_deltas(self) -> None:
        self.assertGreater(len(split_into_deltas("one two three four five six", random.Random(0))), 1)

    def test_estimate(self) -> None:
        self.assertEqual([estimate_tokens(size) for size in (0, 1, 4, 5, 4000)], [1, 1, 1, 2, 1000])
