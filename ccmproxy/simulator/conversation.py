"""What the simulated model says: a prompt goes in, text, thoughts and tool calls come out. Pure; no provider's words.

A prompt can direct the answer, so that a real client can be led through a conversation from its command line:

* ``[[say:TEXT]]`` is answered with exactly TEXT;
* ``[[tool:NAME:{JSON}]]`` calls the tool, if the request offers it; several markers make several calls at once;
* ``[[think]]`` puts a thought in front;
* ``[[tokens:N]]`` makes the answer N words long;
* ``[[simulate:FAULT]]`` is for :mod:`ccmproxy.simulator.faults`.

The result of a tool is answered with a text that quotes it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SAY = re.compile(r"\[\[say:(.*?)\]\]", re.DOTALL)
_TOKENS = re.compile(r"\[\[tokens:(\d{1,6})\]\]")
_TOOL = re.compile(r"\[\[tool:([A-Za-z0-9_.-]+):")
_SIMULATE = re.compile(r"\[\[simulate:([^\]]*)\]\]")

_MAX_QUOTE = 2000

#: Sentences of ordinary answers. Some hold characters of two, three and four bytes on purpose (F19).
_SENTENCES = (
    "I looked at the module and the change is small.",
    "The parser keeps its state between calls, so a chunk may end anywhere — even inside a character.",
    "Let me check the naïve assumption first: the window resets before the request arrives.",
    "Two tests fail, both because the clock is read twice.",
    "Done ✅ — everything passes now.",
    "The function returns early when the list is empty; that is why nothing was logged.",
    "In short: réservé, größer, 日本語 and 🙂 all survive the round trip.",
    "I would rename it, since it does not load anything any more.",
)

_WORDS = ("the", "stream", "goes", "on", "word", "by", "word", "—", "until", "it", "is", "long", "enough")


@dataclass(frozen=True, slots=True)
class Prompt:
    """The relevant parts of a request. ``text``: the last user message; ``tool_results``: the results in its place.

    ``tools``: names of the available tools. ``schema``: the JSON schema that the output must follow, None for prose.
    ``forced``: a tool that must be called, and the schema of its arguments.
    """

    text: str
    tool_results: tuple[str, ...] = ()
    tools: frozenset[str] = frozenset()
    schema: Mapping[str, Any] | None = None
    forced: tuple[str, Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """Text of the output."""

    text: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """A thought, before the text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of one of the client's tools. ``arguments``: a JSON object."""

    name: str
    arguments: Mapping[str, Any]


Block = Said | Thinking | ToolCall


def compose(prompt: Prompt, rng: random.Random) -> list[Block]:
    """The model's turn: thoughts, text, tool calls, in this order; never empty."""
    blocks: list[Block] = []
    if "[[think]]" in prompt.text:
        blocks.append(Thinking("Let me see what is asked here, step by step — and then answer."))
    if prompt.schema is not None:
        blocks.append(Said(json.dumps(example(prompt.schema), ensure_ascii=False)))
        return blocks
    calls, missing = _tool_calls(prompt)
    if prompt.forced is not None and not calls:
        name, schema = prompt.forced
        arguments = example({"type": "object", **schema})
        calls = [ToolCall(name, arguments if isinstance(arguments, dict) else {})]
    if calls:
        blocks.append(Said("I will use a tool for that."))
        blocks.extend(calls)
    elif missing:
        blocks.append(Said(f"I would use the tool {missing[0]}, but it is not on offer."))
    elif prompt.tool_results:
        quoted = "; ".join(f"“{result[:_MAX_QUOTE]}”" for result in prompt.tool_results)
        blocks.append(Said(f"The tool answered: {quoted}"))
    else:
        blocks.append(Said(_prose(prompt.text, rng)))
    return blocks


def simulate_marker(text: str) -> str | None:
    """The fault that the last ``[[simulate:…]]`` in ``text`` names, unparsed, or None."""
    found = _SIMULATE.findall(text)
    return str(found[-1]) if found else None


def example(schema: Mapping[str, Any]) -> Any:
    """A small value that satisfies the usual parts of a JSON schema: type, properties, items, enum, const, anyOf."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for combination in ("anyOf", "oneOf", "allOf"):
        if schema.get(combination):
            return example(schema[combination][0])
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    match kind:
        case "object":
            return {name: example(member) for name, member in schema.get("properties", {}).items()}
        case "array":
            return [example(schema["items"])] if isinstance(schema.get("items"), Mapping) else []
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "Simulated conversation"


def split_into_deltas(text: str, rng: random.Random) -> list[str]:
    """Split ``text`` into portions of one to four words, as a model produces it. Joined, they are the text."""
    words = re.findall(r"\s*\S+\s*", text) or [text]
    deltas: list[str] = []
    index = 0
    while index < len(words):
        size = rng.randint(1, 4)
        deltas.append("".join(words[index : index + size]))
        index += size
    return deltas


def estimate_tokens(size: int) -> int:
    """Tokens in ``size`` bytes of text or JSON: four bytes each, never less than one."""
    return max(1, (size + 3) // 4)


def _tool_calls(prompt: Prompt) -> tuple[list[ToolCall], list[str]]:
    """The calls that the text demands, and the names of unavailable tools. Malformed markers are ignored."""
    calls: list[ToolCall] = []
    missing: list[str] = []
    decoder = json.JSONDecoder()
    for marker in _TOOL.finditer(prompt.text):
        try:
            arguments, end = decoder.raw_decode(prompt.text, marker.end())
        except (ValueError, RecursionError):
            continue
        if not isinstance(arguments, dict) or not prompt.text.startswith("]]", end):
            continue
        name = marker.group(1)
        if name in prompt.tools:
            calls.append(ToolCall(name, arguments))
        else:
            missing.append(name)
    return calls, missing


def _prose(text: str, rng: random.Random) -> str:
    if said := _SAY.search(text):
        return said.group(1)
    if length := _TOKENS.search(text):
        return " ".join(_WORDS[index % len(_WORDS)] for index in range(max(1, int(length.group(1)))))
    return " ".join(rng.sample(_SENTENCES, rng.randint(2, 5)))
