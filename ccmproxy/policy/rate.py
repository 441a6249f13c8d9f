"""How many updates may follow each other, at once and in the long run. Pure."""

from __future__ import annotations


class TokenBucket:
    """Token bucket: burst size and seconds per further update; excess updates collapse into the newest.

    The bucket only counts, from full: an update for which :meth:`delay` is above 0 has to wait for so long, and its
    owner keeps none but the newest of those that wait. ``now`` is in seconds, of a clock that never goes back.
    """

    __slots__ = ("_at", "_burst", "_interval", "_left")

    def __init__(self, burst: int, interval: float) -> None:
        """``burst``: updates that may follow each other at once. ``interval``: seconds per further one."""
        self._burst = burst
        self._interval = interval
        #: Updates that might pass at once, as of ``_at``. Below 0 where some passed that should have waited.
        self._left = float(burst)
        self._at = 0.0

    def delay(self, now: float) -> float:
        """Seconds from ``now`` until one more update may pass; 0 if it may pass at once."""
        return max(0.0, (1.0 - self._refilled(now)) * self._interval)

    def take(self, now: float) -> None:
        """An update passes at ``now``, whether it may or not."""
        self._left = self._refilled(now) - 1.0
        self._at = now

    def _refilled(self, now: float) -> float:
        return min(float(self._burst), self._left + (now - self._at) / self._interval)
