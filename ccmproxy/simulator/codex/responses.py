"""The Responses API: from requests to prompts, from items to a whole response or its events. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ccmproxy.dialects.usage import Tokens
from ccmproxy.simulator.codex.error_answers import failure
from ccmproxy.simulator.codex.items import Item, Tools, item_events
from ccmproxy.simulator.conversation import Prompt, estimate_tokens
from ccmproxy.simulator.remembered_prefixes import RememberedPrefixes
from ccmproxy.simulator.replies import InvalidRequest
from ccmproxy.simulator.request_parts import dictionaries, forced_tool, object_of, plain_text, schema_of

#: Smallest prompt that is cached, and the step in which longer ones are (tokens).
_CACHE_FROM = 1024
_CACHE_STEP = 128
_CACHE_LIFETIME = 600.0
_REMEMBERED_PREFIXES = 2000

#: Parameters of a request that are repeated in the response, with their defaults.
_ECHOED: Mapping[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 0.98,
    "truncation": "disabled",
    "user": None,
}


def check(document: Mapping[str, Any]) -> None:
    """Check for the mistakes that a client can make. Raises InvalidRequest."""
    for name, kinds in (("model", (str,)), ("input", (str, list))):
        if name not in document:
            raise InvalidRequest(f"Missing required parameter: '{name}'.")
        if not isinstance(document[name], kinds):
            raise InvalidRequest(f"Invalid type for '{name}'.")
    limit = document.get("max_output_tokens")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise InvalidRequest("Invalid 'max_output_tokens'.")


def check_backend(document: Mapping[str, Any], *, stream: bool = True) -> None:
    """Check the further requirements of ChatGPT's backend, as users reported them. Raises InvalidRequest."""
    if stream and document.get("stream") is not True:
        raise InvalidRequest("Stream must be set to true")
    if document.get("store") is not False:
        raise InvalidRequest("Store must be set to false")
    if not isinstance(document.get("input"), list):
        raise InvalidRequest("Input must be a list")
    for name in ("max_output_tokens", "temperature", "top_p", "metadata"):
        if name in document:
            raise InvalidRequest(f"Unsupported parameter: {name}")


def read_prompt(document: Mapping[str, Any]) -> Prompt:
    """The end of the input: results of tools since the last user message, or else that message. Never fails.

    Model output after that message is left over from a stream that broke off, and is ignored.
    """
    text: list[str] = []
    results: list[str] = []
    whole = document.get("input")
    if isinstance(whole, str):
        text.append(whole)
    for item in reversed(dictionaries(whole)):
        kind = item.get("type", "message")
        if kind in ("function_call_output", "custom_tool_call_output"):
            results.append(plain_text(item.get("output")))
        elif kind == "message" and item.get("role") == "user":
            if not results:
                text.append(plain_text(item.get("content")))
            break
    tools = read_tools(document)
    return Prompt(
        "\n".join(text),
        tuple(reversed(results)),
        frozenset(tools.schemas),
        schema_of(object_of(document.get("text")).get("format")),
        _forced_tool(document.get("tool_choice"), tools),
    )


def read_tools(document: Mapping[str, Any]) -> Tools:
    """The tools of a request: functions, custom tools that take free text, and tools within a namespace."""
    schemas: dict[str, Mapping[str, Any]] = {}
    custom: set[str] = set()
    namespaces: dict[str, str] = {}
    for tool in dictionaries(document.get("tools")):
        if tool.get("type") == "namespace":
            for inner in dictionaries(tool.get("tools")):
                namespaces[str(inner.get("name"))] = str(tool.get("name"))
                schemas[str(inner.get("name"))] = object_of(inner.get("parameters"))
        elif "name" in tool:
            name = str(tool["name"])
            schemas[name] = object_of(tool.get("parameters"))
            if tool.get("type") == "custom":
                custom.add(name)
    return Tools(schemas, frozenset(custom), namespaces)


def wants_compaction(document: Mapping[str, Any]) -> bool:
    """Whether the client requests that its conversation be replaced by a single item."""
    items = dictionaries(document.get("input"))
    return bool(items) and items[-1].get("type") == "compaction_trigger"


def conversation_key(session: bytes | None, document: Mapping[str, Any]) -> str:
    """A key for the conversation: the session header, else the cache key of the request."""
    if session:
        return session.decode("latin-1")
    key = document.get("prompt_cache_key")
    return key if isinstance(key, str) else ""


class PromptCache:
    """Remembers how much of each conversation was seen, so that the next request finds it in the cache."""

    def __init__(self) -> None:
        self._prefixes = RememberedPrefixes(_REMEMBERED_PREFIXES)

    def tokens(self, key: tuple[str, ...], size: int, now: float) -> Tokens:
        """Input tokens of a prompt of ``size`` bytes, with the cached ones counted separately."""
        total = estimate_tokens(size)
        seen = self._prefixes.renew(key, total, now, _CACHE_LIFETIME)
        cached = min(seen, total - 1) // _CACHE_STEP * _CACHE_STEP
        if cached < _CACHE_FROM:
            cached = 0
        return Tokens(input=total - cached, cache_read=cached)


@dataclass(slots=True)
class Response:
    """A response. ``created_at``: Unix seconds. ``tokens``: of the whole response. ``is_cut``: by max_output_tokens."""

    identity: str
    created_at: int
    request: Mapping[str, Any]
    items: list[Item]
    tokens: Tokens
    is_cut: bool = False

    @property
    def model(self) -> str:
        """The model that was asked for."""
        return str(self.request.get("model", ""))

    @property
    def status(self) -> str:
        """The status at the end of the response."""
        return "incomplete" if self.is_cut else "completed"

    def document(self) -> dict[str, Any]:
        """The whole response as one object."""
        return self._envelope(self.status, self.items, _usage(self.tokens))

    def whole(self) -> bytes:
        """The same as JSON."""
        return msgspec.json.encode(self.document())

    def events(self, rng: random.Random) -> list[dict[str, Any]]:
        """The response as a stream of events, numbered."""
        begun = self._envelope("in_progress", [], None)
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": begun},
            {"type": "response.in_progress", "response": begun},
        ]
        for index, item in enumerate(self.items):
            events.extend(item_events(item, index, rng))
        events.append({"type": f"response.{self.status}", "response": self.document()})
        return [
            {"type": event["type"], "sequence_number": number, **event} for number, event in enumerate(events)
        ]

    def failed_event(self, kind: str) -> dict[str, Any]:
        """The last event of a stream that fails with ``kind``, an error code."""
        response = {**self._envelope("failed", [], None), "error": failure(kind)}
        return {"type": "response.failed", "sequence_number": 99, "response": response}

    def _envelope(self, status: str, output: list[Item], usage: dict[str, Any] | None) -> dict[str, Any]:
        request = self.request
        reasoning = object_of(request.get("reasoning"))
        return {
            "id": self.identity,
            "object": "response",
            "created_at": self.created_at,
            "status": status,
            "completed_at": None if usage is None else self.created_at + 1,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            **{
                name: default if request.get(name) is None else request[name]
                for name, default in _ECHOED.items()
            },
            "model": self.model,
            "output": output,
            "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
            "usage": usage,
        }


def sse(event: Mapping[str, Any]) -> bytes:
    """One event of a response in the format of an event stream."""
    return b"event: %s\ndata: %s\n\n" % (event["type"].encode(), msgspec.json.encode(event))


def _usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "input_tokens": tokens.total_input,
        "input_tokens_details": {"cached_tokens": tokens.cache_read},
        "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": tokens.total_input + tokens.output,
    }


def _forced_tool(choice: object, tools: Tools) -> tuple[str, Mapping[str, Any]] | None:
    """The tool that ``tool_choice`` demands, with the schema of its arguments; None if the model may choose."""
    if not tools.schemas:
        return None
    if choice == "required":
        name = next(iter(tools.schemas))
    elif isinstance(choice, dict) and choice.get("type") in ("function", "custom"):
        name = str(choice.get("name"))
    else:
        return None
    return forced_tool(name, tools.schemas)
