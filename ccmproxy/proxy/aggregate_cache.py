"""The state of all credentials that a caller may see, summed up anew only when it has changed."""

from __future__ import annotations

from collections.abc import Callable
from operator import is_

from ccmproxy.proxy.caller import Caller
from ccmproxy.state.aggregate import Aggregate, aggregate, counts
from ccmproxy.state.availability import CredentialSnapshot


class AggregateCache:
    """Sums up for one caller after the other, and remembers the last sum: answers come faster than states change."""

    def __init__(self, now: Callable[[], float]) -> None:
        """``now``: Unix seconds."""
        self._now = now
        #: The snapshots that were summed up last, the Unix second in which that was, and the sum.
        self._last: tuple[list[CredentialSnapshot], int, Aggregate | None] = ([], 0, None)

    def aggregate_for(self, caller: Caller) -> Aggregate | None:
        """The state that this caller may see (spec 8.1), or None while no credential's figures count.

        The figures of none are those of a pool that is used up: beside an answer that was served all the same, by an
        API key for example, clients would take them for its state.
        """
        now = self._now()
        snapshots = [credential.snapshot(now) for credential in caller.shown()]
        known, second, found = self._last
        if second == int(now) and len(known) == len(snapshots) and all(map(is_, known, snapshots)):
            return found
        found = aggregate(snapshots, now) if any(map(counts, snapshots)) else None
        self._last = (snapshots, int(now), found)
        return found
