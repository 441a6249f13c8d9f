"""What TLS connections leave behind, so that the next handshake with the same origin is shorter."""

from __future__ import annotations

import ssl
from typing import Final

#: Host, as the certificate names it, and port.
Origin = tuple[str, int]

#: Sessions that are remembered, one for each origin.
_LARGEST: Final = 256


class SessionCache:
    """The last TLS session of each origin, up to 256 of them; then the one that was renewed longest ago goes."""

    def __init__(self) -> None:
        self._sessions: dict[Origin, ssl.SSLSession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, origin: Origin) -> ssl.SSLSession | None:
        """What the next connection to ``origin`` may begin with; None: from nothing."""
        return self._sessions.get(origin)

    def remember(self, origin: Origin, session: ssl.SSLSession) -> None:
        """Keep ``session`` for the next connection to ``origin``."""
        self._sessions.pop(origin, None)
        self._sessions[origin] = session
        if len(self._sessions) > _LARGEST:
            del self._sessions[next(iter(self._sessions))]

    def forget(self, origin: Origin) -> None:
        """Let the next connection to ``origin`` begin from nothing."""
        self._sessions.pop(origin, None)
