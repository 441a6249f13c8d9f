"""Values out of JSON that others wrote: one of the wrong kind counts as one that was not said. Nothing here raises."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, TypeVar

import msgspec

#: Everything that decoding foreign JSON raises.
DECODE_ERRORS = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
#: A field that is not there. (Raw cannot be one of several types.)
NO_JSON = msgspec.Raw()

text_decoder = msgspec.json.Decoder(str)

_T = TypeVar("_T")


def text(value: object) -> str | None:
    """``value`` if it is a string that is not empty."""
    return value if isinstance(value, str) and value else None


def number(value: object) -> float | None:
    """``value`` as a finite float; None for anything that is no number, booleans included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def moment(value: object) -> float | None:
    """The Unix seconds of a text in RFC 3339; None for anything else.

    One without an offset is not taken either: it would be read in the machine's own zone.
    """
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
        return found.timestamp() if found.tzinfo else None
    except (ValueError, OverflowError):
        return None


def json_object(document: bytes) -> dict[str, Any] | None:
    """The JSON object that ``document`` is; None where it is none."""
    try:
        found = msgspec.json.decode(document)
    except DECODE_ERRORS:
        return None
    return found if isinstance(found, dict) else None


def read_raw(raw: msgspec.Raw, decoder: msgspec.json.Decoder[_T]) -> _T | None:
    """The value of a field that was kept undecoded; None where it is missing or of another type."""
    if not bytes(raw):  # missing, as most are: quicker than the exception
        return None
    try:
        return decoder.decode(raw)
    except DECODE_ERRORS:
        return None
