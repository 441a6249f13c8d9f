"""Asking for polls of credentials whose state is old, when somebody wants to use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ccmproxy.interfaces.credentials import ICredential, IProvider


class StalePolls:
    """Lets the credentials of a provider look at the age of their state, at most once a second each."""

    def __init__(self, now: Callable[[], float]) -> None:
        """``now``: Unix seconds."""
        self._now = now
        #: Providers whose credentials have been asked, and in which second.
        self._asked: set[IProvider] = set()
        self._second = 0

    def poll_stale(self, provider: IProvider, credentials: Sequence[ICredential]) -> None:
        """Let those of ``provider``'s ``credentials`` be polled whose state is old. Never waits (spec 4.1 point 5)."""
        second = int(self._now())
        if second != self._second:
            self._second = second
            self._asked.clear()
        if provider not in self._asked:
            self._asked.add(provider)
            for credential in credentials:
                credential.poll_if_stale()
