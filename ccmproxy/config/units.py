"""Durations and sizes as an operator writes them: a plain number, or a number with a unit."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

DAY = 86400.0

#: Titles of the two types in the JSON schema.
DURATION = "duration"
SIZE = "size"

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s?(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY}
_SIZE = re.compile(r"(\d{1,12})\s?(B|KiB|MiB|GiB)")
_BYTES = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}


def parse_duration(value: Any) -> Any:
    """Seconds of ``"30s"``, ``"1.5h"``, ``"250ms"``; numbers stay unchanged. Raises ValueError for other text."""
    if not isinstance(value, str):
        return value
    found = _DURATION.fullmatch(value)
    if not found:
        raise ValueError(
            'must be a number of seconds, or a number with a unit (ms, s, m, h, d) like "30s" or "10m"'
        )
    return float(found[1]) * _SECONDS[found[2]]


def size_of(value: Any) -> int | None:
    """Bytes of an option that is a size, None if it is something else."""
    try:
        size = parse_size(value)
    except ValueError:
        return None
    return size if type(size) is int else None


def parse_size(value: Any) -> Any:
    """Bytes of ``"64 MiB"``; numbers are returned unchanged. Raises ValueError for other text."""
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value)
    if not found:
        raise ValueError('must be a number of bytes, or a number with a unit (B, KiB, MiB, GiB) like "64MiB"')
    return int(found[1]) * _BYTES[found[2]]


def _schema(title: str, kind: str, pattern: re.Pattern[str]) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "anyOf": [{"type": kind, "minimum": 0}, {"type": "string", "pattern": f"^{pattern.pattern}$"}],
            "title": title,
        }
    )


#: Seconds, as a float. Bounded, because timers are: a month is practically for ever.
Duration = Annotated[
    float, Field(ge=0, le=30 * DAY), BeforeValidator(parse_duration), _schema(DURATION, "number", _DURATION)
]
#: Seconds, at most a minute.
ShortDuration = Annotated[
    float, Field(ge=0, le=60), BeforeValidator(parse_duration), _schema(DURATION, "number", _DURATION)
]
#: Seconds, at least a millisecond.
Timeout = Annotated[
    float,
    Field(ge=0.001, le=30 * DAY),
    BeforeValidator(parse_duration),
    _schema(DURATION, "number", _DURATION),
]
#: Bytes, as an int.
Size = Annotated[int, BeforeValidator(parse_size), _schema(SIZE, "integer", _SIZE)]
