"""Short waits: whether a client is told to wait, for how long, and which clients do so (spec 12.2). Pure."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: A wait up to this is told as a wait; a longer one is exhaustion (seconds).
LONGEST_SHORT_WAIT = 60.0
#: A session is told to wait at most once in so long (seconds).
TOLD_PERIOD = 60.0
#: As many sessions are remembered as having been told.
MOST_TOLD = 10_000


@dataclass(frozen=True, slots=True)
class WaitingClient:
    """Clients that wait when a 429 says so. ``product``: what their User-Agent begins with; ``since``: the first
    version that does, as numbers; ``source``: where the fact comes from."""

    product: str
    since: tuple[int, ...]
    source: str


def waits(clients: Sequence[WaitingClient], user_agent: str) -> bool:
    """Whether the client with this User-Agent is known to wait for the Retry-After of a 429, and to go on then."""
    for client in clients:
        found = re.match(rf"{re.escape(client.product)}/(\d+(?:\.\d+)*)", user_agent)
        if found is not None:
            version = tuple(int(number) for number in found[1].split(".")[:4] if len(number) < 9)
            return version >= client.since
    return False


def told_wait(seconds: float, random: Callable[[], float]) -> int:
    """What a client is told of a wait: whole seconds, spread so that not all come back at once, at most 60.

    ``random``: a number in [0, 1).
    """
    whole = max(1, math.ceil(seconds))
    return min(int(LONGEST_SHORT_WAIT), whole + math.floor(random() * (max(2, whole // 4) + 1)))


class ToldToWait:
    """Which sessions were told to wait just now: each is told once in a minute, the next refusal fails over."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[str, str], float] = OrderedDict()

    def may_tell(self, user: str, session: str, now: float) -> bool:
        """Whether the session may be told at ``now`` (seconds of any clock); counts as telling it."""
        key = (user, session)
        told = self._told.get(key)
        if told is not None and 0 <= now - told < TOLD_PERIOD:
            return False
        self._told.pop(key, None)
        self._told[key] = now
        if len(self._told) > MOST_TOLD:
            self._told.popitem(last=False)
        return True
