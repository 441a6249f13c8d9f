"""What one session may take, and how long things may last: every number has its reason here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

#: The window (bytes) that both directions of every stream begin with: part of the protocol.
INITIAL_WINDOW: Final = 256 * KIB
#: The largest window (bytes) that a peer can be credited with: what a length field holds.
LARGEST_WINDOW: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Rate:
    """Of a token bucket: burst size, and how many more may happen per second."""

    burst: int
    per_second: float


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Limits of a session. Sizes in bytes, times in seconds.

    ``max_window``: of a stream, inbound; at least 256 KiB. What one slow reader can make us hold. Twice the initial
    window, so that a stream fills a path of 40 MB/s with a round trip of 10 ms.
    ``max_frame``: payload of a DATA frame of ours. Small enough that a stream does not keep others, and pings,
    waiting: 32 KiB take 33 ms on 8 Mbit/s.
    ``accept_backlog``: inbound streams that nobody has accepted yet; one more is reset. hashicorp/yamux has the same.
    ``open_backlog``: streams of ours that the peer has not acknowledged: its backlog, which we cannot know, but Go's
    own opener stops at 256.
    ``max_inbound_streams``: at the same time; one more is reset. More requests in flight than one account serves.
    ``max_unread``: received and not consumed, over all streams. Beyond it the stream that holds most is reset: the
    windows of all streams together would be half a GiB.
    ``opens``: inbound streams. A stream costs us far more than the 12 bytes that open it; beyond the rate it is reset.
    ``wasted_streams``: inbound streams that we had to reset at once, or the peer reset ("rapid reset", CVE-2023-44487).
    A peer that goes on beyond it breaks the protocol.
    ``pings``: requests of the peer. Each is answered even while the carrier is full: the answers that pile up until
    ``write_timeout`` are bounded by this rate. Beyond it the peer breaks the protocol.
    ``keepalive_interval``: from the answer to a ping to the next one. NATs and load balancers forget after 60 to 350.
    ``ping_timeout``: for the answer to it.
    ``write_timeout``: for a carrier that takes nothing.
    ``open_timeout``: for the acknowledgement of a stream; then it is reset. Go ends the whole session after as much.
    ``window_timeout``: for a stream that has data and no window; then it is reset. As long as an HTTP client may stop
    reading.
    ``linger``: for the peer to end its direction after we closed a stream, counted from its last frame; then it is
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
        """Raises ValueError for a window that the protocol does not allow, or frames without payload."""
        if not INITIAL_WINDOW <= self.max_window <= LARGEST_WINDOW:
            raise ValueError(f"max_window must lie between {INITIAL_WINDOW} and {LARGEST_WINDOW}")
        if self.max_frame < 1:
            raise ValueError("max_frame must be positive")


class RateLimit:
    """Token bucket: tells what is within a :class:`Rate`. Nothing waits; what is beyond it is refused."""

    __slots__ = ("_at", "_left", "_rate")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._left = float(rate.burst)
        self._at = now

    def allows(self, now: float) -> bool:
        """It happens once more, at ``now`` (seconds): is that within the rate?"""
        rate = self._rate
        self._left = min(float(rate.burst), self._left + (now - self._at) * rate.per_second)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
