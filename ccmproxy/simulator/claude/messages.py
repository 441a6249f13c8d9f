"""The messages endpoint: from a request body to a prompt, from a turn to a message or its events. Pure."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ccmproxy.dialects.usage import Tokens
from ccmproxy.simulator.claude.error_answers import object_id
from ccmproxy.simulator.conversation import (
    Block,
    Prompt,
    Said,
    Thinking,
    ToolCall,
    estimate_tokens,
    split_into_deltas,
)
from ccmproxy.simulator.remembered_prefixes import RememberedPrefixes
from ccmproxy.simulator.replies import InvalidRequest
from ccmproxy.simulator.request_parts import (
    decode_object,
    dictionaries,
    forced_tool,
    object_of,
    plain_text,
    schema_of,
)
from ccmproxy.simulator.seals import is_sealed_by, seal

_FIVE_MINUTES = 300.0
_HOUR = 3600.0
_REMEMBERED_PREFIXES = 1000
#: Tokens after the last cache mark of a request, which are never read from the cache.
_UNCACHED_TOKENS = 4

PING = b'event: ping\ndata: {"type": "ping"}\n\n'


def decode_body(body: bytes) -> dict[str, Any]:
    """The request as a dictionary. Raises InvalidRequest."""
    return decode_object(body, "The request body is not valid JSON", "Input should be a valid dictionary")


def check(document: Mapping[str, Any], *, counting: bool = False) -> None:
    """Check for the mistakes that a client can make. Raises InvalidRequest. ``counting``: for count_tokens."""
    for field, kind in (("model", str), ("messages", list), ("max_tokens", int)):
        if field == "max_tokens" and counting:
            continue
        if field not in document:
            raise InvalidRequest(f"{field}: Field required")
        if not isinstance(document[field], kind):
            raise InvalidRequest(f"{field}: Input should be a valid {kind.__name__}")
    if not document["messages"]:
        raise InvalidRequest("messages: at least one message is required")
    for index, message in enumerate(document["messages"]):
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
            raise InvalidRequest(f"messages.{index}.role: Input should be 'user' or 'assistant'")


def read_prompt(document: Mapping[str, Any]) -> Prompt:
    """The content of the last user message; never fails: parts of an unknown type are skipped."""
    text: list[str] = []
    results: list[str] = []
    for message in reversed(dictionaries(document.get("messages"))):
        if message.get("role") != "user":
            continue
        content = message.get("content")
        if isinstance(content, str):
            text.append(content)
        for block in dictionaries(content):
            if block.get("type") == "text":
                text.append(str(block.get("text", "")))
            elif block.get("type") == "tool_result":
                results.append(plain_text(block.get("content")))
        break
    tools = {str(tool.get("name")): tool for tool in dictionaries(document.get("tools"))}
    forced = _forced_tool(document, tools)
    return Prompt("\n".join(text), tuple(results), frozenset(tools), _schema(document), forced)


def conversation_key(session: bytes | None, document: Mapping[str, Any]) -> str:
    """A key for the conversation: the session header, else the metadata, else the first message."""
    if session:
        return session.decode("latin-1")
    metadata = document.get("metadata")
    if isinstance(metadata, dict) and isinstance(metadata.get("user_id"), str):
        return str(metadata["user_id"])
    messages = document.get("messages")
    first = messages[0] if isinstance(messages, list) and messages else None
    return hashlib.sha256(msgspec.json.encode(first)).hexdigest()


class PromptCache:
    """Remembers what each conversation has written to the prompt cache, so that later turns read it from there."""

    def __init__(self) -> None:
        self._prefixes = RememberedPrefixes(_REMEMBERED_PREFIXES)

    def tokens(self, key: tuple[str, ...], body: bytes, now: float) -> Tokens:
        """Input tokens of a request with ``body``; uses the cache only if the body asks for it."""
        total = estimate_tokens(len(body))
        if b'"cache_control"' not in body:
            return Tokens(input=total)
        lifetime = _HOUR if b'"ttl":"1h"' in body or b'"ttl": "1h"' in body else _FIVE_MINUTES
        cacheable = max(total - _UNCACHED_TOKENS, 0)
        read = min(self._prefixes.renew(key, cacheable, now, lifetime), cacheable)
        written = cacheable - read
        return Tokens(
            input=total - cacheable,
            cache_read=read,
            cache_creation=written,
            cache_creation_5m=0 if lifetime == _HOUR else written,
            cache_creation_1h=written if lifetime == _HOUR else 0,
        )


@dataclass(slots=True)
class AnswerMessage:
    """A model's message, ready to be written as one JSON object or as events."""

    identity: str
    model: str
    content: list[dict[str, Any]]
    stop_reason: str
    input: Tokens
    output_tokens: int
    context_management: bool

    def whole(self) -> bytes:
        """The message as a JSON object."""
        usage = {**self._input_usage(), "output_tokens": self.output_tokens, **_SERVICE}
        return msgspec.json.encode(self._envelope(self.content, self.stop_reason, usage))

    def events(self, rng: random.Random) -> list[bytes]:
        """The message as the events of a stream, each one complete."""
        events: list[bytes] = []

        def emit(name: str, **fields: object) -> None:
            events.append(event(name, {"type": name, **fields}, rng))

        usage = {**self._input_usage(), "output_tokens": 1, **_SERVICE}
        emit("message_start", message=self._envelope([], None, usage))
        for index, block in enumerate(self.content):
            start, deltas = _streamed(block, rng)
            emit("content_block_start", index=index, content_block=start)
            if not index:
                events.append(PING)
            for delta in deltas:
                emit("content_block_delta", index=index, delta=delta)
            emit("content_block_stop", index=index)
        final_usage = self._input_usage()
        del final_usage["cache_creation"]
        final: dict[str, object] = {
            "delta": {"stop_reason": self.stop_reason, "stop_sequence": None},
            "usage": {**final_usage, "output_tokens": self.output_tokens},
        }
        if self.context_management:
            final["context_management"] = {"applied_edits": []}
        emit("message_delta", **final)
        emit("message_stop")
        return events

    def _input_usage(self) -> dict[str, Any]:
        tokens = self.input
        return {
            "input_tokens": tokens.input,
            "cache_creation_input_tokens": tokens.cache_creation,
            "cache_read_input_tokens": tokens.cache_read,
            "cache_creation": {
                "ephemeral_5m_input_tokens": tokens.cache_creation_5m,
                "ephemeral_1h_input_tokens": tokens.cache_creation_1h,
            },
        }

    def _envelope(
        self, content: list[dict[str, Any]], stop_reason: str | None, usage: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "model": self.model,
            "id": self.identity,
            "type": "message",
            "role": "assistant",
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": usage,
        }


_SERVICE = {"service_tier": "standard", "inference_geo": "not_available"}


def build_message(
    document: Mapping[str, Any],
    blocks: Sequence[Block],
    tokens: Tokens,
    sign: Callable[[str], str],
    rng: random.Random,
) -> AnswerMessage:
    """The message with the content ``blocks``, cut at the request's max_tokens. ``sign``: thought → signature."""
    limit = max(1, int(document["max_tokens"]))
    content: list[dict[str, Any]] = []
    used = 0
    stop_reason = "end_turn"
    for block in blocks:
        match block:
            case Thinking(text):
                content.append({"type": "thinking", "thinking": text, "signature": sign(text)})
                used += len(text.split())
            case Said(text):
                words = text.split(" ")
                if used + len(words) > limit:
                    text = " ".join(words[: max(1, limit - used)])
                content.append({"type": "text", "text": text})
                used += len(text.split(" "))
            case ToolCall(name, arguments):
                identity = object_id("toolu", rng)
                content.append({"type": "tool_use", "id": identity, "name": name, "input": dict(arguments)})
                used += estimate_tokens(len(msgspec.json.encode(arguments)))
                stop_reason = "tool_use"
        if used >= limit:
            stop_reason = "max_tokens"
            break
    return AnswerMessage(
        object_id("msg", rng),
        str(document["model"]),
        content,
        stop_reason,
        tokens,
        used,
        "context_management" in document,
    )


def event(name: str, document: Mapping[str, Any], rng: random.Random) -> bytes:
    """One event of the stream, padded with spaces at a varying place and to a varying length, like the real ones."""
    data = msgspec.json.encode(document)
    return b"event: %s\ndata: %s%s}\n\n" % (name.encode(), data[:-1], b" " * rng.randrange(12))


def error_event(kind: str) -> bytes:
    """An error inside a stream."""
    message = "Overloaded" if kind == "overloaded_error" else "Internal server error"
    document = {"type": "error", "error": {"details": None, "type": kind, "message": message}}
    return b"event: error\ndata: %s\n\n" % msgspec.json.encode(document)


def sign_thought(organization: str, text: str) -> str:
    """The signature of a thought: its first half identifies the organization, which alone accepts it back (F12)."""
    return base64.b64encode(seal(organization, text)).decode()


def foreign_thought(document: Mapping[str, Any], organization: str) -> tuple[int, int] | None:
    """Position of a thought in the conversation that another organization signed: message and block, or None."""
    for number, message in enumerate(dictionaries(document.get("messages"))):
        for index, block in enumerate(dictionaries(message.get("content"))):
            if block.get("type") != "thinking":
                continue
            try:
                signed = base64.b64decode(str(block.get("signature", "")), validate=True)
            except ValueError:
                signed = b""
            if not is_sealed_by(organization, signed):
                return number, index
    return None


def _streamed(block: dict[str, Any], rng: random.Random) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The start of a block in a stream, and the deltas that complete it."""
    match block["type"]:
        case "text":
            deltas = [{"type": "text_delta", "text": text} for text in split_into_deltas(block["text"], rng)]
            return {"type": "text", "text": ""}, deltas
        case "thinking":
            deltas = [
                {"type": "thinking_delta", "thinking": text}
                for text in split_into_deltas(block["thinking"], rng)
            ]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {"type": "thinking", "thinking": "", "signature": ""}, deltas
        case _:
            arguments = msgspec.json.encode(block["input"]).decode()
            pieces = [arguments[start : start + 12] for start in range(0, len(arguments), 12)]
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *pieces]]
            return {**block, "input": {}}, deltas


def _schema(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The JSON schema in ``output_config.format`` (or ``output_format``), if the request has one."""
    configuration = document.get("output_config")
    if isinstance(configuration, dict):
        return schema_of(configuration.get("format"))
    return schema_of(document.get("output_format"))


def _forced_tool(
    document: Mapping[str, Any], tools: Mapping[str, Mapping[str, Any]]
) -> tuple[str, Mapping[str, Any]] | None:
    """The tool that ``tool_choice`` demands, with the schema of its input; None if the model may choose."""
    choice = document.get("tool_choice")
    if not isinstance(choice, dict) or not tools:
        return None
    match choice.get("type"):
        case "any":
            name = next(iter(tools))
        case "tool":
            name = str(choice.get("name"))
        case _:
            return None
    return forced_tool(name, {tool: object_of(said.get("input_schema")) for tool, said in tools.items()})
