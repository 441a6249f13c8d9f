"""Which conversations have been seen: bounded memory of sessions (spec 6)."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256

#: After so long without a request a session is forgotten (seconds).
SESSION_LIFE = 24 * 3600.0


class IssuedValues:
    """Which credential issued a value that a client sends back in a later request (spec 3.6).

    A value counts for its session only. Entries expire :data:`SESSION_LIFE` after they were issued; of more than
    ``bound`` the oldest go first. Values are kept as digests: they may be long, and are nobody's business.
    """

    def __init__(self, bound: int = 10_000) -> None:
        self._bound = bound
        self._issuers: OrderedDict[tuple[str | None, bytes], tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._issuers)

    def issued(self, session: str | None, value: bytes, tag: str, now: float) -> None:
        """The credential ``tag`` sent ``value`` in an answer at ``now`` (Unix seconds)."""
        key = (session, _digest(value))
        self._issuers.pop(key, None)
        self._issuers[key] = (tag, now)
        if len(self._issuers) > self._bound:
            self._issuers.popitem(last=False)

    def is_from(self, session: str | None, value: bytes, tag: str, now: float) -> bool:
        """Was it ``tag`` that issued ``value`` last, to this session?"""
        issuer, at = self._issuers.get((session, _digest(value)), ("", 0.0))
        return issuer == tag and now - at <= SESSION_LIFE


def _digest(value: bytes) -> bytes:
    return sha256(value).digest()


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
