"""Values from JSON that others wrote: a value of the wrong type counts as missing. Nothing here raises."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, TypeVar

import msgspec

#: Everything that decoding foreign JSON raises.
DECODE_ERRORS = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
#: The default of a field that is missing. (A Raw field cannot be optional.)
NO_JSON = msgspec.Raw()

#: Decodes any JSON. Python reads its numbers, because msgspec takes up to 20 µs for one with a large exponent (F63).
any_decoder = msgspec.json.Decoder(float_hook=float)
#: The largest document of which everything is built, at 20 to 30 ns per byte (bytes). Reports and refusals have a few
#: KiB (F63).
LARGEST_TREE = 256 * 1024

text_decoder = msgspec.json.Decoder(str)
flag_decoder = msgspec.json.Decoder(bool)

_T = TypeVar("_T")


def text(value: object) -> str | None:
    """``value`` if it is a non-empty string, else None."""
    return value if isinstance(value, str) and value else None


def number(value: object) -> float | None:
    """``value`` as a finite float; None for anything that is not a number, booleans included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def moment(value: object) -> float | None:
    """The Unix seconds of an RFC 3339 string; None for anything else.

    A time without an offset is rejected too, because it would be read in the time zone of this machine.
    """
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
        return found.timestamp() if found.tzinfo else None
    except (ValueError, OverflowError):
        return None


def json_object(document: bytes) -> dict[str, Any] | None:
    """The JSON object in ``document``; None where it is anything else, or larger than ``LARGEST_TREE``."""
    if len(document) > LARGEST_TREE:
        return None
    try:
        found = any_decoder.decode(document)
    except DECODE_ERRORS:
        return None
    return found if isinstance(found, dict) else None


def read_raw(raw: msgspec.Raw, decoder: msgspec.json.Decoder[_T]) -> _T | None:
    """The decoded value of a field that was kept undecoded; None where it is missing or of another type."""
    if not bytes(raw):  # missing, as in most cases: quicker than the exception
        return None
    try:
        return decoder.decode(raw)
    except DECODE_ERRORS:
        return None
