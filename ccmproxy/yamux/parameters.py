"""Limits and time-outs of a session, with the reason for every number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

#: Initial window in bytes of both directions of every stream, fixed by the protocol.
INITIAL_WINDOW: Final = 256 * KIB
#: Largest window in bytes: the maximum of a length field.
LARGEST_WINDOW: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Rate:
    """Rate of a token bucket: burst size, and number of tokens added per second."""

    burst: int
    per_second: float


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Limits of a session. Sizes in bytes, times in seconds.

    ``max_window``: receive window of a stream, at least 256 KiB. It is the memory that one slow reader can use. Twice
    the initial window, so that a stream fills a path of 40 MB/s with a round trip of 10 ms.
    ``max_frame``: maximum payload of our DATA frames. Small enough that a stream does not delay pings and other streams
    for long: 32 KiB take 33 ms at 8 Mbit/s.
    ``accept_backlog``: inbound streams not yet accepted by the owner; one more is reset. As in hashicorp/yamux.
    ``open_backlog``: streams of ours that the peer has not acknowledged. It should match the peer's accept backlog,
    which we cannot know, but Go's own opener stops at 256.
    ``max_inbound_streams``: simultaneous inbound streams; one more is reset. More than the requests in flight that one
    account serves.
    ``max_unread``: bytes received and not consumed, over all streams. Beyond it the stream that holds most is reset:
    the windows of all streams together would be half a GiB.
    ``opens``: new inbound streams. A stream costs us far more than the 12 bytes that open it; beyond the rate it is
    reset.
    ``wasted_streams``: inbound streams that we had to reset at once, or that the peer reset ("rapid reset",
    CVE-2023-44487). Exceeding the rate is a protocol error.
    ``pings``: ping requests of the peer. Each is answered even while the carrier is full, so this rate bounds the
    answers that pile up until ``write_timeout``. Exceeding the rate is a protocol error.
    ``keepalive_interval``: from the answer to a ping to the next ping. NATs and load balancers forget idle connections
    after 60 to 350 s.
    ``ping_timeout``: for the answer to a keep-alive ping.
    ``write_timeout``: for a carrier that takes nothing.
    ``open_timeout``: for the acknowledgement of a stream; then it is reset. Go ends the whole session after this time.
    ``window_timeout``: for a stream that has data but no window; then it is reset. The same time as that for an HTTP
    client that stops reading.
    ``linger``: for the peer's FIN after we closed a stream, counted from the peer's last frame; then the stream is
    reset. Go keeps such a stream for 5 minutes, or for ever.
    """

    max_window: int = 2 * INITIAL_WINDOW
    max_frame: int = 32 * KIB
    accept_backlog: int = 256
    open_backlog: int = 256
    max_inbound_streams: int = 1024
    max_unread: int = 128 * MIB
    opens: Rate = Rate(2000, 1000.0)
    wasted_streams: Rate = Rate(1000, 100.0)
    pings: Rate = Rate(100, 10.0)
    keepalive_interval: float = 15.0
    ping_timeout: float = 10.0
    write_timeout: float = 10.0
    open_timeout: float = 75.0
    window_timeout: float = 600.0
    linger: float = 30.0

    def __post_init__(self) -> None:
        """Raises ValueError when ``max_window`` is not allowed by the protocol, or ``max_frame`` is not positive."""
        if not INITIAL_WINDOW <= self.max_window <= LARGEST_WINDOW:
            raise ValueError(f"max_window must lie between {INITIAL_WINDOW} and {LARGEST_WINDOW}")
        if self.max_frame < 1:
            raise ValueError("max_frame must be positive")


class RateLimit:
    """Token bucket with a :class:`Rate`. Excess is refused, not delayed."""

    __slots__ = ("_at", "_left", "_rate")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._left = float(rate.burst)
        self._at = now

    def allows(self, now: float) -> bool:
        """Take a token at time ``now`` (seconds); return False if none is left."""
        rate = self._rate
        self._left = min(float(rate.burst), self._left + (now - self._at) * rate.per_second)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
