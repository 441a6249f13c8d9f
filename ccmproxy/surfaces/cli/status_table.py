"""Formats a status as lines for people. It comes from elsewhere: whatever it holds, the output is printable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from ccmproxy.state.durations import format_duration

#: Unix seconds; a larger number is not a date (and not a percentage either).
LAST_SECOND = 1e11


def format_status(status: Mapping[str, Any], now: float) -> Iterator[str]:
    """The lines for people. ``now`` in Unix seconds."""
    yield f"{'window':8}{'used':>8}  resets"
    for title, name in (("5 hours", "five_hour"), ("week", "weekly")):
        used = _number(status.get(f"{name}_utilization"))
        yield f"{title:8}{f'{used:.1f} %' if used is not None else '?':>8}  {_reset(status.get(f'{name}_reset'), now)}"
    weight = _number(status.get("plan_weight"))
    yield f"{'weight':8}{f'{weight:g}' if weight is not None else '?':>8}"
    availability = status.get("availability")
    if isinstance(availability, Mapping):
        state = str(availability.get("state", "unknown")).replace("_", " ")
        reason = str(availability.get("reason") or "").replace("_", " ")
        reset = _number(availability.get("reset_at"))
        line = f"{'state':10}{state}"
        if reason and reason != state:
            line += f" ({reason})"
        if reset:
            line += f", {_reset(reset, now)}"
        yield _printable(line)


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LAST_SECOND:
        return float(value)
    return None


def _reset(value: object, now: float) -> str:
    at = _number(value)
    if not at:
        return "unknown"
    if at <= now:
        return "due"
    when = datetime.fromtimestamp(at).astimezone()
    return f"in {format_duration(at - now)} ({when:%a %H:%M})"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
