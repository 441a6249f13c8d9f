"""Reads answers as a client does: the text of the model, whether its end is there, or a failure in its place. Pure."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Reading:
    """``text``: of the model. ``is_complete``: the final event is there. ``failed``: a failure was told instead."""

    text: str
    is_complete: bool
    failed: bool


def read_whole(service: str, body: bytes, coding: str = "") -> Reading:
    """Read an answer that is no stream. ``coding``: its Content-Encoding, empty or ``gzip``."""
    try:
        document = json.loads(decoded(body, coding))
    except (ValueError, zlib.error):
        return Reading("", False, False)
    if not isinstance(document, dict):
        return Reading("", False, False)
    parts = document.get("content", []) if service == "claude" else []
    text = "".join(part.get("text", "") for part in parts if isinstance(part, dict))
    return Reading(text, document.get("stop_reason") is not None, document.get("type") == "error")


def read_stream(service: str, body: bytes, coding: str = "") -> Reading:
    """Read a stream of server-sent events, whole or not."""
    try:
        plain = decoded(body, coding)
    except zlib.error:
        return Reading("", False, False)
    events: list[dict[str, Any]] = []
    for block in plain.split(b"\n\n"):
        data = b"\n".join(line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:"))
        try:
            event = json.loads(data)
        except ValueError:
            continue  # a comment, or the cut end of a stream
        if isinstance(event, dict):
            events.append(event)
    return read_events(service, events)


def read_events(service: str, events: list[dict[str, Any]]) -> Reading:
    """Read the events of a stream, or the messages of one turn on a WebSocket.

    The beginning and the end of an answer may be there only once: what comes twice is not complete.
    """
    kinds = [event.get("type") for event in events]
    if service == "claude":
        text = "".join(
            event["delta"].get("text", "") for event in events if event.get("type") == "content_block_delta"
        )
        complete = kinds.count("message_start") == kinds.count("message_stop") == 1
        return Reading(text, complete and kinds[-1] == "message_stop", "error" in kinds)
    text = "".join(event["delta"] for event in events if event.get("type") == "response.output_text.delta")
    complete = kinds.count("response.created") == kinds.count("response.completed") == 1
    return Reading(text, complete, "error" in kinds or "response.failed" in kinds)


def decoded(body: bytes, coding: str) -> bytes:
    """Return the body without its coding, as far as it came. Raises zlib.error when it is broken."""
    return zlib.decompressobj(wbits=31).decompress(body) if coding == "gzip" else body
