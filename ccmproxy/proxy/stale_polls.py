"""Requesting polls of credentials whose state is stale, when a request is about to use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ccmproxy.interfaces.credentials import ICredential, IProvider


class StalePolls:
    """Lets the credentials of a provider check the age of their state, at most once a second per provider."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        """``seconds``: a monotonic clock."""
        self._seconds = seconds
        #: Providers whose credentials were asked in the current second, and that second.
        self._asked: set[IProvider] = set()
        self._second = 0

    def poll_stale(self, provider: IProvider, credentials: Sequence[ICredential]) -> None:
        """Poll those of ``provider``'s ``credentials`` whose state is stale. Never waits (spec 4.1 point 5)."""
        second = int(self._seconds())
        if second != self._second:
            self._second = second
            self._asked.clear()
        if provider not in self._asked:
            self._asked.add(provider)
            for credential in credentials:
                credential.poll_if_stale()
