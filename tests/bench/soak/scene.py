"""Requests and their records, as the driver would have found them."""

from __future__ import annotations

from typing import Any

from bench.soak.outcomes import End, Outcome, Try


def outcome(**changes: Any) -> Outcome:
    """A request of alice that was served whole, between second 100 and 101."""
    usual: dict[str, Any] = {
        "id": "soak-c1-1",
        "service": "claude",
        "kind": "claude message",
        "user": "alice",
        "began": 100.0,
        "ended": 101.0,
        "end": End.WHOLE,
        "status": 200,
        "is_right": True,
    }
    return Outcome(**{**usual, **changes})


def broken(**changes: Any) -> Outcome:
    """A stream that broke off at its client."""
    return outcome(**{"end": End.BROKEN, "is_right": False, "streamed": True, **changes})


def refused(status: int, error: str = "", **changes: Any) -> Outcome:
    """A request that was refused with a whole answer; ``error``: in our own name."""
    return outcome(**{"status": status, "error": error, "is_right": False, **changes})


def sent(**changes: Any) -> Try:
    """A request as the simulator recorded it: served by the account own-1 without any fault."""
    usual: dict[str, Any] = {
        "at": 100.1,
        "account": "own-1",
        "fault": None,
        "status": 200,
        "state": "finished",
        "connection": "a",
    }
    return Try(**{**usual, **changes})
