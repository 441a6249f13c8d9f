"""How long to wait before the next try, where trying goes on for ever (spec 7.4). Pure."""

from __future__ import annotations

from collections.abc import Callable

#: The delay stops growing after so many failures in a row, and at so many seconds.
MOST_FAILURES = 5
LONGEST_DELAY = 30.0
#: A connection that lived so long was a good one (seconds): the next failure is the first again.
GOOD_LIFE = 60.0


class Backoff:
    """Delays of 2^n seconds, n failures in a row, and up to half of that at random, so that many that failed together
    do not come back together. ``random``: numbers in [0, 1)."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._failures = 0

    def failed(self, lived: float = 0.0) -> float:
        """A try failed, or the connection that it made was lost after ``lived`` seconds; the seconds to wait."""
        if lived >= GOOD_LIFE:
            self._failures = 0
        self._failures = min(self._failures + 1, MOST_FAILURES)
        delay = min(2.0**self._failures, LONGEST_DELAY)
        return delay + delay / 2 * self._random()

    def reset(self) -> None:
        """Something has changed: what failed before says nothing of the next try."""
        self._failures = 0
