"""A cache of the aggregate state that a caller may see, which is recomputed only after a change."""

from __future__ import annotations

from collections.abc import Callable
from operator import is_

from ccmproxy.proxy.caller import Caller
from ccmproxy.state.aggregate import Aggregate, aggregate, counts
from ccmproxy.state.availability import CredentialSnapshot


class AggregateCache:
    """Computes aggregates for callers, and caches the last one, as responses are more frequent than state changes."""

    def __init__(self, now: Callable[[], float]) -> None:
        """``now``: Unix seconds."""
        self._now = now
        #: The snapshots that were aggregated last, the time of that (whole Unix seconds), and the result.
        self._last: tuple[list[CredentialSnapshot], int, Aggregate | None] = ([], 0, None)

    def aggregate_for(self, caller: Caller) -> Aggregate | None:
        """Return the aggregate that this caller may see (spec 8.1), or None while no credential's figures count.

        The aggregate of no figures reads as a pool that is used up. Clients would take it for the true state if it came
        with a response that was served anyway, for example by an API key.
        """
        now = self._now()
        snapshots = caller.shown_snapshots(now)
        known, second, found = self._last
        if second == int(now) and len(known) == len(snapshots) and all(map(is_, known, snapshots)):
            return found
        found = aggregate(snapshots, now) if any(map(counts, snapshots)) else None
        self._last = (snapshots, int(now), found)
        return found
