"""Parts of a request's JSON that have the same format for both providers; malformed parts are ignored. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ccmproxy.simulator.replies import InvalidRequest


def decode_object(body: bytes | str, no_json: str, no_object: str) -> dict[str, Any]:
    """The JSON object in a body. Raises InvalidRequest with ``no_json`` or ``no_object`` as the message."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest(no_json) from None
    if not isinstance(document, dict):
        raise InvalidRequest(no_object)
    return document


def dictionaries(value: object) -> list[dict[str, Any]]:
    """The objects in a list; empty if ``value`` is not a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def object_of(value: object) -> dict[str, Any]:
    """``value`` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def plain_text(content: object) -> str:
    """The text of some content: the content itself if it is text, or the texts of its parts, one per line."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in dictionaries(content))


def schema_of(wanted: object, within: str | None = None) -> Mapping[str, Any] | None:
    """The schema in a format of the type ``json_schema`` (in its object ``within``); None for other formats."""
    if object_of(wanted).get("type") != "json_schema":
        return None
    holder = object_of(wanted) if within is None else object_of(object_of(wanted).get(within))
    schema = holder.get("schema")
    return schema if isinstance(schema, dict) else None


def forced_tool(
    name: str | None, schemas: Mapping[str, Mapping[str, Any]]
) -> tuple[str, Mapping[str, Any]] | None:
    """The tool that must be called, with the schema of its arguments; None if it is not available."""
    return (name, schemas[name]) if name is not None and name in schemas else None
