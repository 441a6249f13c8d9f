"""Limits on the streams that the peer opens: how many at a time, and how many per second."""

from __future__ import annotations

from ccmproxy.yamux.errors import ProtocolError
from ccmproxy.yamux.parameters import RateLimit, SessionConfig
from ccmproxy.yamux.stream import Stream


class Admission:
    """Counts the peer's streams against the limits of a session.

    ``is_closed``: we have sent GO_AWAY, and accept no more streams.
    """

    __slots__ = ("_config", "_open", "_opens", "_unaccepted", "_wasted", "is_closed")

    def __init__(self, config: SessionConfig, now: float) -> None:
        self._config = config
        self._opens = RateLimit(config.opens, now)
        self._wasted = RateLimit(config.wasted_streams, now)
        self._open = self._unaccepted = 0
        self.is_closed = False

    def admit(self, now: float) -> bool:
        """Return whether one more stream is admitted, and count it if so.

        Raises ProtocolError when more streams were refused or reset than the limit ``wasted_streams`` allows.
        """
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
        """Record that the owner has accepted this stream; does nothing for streams of ours."""
        if not stream.is_accepted:
            stream.is_accepted = True
            self._unaccepted -= 1

    def closed(self, stream: Stream) -> None:
        """Record that this stream, ours or the peer's, is closed."""
        if stream.is_inbound:
            self.accepted(stream)
            self._open -= 1

    def reset_by_peer(self, stream: Stream, now: float) -> None:
        """Record that the peer reset this stream. Raises ProtocolError when the peer resets its own too often."""
        if stream.is_inbound:
            self._count_waste(now)

    def _count_waste(self, now: float) -> None:
        if not self._wasted.allows(now):
            raise ProtocolError("too many streams that were opened for nothing")
