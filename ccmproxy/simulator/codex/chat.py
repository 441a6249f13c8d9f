"""Chat completions of the OpenAI API: from requests to prompts, from turns to a whole response or chunks. Pure.

The formats are those of the published reference.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ccmproxy.dialects.usage import Tokens
from ccmproxy.simulator.codex.error_answers import object_id
from ccmproxy.simulator.conversation import Block, Prompt, Said, ToolCall, estimate_tokens, split_into_deltas
from ccmproxy.simulator.replies import InvalidRequest
from ccmproxy.simulator.request_parts import dictionaries, forced_tool, object_of, plain_text, schema_of

_PIECE = 12
_DONE = b"data: [DONE]\n\n"


def check(document: Mapping[str, Any]) -> None:
    """Check for the mistakes that a client can make. Raises InvalidRequest."""
    for name, kind in (("model", str), ("messages", list)):
        if name not in document:
            raise InvalidRequest(f"Missing required parameter: '{name}'.")
        if not isinstance(document[name], kind):
            raise InvalidRequest(f"Invalid type for '{name}'.")
    if not document["messages"]:
        raise InvalidRequest("Invalid 'messages': empty array.")


def read_prompt(document: Mapping[str, Any]) -> Prompt:
    """The end of the conversation: results of tools, or else the last user message; never fails."""
    text: list[str] = []
    results: list[str] = []
    for message in reversed(dictionaries(document.get("messages"))):
        if message.get("role") == "tool":
            results.append(plain_text(message.get("content")))
            continue
        if message.get("role") == "user" and not results:
            text.append(plain_text(message.get("content")))
        if message.get("role") == "user" or results:
            break
    functions = {
        str(function.get("name")): function
        for tool in dictionaries(document.get("tools"))
        if isinstance(function := tool.get("function"), dict)
    }
    return Prompt(
        "\n".join(text),
        tuple(reversed(results)),
        frozenset(functions),
        schema_of(document.get("response_format"), "json_schema"),
        _forced_tool(document.get("tool_choice"), functions),
    )


@dataclass(slots=True)
class Completion:
    """A chat completion. ``created_at``: Unix seconds."""

    identity: str
    created_at: int
    model: str
    text: str | None
    calls: list[dict[str, Any]]
    tokens: Tokens
    is_cut: bool

    @property
    def finish_reason(self) -> str:
        """Why it ended."""
        if self.is_cut:
            return "length"
        return "tool_calls" if self.calls else "stop"

    def whole(self) -> bytes:
        """The completion as a JSON object."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": self.text,
            "refusal": None,
            "annotations": [],
        }
        if self.calls:
            message["tool_calls"] = self.calls
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": self.finish_reason,
        }
        return msgspec.json.encode(
            {**self._envelope("chat.completion"), "choices": [choice], "usage": self._usage()}
        )

    def events(self, rng: random.Random, *, include_usage: bool) -> list[bytes]:
        """The completion as a stream, each event complete; with a final chunk of usage if requested."""
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": "", "refusal": None}]
        if self.text is not None:
            deltas += [{"content": text} for text in split_into_deltas(self.text, rng)]
        for index, call in enumerate(self.calls):
            arguments = call["function"]["arguments"]
            begun = {**call, "function": {**call["function"], "arguments": ""}}
            deltas.append({"tool_calls": [{"index": index, **begun}]})
            deltas += [
                {
                    "tool_calls": [
                        {"index": index, "function": {"arguments": arguments[start : start + _PIECE]}}
                    ]
                }
                for start in range(0, len(arguments), _PIECE)
            ]
        chunks: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]}
            for delta in deltas
        ]
        last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": self.finish_reason}
        chunks.append({"choices": [last]})
        if include_usage:
            chunks = [{**chunk, "usage": None} for chunk in chunks]
            chunks.append({"choices": [], "usage": self._usage()})
        envelope = self._envelope("chat.completion.chunk")
        return [b"data: %s\n\n" % msgspec.json.encode({**envelope, **chunk}) for chunk in chunks] + [_DONE]

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.identity,
            "object": kind,
            "created": self.created_at,
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": None,
        }

    def _usage(self) -> dict[str, Any]:
        tokens = self.tokens
        return {
            "prompt_tokens": tokens.total_input,
            "completion_tokens": tokens.output,
            "total_tokens": tokens.total_input + tokens.output,
            "prompt_tokens_details": {"cached_tokens": tokens.cache_read, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": tokens.reasoning, "audio_tokens": 0},
        }


def error_event(kind: str) -> bytes:
    """An error inside a stream."""
    document = {"error": {"message": "The server had an error", "type": "server_error", "code": kind}}
    return b"data: %s\n\n" % msgspec.json.encode(document)


def build_completion(
    document: Mapping[str, Any],
    blocks: Sequence[Block],
    input_tokens: Tokens,
    now: float,
    rng: random.Random,
) -> Completion:
    """The completion with the content ``blocks``, cut at the request's limit; thoughts are only counted."""
    limit = document.get("max_completion_tokens") or document.get("max_tokens")
    text: str | None = None
    calls: list[dict[str, Any]] = []
    used = reasoning = 0
    is_cut = False
    for block in blocks:
        match block:
            case Said(said):
                words = said.split(" ")
                if isinstance(limit, int) and used + len(words) > limit:
                    words = words[: max(1, limit - used)]
                    is_cut = True
                text = " ".join(words)
                used += len(words)
            case ToolCall(name, arguments):
                encoded = msgspec.json.encode(arguments).decode()
                function = {"name": name, "arguments": encoded}
                calls.append({"id": object_id("call", rng)[:29], "type": "function", "function": function})
                used += estimate_tokens(len(encoded))
            case _:
                reasoning += len(block.text.split())
                used += len(block.text.split())
    tokens = Tokens(
        input=input_tokens.input,
        cache_read=input_tokens.cache_read,
        output=used,
        reasoning=reasoning,
    )
    identity = object_id("chatcmpl", rng).replace("_", "-")[:38]
    return Completion(identity, int(now), str(document["model"]), text, calls, tokens, is_cut)


def _forced_tool(
    choice: object, functions: Mapping[str, Mapping[str, Any]]
) -> tuple[str, Mapping[str, Any]] | None:
    """The function that ``tool_choice`` demands, with the schema of its arguments; None if the model may choose."""
    if choice == "required" and functions:
        name = next(iter(functions))
    elif isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        name = str(choice["function"].get("name"))
    else:
        return None
    return forced_tool(name, {known: object_of(said.get("parameters")) for known, said in functions.items()})
