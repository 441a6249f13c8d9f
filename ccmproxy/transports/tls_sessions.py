"""Cache of TLS sessions, for session resumption: the next handshake with the same origin is shorter."""

from __future__ import annotations

import ssl
from typing import Final

#: Host, as it must stand in the certificate, and port.
Origin = tuple[str, int]

#: Maximum number of sessions, one for each origin.
_LARGEST: Final = 256


class SessionCache:
    """The latest TLS session of each origin, up to 256 of them; beyond that, the least recently stored is dropped."""

    def __init__(self) -> None:
        self._sessions: dict[Origin, ssl.SSLSession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, origin: Origin) -> ssl.SSLSession | None:
        """Return the session that the next connection to ``origin`` can resume; None: it does a full handshake."""
        return self._sessions.get(origin)

    def remember(self, origin: Origin, session: ssl.SSLSession) -> None:
        """Store ``session`` for the next connection to ``origin``."""
        self._sessions.pop(origin, None)
        self._sessions[origin] = session
        if len(self._sessions) > _LARGEST:
            del self._sessions[next(iter(self._sessions))]

    def forget(self, origin: Origin) -> None:
        """Make the next connection to ``origin`` do a full handshake."""
        self._sessions.pop(origin, None)
