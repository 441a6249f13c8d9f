"""Items of a response: text, thoughts and tool calls, whole and as the events of a stream. Pure.

The formats are those of the published reference of the Responses API, and those that the official client reads.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ccmproxy.simulator.codex.error_answers import object_id
from ccmproxy.simulator.conversation import (
    Block,
    Said,
    Thinking,
    ToolCall,
    estimate_tokens,
    split_into_deltas,
)
from ccmproxy.simulator.request_parts import dictionaries
from ccmproxy.simulator.seals import is_sealed_by, seal

#: First byte of encrypted content.
_MARK = b"\x80"
#: Characters of arguments in one delta.
_PIECE = 12

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools in a request. ``custom``: those that take free text; ``namespaces``: tool → its namespace, if any."""

    schemas: Mapping[str, Mapping[str, Any]]
    custom: frozenset[str] = frozenset()
    namespaces: Mapping[str, str] = field(default_factory=dict)


def encrypt(account_id: str, text: str) -> str:
    """A stand-in for an encrypted thought; only the workspace named at its beginning accepts it back (F12)."""
    return base64.urlsafe_b64encode(_MARK + seal(account_id, text)).decode()


def foreign_item(document: Mapping[str, Any], account_id: str) -> str | None:
    """The id of the first item in ``input`` whose encrypted content another workspace made, or None."""
    for item in dictionaries(document.get("input")):
        content = item.get("encrypted_content")
        if not isinstance(content, str):
            continue
        try:
            sealed = base64.urlsafe_b64decode(content.encode())
        except ValueError:
            sealed = b""
        if not sealed.startswith(_MARK) or not is_sealed_by(account_id, sealed[len(_MARK) :]):
            return str(item.get("id", ""))
    return None


def build_items(
    blocks: Sequence[Block], tools: Tools, account_id: str, limit: int | None, rng: random.Random
) -> tuple[list[Item], int, int, bool]:
    """Items with the content ``blocks``, cut at ``limit`` tokens.

    Returns the items, their number of tokens, that of their reasoning tokens, and whether they were cut.
    """
    items: list[Item] = []
    used = reasoning = 0
    for block in blocks:
        match block:
            case Thinking(text):
                items.append(
                    {
                        "id": object_id("rs", rng),
                        "type": "reasoning",
                        "summary": [{"type": "summary_text", "text": text}],
                        "encrypted_content": encrypt(account_id, text),
                    }
                )
                reasoning += len(text.split())
                used += len(text.split())
            case Said(text):
                words = text.split(" ")
                if limit is not None and used + len(words) > limit:
                    words = words[: max(1, limit - used)]
                items.append(_message(" ".join(words), rng))
                used += len(words)
            case ToolCall(name, arguments):
                items.append(_call(name, arguments, tools, rng))
                used += estimate_tokens(len(msgspec.json.encode(arguments)))
        if limit is not None and used >= limit:
            return items, used, reasoning, True
    return items, used, reasoning, False


def compaction(account_id: str, rng: random.Random) -> Item:
    """The item that replaces a conversation when the client requests it with a ``compaction_trigger``."""
    return {
        "id": object_id("cmp", rng),
        "type": "compaction",
        "encrypted_content": encrypt(account_id, "a long conversation"),
    }


def item_events(item: Item, index: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """The events of an item, without sequence numbers."""
    place = {"output_index": index, "item_id": item["id"]}
    begun, within = _STREAMED.get(item["type"], _at_once)(item, place, rng)
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    yield from within
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _message(text: str, rng: random.Random) -> Item:
    return {
        "id": object_id("msg", rng),
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": text}],
    }


def _call(name: str, arguments: Mapping[str, Any], tools: Tools, rng: random.Random) -> Item:
    call_id = object_id("call", rng)[:29]
    if name in tools.custom:
        return {
            "id": object_id("ctc", rng),
            "type": "custom_tool_call",
            "status": "completed",
            "call_id": call_id,
            "input": str(arguments.get("input", "")),
            "name": name,
        }
    item = {
        "id": object_id("fc", rng),
        "type": "function_call",
        "status": "completed",
        "arguments": msgspec.json.encode(arguments).decode(),
        "call_id": call_id,
        "name": name,
    }
    if name in tools.namespaces:
        item["namespace"] = tools.namespaces[name]
    return item


# Streaming ----------------------------------------------------------------------------------------------------

_Streamed = tuple[Item, list[dict[str, Any]]]


def _at_once(item: Item, place: dict[str, Any], rng: random.Random) -> _Streamed:
    return item, []


def _stream_message(item: Item, place: dict[str, Any], rng: random.Random) -> _Streamed:
    part = item["content"][0]
    text = part["text"]
    place = {**place, "content_index": 0}
    events = [{"type": "response.content_part.added", **place, "part": {**part, "text": ""}}]
    events += [
        {"type": "response.output_text.delta", **place, "delta": delta, "logprobs": []}
        for delta in split_into_deltas(text, rng)
    ]
    events += [
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": part},
    ]
    return {**item, "status": "in_progress", "content": []}, events


def _stream_reasoning(item: Item, place: dict[str, Any], rng: random.Random) -> _Streamed:
    events: list[dict[str, Any]] = []
    for index, part in enumerate(item["summary"]):
        here = {**place, "summary_index": index}
        name = "response.reasoning_summary"
        events.append({"type": f"{name}_part.added", **here, "part": {**part, "text": ""}})
        events += [
            {"type": f"{name}_text.delta", **here, "delta": delta}
            for delta in split_into_deltas(part["text"], rng)
        ]
        events.append({"type": f"{name}_text.done", **here, "text": part["text"]})
        events.append({"type": f"{name}_part.done", **here, "part": part})
    return {**item, "summary": []}, events


def _stream_input(field: str, name: str) -> Callable[[Item, dict[str, Any], random.Random], _Streamed]:
    def stream(item: Item, place: dict[str, Any], rng: random.Random) -> _Streamed:
        text = item[field]
        events = [
            {"type": f"{name}.delta", **place, "delta": text[start : start + _PIECE]}
            for start in range(0, len(text), _PIECE)
        ]
        events.append({"type": f"{name}.done", **place, field: text})
        return {**item, "status": "in_progress", field: ""}, events

    return stream


_STREAMED = {
    "message": _stream_message,
    "reasoning": _stream_reasoning,
    "function_call": _stream_input("arguments", "response.function_call_arguments"),
    "custom_tool_call": _stream_input("input", "response.custom_tool_call_input"),
}
