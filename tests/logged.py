"""What a test's subject logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from twisted.logger import ILogObserver, LogEvent, eventAsText, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase


def log_events(case: SynchronousTestCase) -> list[LogEvent]:
    """The events that are logged from now on, until ``case`` is over."""
    events: list[LogEvent] = []
    observer = cast(ILogObserver, events.append)
    globalLogPublisher.addObserver(observer)
    case.addCleanup(globalLogPublisher.removeObserver, observer)
    return events


def messages(events: Sequence[LogEvent], words: str) -> list[str]:
    """The messages with ``words`` in them."""
    return [text for text in map(formatEvent, events) if words in text]


def everything(events: Sequence[LogEvent]) -> str:
    """All messages, and the values and tracebacks behind them: what no secret may be in."""
    return "\n".join(f"{event!r} {eventAsText(event)}" for event in events)
