"""Requests like those of a coding client: heads and JSON bodies of any size, identical in every run."""

from __future__ import annotations

import json
import random

#: The token that a user of the measured proxies sends, and the one that the proxies replace it by.
CLIENT_TOKEN = "bench-token"
UPSTREAM_TOKEN = "sk-ant-oat01-bench-upstream"

_DEVICE = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"
_ACCOUNT = "8a1d5f1e-70a5-4c7b-9a55-3f1a4c1f7d10"
_SESSION = "cab700d1-cd2a-45bf-9d07-8904dd86bb68"
_MODEL = "claude-opus-4-5-20251101"

_WORDS = (
    "return value error response request stream buffer offset length index window frame header field parse until "
    "connection timeout retry session account token limit reset usage model message content block delta event state "
    "self None True False import from class def async await with for in if else not and or lambda yield raise except "
    "naïve café größer → … “quoted” 日本語 path/to/file.py 0x7f 1024 3.14"
).split()

_TOOLS = (
    "Bash",
    "Read",
    "Write",
    "Edit",
    "Glob",
    "Grep",
    "Agent",
    "WebFetch",
    "WebSearch",
    "TodoWrite",
    "NotebookEdit",
)


def request(body: bytes, token: str = CLIENT_TOKEN) -> bytes:
    """The whole HTTP/1.1 request, head and body, with the header fields that the client sends."""
    head = (
        "POST /v1/messages?beta=true HTTP/1.1\r\n"
        "Accept: application/json\r\n"
        f"Authorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\n"
        "User-Agent: claude-cli/2.1.330 (external, sdk-cli)\r\n"
        f"X-Claude-Code-Session-Id: {_SESSION}\r\n"
        "X-Stainless-Arch: x64\r\nX-Stainless-Lang: js\r\nX-Stainless-OS: Linux\r\n"
        "X-Stainless-Package-Version: 0.128.0\r\nX-Stainless-Retry-Count: 0\r\n"
        "X-Stainless-Runtime: node\r\nX-Stainless-Runtime-Version: v26.12.1\r\nX-Stainless-Timeout: 600\r\n"
        "anthropic-beta: claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,"
        "effort-2025-11-24\r\n"
        "anthropic-dangerous-direct-browser-access: true\r\n"
        "anthropic-version: 2023-06-01\r\n"
        "x-app: cli\r\n"
        "Connection: keep-alive\r\n"
        "Host: 127.0.0.1\r\n"
        "Accept-Encoding: gzip, deflate, br, zstd\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def websocket_request(message: bytes, token: str = CLIENT_TOKEN) -> bytes:
    """A Codex client's WebSocket handshake, without compression, and the message to send once it is accepted."""
    head = (
        "GET /v1/responses HTTP/1.1\r\n"
        "Host: 127.0.0.1\r\n"
        "Connection: Upgrade\r\n"
        "Upgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Authorization: Bearer {token}\r\n"
        "OpenAI-Beta: responses_websockets=2026-02-06\r\n"
        "originator: codex_cli_rs\r\n"
        f"session_id: {_SESSION}\r\n\r\n"
    )
    return head.encode() + message


def turn_message(size: int) -> bytes:
    """The message that begins a turn on a Codex client's WebSocket, of some 300 bytes, or of about ``size``."""
    source = random.Random(size)
    items: list[dict[str, object]] = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "quota"}]}
    ]
    document = {
        "type": "response.create",
        "model": "gpt-5.1-codex",
        "instructions": "Answer shortly.",
        "input": items,
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "store": False,
        "stream": True,
        "prompt_cache_key": _SESSION,
    }
    missing = size - len(_encode(document))
    while missing > 0:
        item: dict[str, object] = {
            "type": "function_call_output",
            "call_id": f"call_{len(items):024d}",
            "output": _text(source, min(missing, 24_000)),
        }
        items.append(item)
        missing -= len(_encode(item)) + 1
    return _encode(document)


def small_body() -> bytes:
    """The client's quota probe: some 300 bytes, with a response that is not streamed."""
    return _encode(
        {
            "model": _MODEL,
            "max_tokens": 1,
            "messages": [{"role": "user", "content": "quota"}],
            "metadata": {"user_id": _user_id()},
        }
    )


def conversation_body(size: int, stream: bool) -> bytes:
    """A turn late in a session: system prompt, tools, and enough history that the body has about ``size`` bytes."""
    source = random.Random(size)
    messages: list[dict[str, object]] = []
    document = {
        "model": _MODEL,
        "messages": messages,
        "system": [
            {
                "type": "text",
                "text": "x-anthropic-billing-header: cc_version=2.1.330.572; cc_entrypoint=sdk-cli;",
            },
            {"type": "text", "text": _text(source, size // 20), "cache_control": {"type": "ephemeral"}},
        ],
        "tools": [_tool(source, name, size // 60) for name in _TOOLS],
        "metadata": {"user_id": _user_id()},
        "max_tokens": 128000,
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"},
        "stream": stream,
    }
    missing = size - len(_encode(document))
    while missing > 0:
        turn = _turn(source, len(messages), min(missing, 24_000))
        messages.extend(turn)
        missing -= sum(len(_encode(message)) + 1 for message in turn)
    return _encode(document)


def _turn(source: random.Random, number: int, size: int) -> list[dict[str, object]]:
    """A tool call of the assistant, and the user message with its result."""
    identifier = f"toolu_{number:024d}"
    name = source.choice(_TOOLS)
    return [
        {
            "role": "user",
            "content": [{"type": "text", "text": _text(source, size // 20)}],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": _text(source, size // 10), "signature": "Eq" + "x" * 120},
                {"type": "text", "text": _text(source, size // 20)},
                {
                    "type": "tool_use",
                    "id": identifier,
                    "name": name,
                    "input": {"command": _text(source, size // 40)},
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": identifier, "content": _text(source, size * 13 // 20)},
            ],
        },
    ]


def _tool(source: random.Random, name: str, size: int) -> dict[str, object]:
    properties = {
        f"argument_{number}": {"type": "string", "description": _text(source, 60)} for number in range(4)
    }
    return {
        "name": name,
        "description": _text(source, size),
        "input_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": properties,
            "required": ["argument_0"],
            "additionalProperties": False,
        },
    }


def _text(source: random.Random, size: int) -> str:
    """Text similar to code and prose: lines, indentation, quotes, a few characters outside ASCII."""
    parts: list[str] = []
    length = 0
    while length < size:
        line = " " * source.choice((0, 4, 8)) + " ".join(source.choices(_WORDS, k=source.randint(3, 14)))
        parts.append(line + source.choice(("", ":", '"', "\\", "\t# x")))
        length += len(parts[-1]) + 1
    return "\n".join(parts)


def _user_id() -> str:
    return json.dumps(
        {"device_id": _DEVICE, "account_uuid": _ACCOUNT, "session_id": _SESSION}, separators=(",", ":")
    )


def _encode(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
