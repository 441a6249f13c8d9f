"""Short waits: whether and for how long a client is told to wait, and which clients do so (spec 12.2). Pure."""

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
#: The version after a product: up to six numbers, and nothing that would make the last of them longer.
_VERSION = re.compile(r"[/ ](\d{1,8}(?:\.\d{1,8}){0,5})(?!\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class WaitingClient:
    """Clients that wait when a 429 says so.

    ``product``: what their User-Agent begins with, before a slash or a space and the version. ``since``: the first
    version that does, as numbers. ``source``: where the fact comes from.
    """

    product: str
    since: tuple[int, ...]
    source: str


def waits(clients: Sequence[WaitingClient], user_agent: str) -> bool:
    """Return whether the client with this User-Agent is known to wait for the Retry-After of a 429, and to go on then.

    A version that cannot be read is none that is known. Never raises.
    """
    for client in clients:
        if not user_agent.startswith(client.product):
            continue
        version = _VERSION.match(user_agent, len(client.product))
        if version is not None:
            return tuple(map(int, version[1].split("."))) >= client.since
    return False


def told_wait(seconds: float, random: Callable[[], float]) -> int:
    """Return what a client is told of a wait: whole seconds, 1 to 60, spread so that not all come back at once.

    N + random 0…max(2, N/4) (spec 12.2). ``random``: returns a number in [0, 1).
    """
    whole = max(1, math.ceil(min(seconds, LONGEST_SHORT_WAIT)))
    return min(int(LONGEST_SHORT_WAIT), whole + math.floor(random() * (max(2, whole // 4) + 1)))


class ToldToWait:
    """Remembers which sessions were told to wait: each is told once a minute, and its next refusal fails over."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[str, str], float] = OrderedDict()

    def may_tell(self, user: str, session: str, now: float) -> bool:
        """Return whether the session may be told at ``now`` (seconds of any clock); if so, it counts as told."""
        key = (user, session)
        told = self._told.get(key)
        if told is not None and 0 <= now - told < TOLD_PERIOD:
            return False
        self._told.pop(key, None)
        self._told[key] = now
        if len(self._told) > MOST_TOLD:
            self._told.popitem(last=False)
        return True
