"""Exponential back-off for attempts that are repeated without end (spec 7.4). Pure."""

from __future__ import annotations

from collections.abc import Callable

#: Number of consecutive failures after which the delay stops growing, and the longest delay without jitter (seconds).
MOST_FAILURES = 5
LONGEST_DELAY = 30.0
#: A connection that lasted this long (seconds) was a success, so the next failure counts as the first.
GOOD_LIFE = 60.0


class Backoff:
    """Exponential back-off with jitter: 2^n seconds after n consecutive failures, plus a random part of up to half of
    that, so that clients that failed together do not retry together. ``random``: returns numbers in [0, 1)."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._failures = 0

    def failed(self, lived: float = 0.0) -> float:
        """Record a failed attempt, or the loss of a connection after ``lived`` seconds. Returns the seconds to wait."""
        if lived >= GOOD_LIFE:
            self._failures = 0
        self._failures = min(self._failures + 1, MOST_FAILURES)
        delay = min(2.0**self._failures, LONGEST_DELAY)
        return delay + delay / 2 * self._random()

    def reset(self) -> None:
        """Forget the failures, because something has changed that makes them irrelevant to the next attempt."""
        self._failures = 0
