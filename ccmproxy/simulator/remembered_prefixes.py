"""The contents of a provider's prompt cache. Pure."""

from __future__ import annotations

from collections import OrderedDict


class RememberedPrefixes:
    """How much of each conversation is cached, and until when; only the ``most`` recently used are kept."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[tuple[str, ...], tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def renew(self, key: tuple[str, ...], tokens: int, now: float, lifetime: float) -> int:
        """Return the tokens of ``key`` that are still cached at ``now``, and cache ``tokens`` from now on.

        ``lifetime``: of the new entry, in seconds.
        """
        cached, expires_at = self._known.pop(key, (0, 0.0))
        self._known[key] = (tokens, now + lifetime)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return cached if now < expires_at else 0
