"""Delays between attempts: our own, which grow, and those that others name, which are clamped (spec 12.4). Pure."""

from __future__ import annotations

#: Longest delay that is taken from somebody else where the matter is a passing one (seconds).
LONGEST_FOREIGN_DELAY = 15 * 60.0


def growing_delay(attempts: int, first: float, longest: float) -> float:
    """Return the delay after so many consecutive failed attempts: ``first``, doubled each time, up to ``longest``
    (seconds). ``attempts`` is 1 or more."""
    # The exponent is bounded, because 2.0**1024 is no float.
    return min(first * 2.0 ** min(attempts - 1, 64), longest)


def clamped_delay(named: float | None, own: float, first: float) -> float:
    """Return the delay to keep (seconds): the one that somebody else ``named``, or our ``own``, which has grown.

    A delay shorter than our own first step ``first``, or none, changes nothing. A longer one counts up to 15 min.
    """
    if named is None or named < first:
        return own
    return min(named, LONGEST_FOREIGN_DELAY)
