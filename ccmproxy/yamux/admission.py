"""Which streams of the peer are taken: how many at a time, and how many per second."""

from __future__ import annotations

from ccmproxy.yamux.errors import ProtocolError
from ccmproxy.yamux.parameters import RateLimit, SessionConfig
from ccmproxy.yamux.stream import Stream


class Admission:
    """Counts the peer's streams against the limits of a session.

    ``is_closed``: we are going away, and take none any more.
    """

    __slots__ = ("_config", "_open", "_opens", "_unaccepted", "_wasted", "is_closed")

    def __init__(self, config: SessionConfig, now: float) -> None:
        self._config = config
        self._opens = RateLimit(config.opens, now)
        self._wasted = RateLimit(config.wasted_streams, now)
        self._open = self._unaccepted = 0
        self.is_closed = False

    def admit(self, now: float) -> bool:
        """Whether one more stream is taken; it counts from now on. Raises ProtocolError for the last one too many."""
        config = self._config
        if (
            not self.is_closed
            and self._unaccepted < config.accept_backlog
            and self._open < config.max_inbound_streams
            and self._opens.allows(now)
        ):
            self._open += 1
            self._unaccepted += 1
            return True
        self._count_waste(now)
        return False

    def accepted(self, stream: Stream) -> None:
        """Somebody has taken this stream, ours or the peer's."""
        if not stream.is_accepted:
            stream.is_accepted = True
            self._unaccepted -= 1

    def closed(self, stream: Stream) -> None:
        """This stream, ours or the peer's, is closed."""
        if stream.is_inbound:
            self.accepted(stream)
            self._open -= 1

    def reset_by_peer(self, stream: Stream, now: float) -> None:
        """The peer reset this stream, ours or its own. Raises ProtocolError where it did that too often."""
        if stream.is_inbound:
            self._count_waste(now)

    def _count_waste(self, now: float) -> None:
        if not self._wasted.allows(now):
            raise ProtocolError("too many streams that were opened for nothing")
