"""The list of models at ``GET /models``, in the formats of Codex and of the OpenAI SDK at once. Pure."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

#: Models that are listed: id → display name. Any model whose name begins with one of PREFIXES is served.
MODELS = {
    "gpt-6.1-sol": "GPT-6.1-Sol",
    "gpt-5.5": "GPT-5.5",
    "gpt-5.4": "GPT-5.4",
    "gpt-5.4-mini": "GPT-5.4 Mini",
    "gpt-5.3-codex-spark": "GPT-5.3-Codex-Spark",
}

PREFIXES = ("gpt-", "o3", "o4", "codex-")

_EFFORTS = {"low": "Fast", "medium": "Balanced", "high": "Thorough"}


def is_served(model: str) -> bool:
    """Whether this model is served."""
    return model.startswith(PREFIXES)


def catalog() -> tuple[bytes, bytes]:
    """The body that satisfies both kinds of clients, and its ETag."""
    body = msgspec.json.encode(
        {
            "object": "list",
            "data": [model_document(model) for model in MODELS],
            "models": [
                _codex_model(model, name, priority) for priority, (model, name) in enumerate(MODELS.items())
            ],
        }
    )
    return body, b'W/"%s"' % hashlib.sha256(body).hexdigest()[:32].encode()


def model_document(model: str) -> dict[str, Any]:
    """A model as the OpenAI API describes it."""
    return {"id": model, "object": "model", "created": 1_780_000_000, "owned_by": "system"}


def _codex_model(model: str, name: str, priority: int) -> dict[str, Any]:
    """A model as ChatGPT's backend describes it: the fields that the client requires, and few others."""
    return {
        "slug": model,
        "display_name": name,
        "description": f"The simulated {name}.",
        "default_reasoning_level": "medium",
        "supported_reasoning_levels": [
            {"effort": effort, "description": description} for effort, description in _EFFORTS.items()
        ],
        "shell_type": "unified_exec",
        "visibility": "list",
        "supported_in_api": True,
        "priority": priority,
        "upgrade": None,
        "availability_nux": None,
        "base_instructions": "You are a coding agent. Be brief.",
        "supports_reasoning_summaries": True,
        "support_verbosity": True,
        "default_verbosity": "low",
        "apply_patch_tool_type": "freeform",
        "truncation_policy": {"mode": "tokens", "limit": 10000},
        "supports_parallel_tool_calls": True,
        "context_window": 272000,
        "experimental_supported_tools": [],
        "input_modalities": ["text"],
    }
