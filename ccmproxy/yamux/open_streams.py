"""Whether we may open another stream, and its id."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from ccmproxy.yamux.errors import CannotOpen
from ccmproxy.yamux.parameters import SessionConfig
from ccmproxy.yamux.stream import Stream
from ccmproxy.yamux.timeouts import Timeouts

_LAST_ID: Final = 2**32 - 1


class Opening:
    """Allocates ids for our streams, and keeps within the peer's accept backlog.

    ``unacknowledged``: our streams that the peer has not acknowledged yet.
    """

    __slots__ = ("_backlog", "_closed_because", "_next_id", "unacknowledged")

    def __init__(self, config: SessionConfig, is_client: bool) -> None:
        self._backlog = config.open_backlog
        self._next_id = 1 if is_client else 2
        self._closed_because = ""
        self.unacknowledged = Timeouts(config.open_timeout, "not acknowledged within")

    @property
    def is_closed(self) -> bool:
        """Whether no stream can ever be opened again; a full backlog, which is temporary, does not count."""
        return bool(self._closed_because)

    def close(self, reason: str) -> None:
        """Open no more streams, because of ``reason``. Open streams continue."""
        self._closed_because = reason

    def next_id(self, taken: Container[int]) -> int:
        """Return the id for a new stream. Skips ids in ``taken``: a peer may have opened streams with ids of our side.

        Raises CannotOpen when this was closed, too many streams are unacknowledged, or no id is left.
        """
        if self._closed_because:
            raise CannotOpen(self._closed_because, for_good=True)
        if len(self.unacknowledged) >= self._backlog:
            raise CannotOpen("too many streams that the peer has not acknowledged", for_good=False)
        while self._next_id in taken:
            self._next_id += 2
        if self._next_id > _LAST_ID:
            raise CannotOpen("no stream id is left", for_good=True)
        found = self._next_id
        self._next_id += 2
        return found

    def acknowledged(self, stream: Stream) -> None:
        """Record that the peer has acknowledged ``stream``."""
        stream.is_acknowledged = True
        self.unacknowledged.stop(stream)
