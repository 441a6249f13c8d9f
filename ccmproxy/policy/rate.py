"""Limiting the rate of updates. Pure."""

from __future__ import annotations


class TokenBucket:
    """Token bucket: burst size and seconds per further update; excess updates collapse into the newest.

    The bucket starts full and only counts. If :meth:`delay` is above 0, an update has to wait for that long, and the
    owner of the bucket keeps only the newest waiting update. ``now`` is in seconds of a monotonic clock.
    """

    __slots__ = ("_at", "_burst", "_interval", "_left")

    def __init__(self, burst: int, interval: float) -> None:
        """``burst``: number of updates that may pass at once. ``interval``: seconds per further update."""
        self._burst = burst
        self._interval = interval
        #: Number of updates that may pass at once, as of ``_at``; below 0 if updates passed that should have waited.
        self._left = float(burst)
        self._at = 0.0

    def delay(self, now: float) -> float:
        """Return the seconds from ``now`` until one more update may pass; 0 if it may pass at once."""
        return max(0.0, (1.0 - self._refilled(now)) * self._interval)

    def take(self, now: float, count: float = 1.0) -> None:
        """Count ``count`` updates that pass at ``now``, even if they should have waited."""
        self._left = self._refilled(now) - count
        self._at = now

    def _refilled(self, now: float) -> float:
        return min(float(self._burst), self._left + (now - self._at) / self._interval)
