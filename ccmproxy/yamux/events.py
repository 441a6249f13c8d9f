"""What a session tells its owner."""

from __future__ import annotations

from dataclasses import dataclass

from ccmproxy.yamux.errors import SessionError
from ccmproxy.yamux.stream import Stream


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened a stream; it has been acknowledged already. To be accepted, or reset."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StreamAcknowledged:
    """The peer has accepted a stream of ours; another one may be opened, if there were too many."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class DataReceived:
    """A piece of what the peer sends, as it came: never empty, not a whole frame. The peer gets window for it when
    it is consumed."""

    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class EndReceived:
    """The peer sends nothing more on this stream (FIN). The other direction goes on."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class DataSent:
    """Some of what the stream had to send has been handed to the carrier: its queue is shorter now."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class EndSent:
    """All that the stream had to send, and its end, have been handed to the carrier."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The stream is closed, in both directions, and what was not sent yet is lost. ``by_peer``: else a limit of ours
    closed it; ``reason`` says which."""

    stream: Stream
    by_peer: bool
    reason: str


@dataclass(frozen=True, slots=True)
class PingAnswered:
    """``number``: of the ping; ``seconds``: since it was sent."""

    number: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PeerGoesAway:
    """The peer takes no more streams (GO_AWAY 0). Those that are open go on."""


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The session is over, and all of its streams with it: the last event. What is still to be sent says why."""

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
