"""Which conversations have been seen: bounded memory of sessions (spec 6)."""

from __future__ import annotations

from collections import OrderedDict

#: After so long without a request a session is forgotten (seconds).
SESSION_LIFE = 24 * 3600.0


class SeenSessions:
    """Remembers (session, model) pairs, so that each is logged once (spec 6.1).

    Entries expire after :data:`SESSION_LIFE` without use; of more than ``bound`` the least recently used go first.
    """

    def __init__(self, bound: int = 10_000) -> None:
        self._bound = bound
        self._last_use: OrderedDict[tuple[str, str | None], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._last_use)

    def is_new(self, session: str, model: str | None, now: float) -> bool:
        """True the first time; every call counts as a use at ``now`` (Unix seconds)."""
        key = (session, model)
        last_use = self._last_use.pop(key, None)
        self._last_use[key] = now
        if len(self._last_use) > self._bound:
            self._last_use.popitem(last=False)
        return last_use is None or now - last_use > SESSION_LIFE
