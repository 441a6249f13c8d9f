"""The events that a session reports to its owner."""

from __future__ import annotations

from dataclasses import dataclass

from ccmproxy.yamux.errors import SessionError
from ccmproxy.yamux.stream import Stream


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened a stream, which is acknowledged already. The owner must accept or reset it."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StreamAcknowledged:
    """The peer has acknowledged a stream of ours. If too many were unacknowledged, another one may be opened now."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class DataReceived:
    """A piece of data from the peer, as it arrived: never empty, not necessarily a whole frame. The peer's window is
    renewed when the owner consumes it."""

    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class EndReceived:
    """The peer sends nothing more on this stream (FIN). Our direction is not affected."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class DataSent:
    """Some of the stream's queued data has been given to the carrier, so its queue is shorter now."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class EndSent:
    """All of the stream's queued data, and its FIN, have been given to the carrier."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The stream is closed in both directions, and data not sent yet is lost. ``by_peer``: the peer reset it; otherwise
    we did, because of a limit. ``reason``: what happened, for the log."""

    stream: Stream
    by_peer: bool
    reason: str


@dataclass(frozen=True, slots=True)
class PingAnswered:
    """The peer answered a ping. ``number``: that of the ping; ``seconds``: the round-trip time."""

    number: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PeerGoesAway:
    """The peer takes no more streams (GO_AWAY 0). Open streams continue."""


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The session is over, and with it all of its streams. This is the last event.

    After a ProtocolError, ``data_to_send`` still returns the GO_AWAY that tells the peer.
    """

    error: SessionError


Event = (
    StreamOpened
    | StreamAcknowledged
    | DataReceived
    | EndReceived
    | DataSent
    | EndSent
    | StreamReset
    | PingAnswered
    | PeerGoesAway
    | SessionEnded
)
