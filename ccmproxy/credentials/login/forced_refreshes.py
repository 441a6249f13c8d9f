"""How many refreshes refused tokens may force (spec 12.3). A pure value with a clock passed in."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable

#: Most refreshes that may be forced within PERIOD (seconds). If the upstream refuses every token of an account, its
#: requests must not each cause a refresh.
LIMIT = 3
PERIOD = 60.0
#: One caller may force one refresh within this time (seconds).
CALLER_PERIOD = 600.0
#: As many callers are remembered.
MOST_CALLERS = 1000


class ForcedRefreshes:
    """The budget of forced refreshes of one account: three a minute, and one in ten minutes for each caller."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=LIMIT)
        self._callers: OrderedDict[Hashable, float] = OrderedDict()

    def take(self, caller: Hashable, now: float) -> bool:
        """Return whether one more refresh may be forced at ``now`` (seconds of a monotonic clock), and count it.
        ``caller``: who sent the request, None = nobody in particular."""
        if len(self._times) == LIMIT and 0 <= now - self._times[0] < PERIOD:
            return False
        if caller is not None:
            last = self._callers.get(caller)
            if last is not None and 0 <= now - last < CALLER_PERIOD:
                return False
            self._callers[caller] = now
            self._callers.move_to_end(caller)
            if len(self._callers) > MOST_CALLERS:
                self._callers.popitem(last=False)
        self._times.append(now)
        return True
