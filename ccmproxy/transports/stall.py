"""Detecting a stalled peer, one that accepts none of the data waiting for it, by the bytes that leave our buffers."""

from __future__ import annotations

import fcntl
import struct
import termios
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.abstract import FileDescriptor

_NOTHING_WAITS: Final = float("inf")


def unsent_measure(transport: Any) -> Callable[[], int]:
    """Return a function that returns how many bytes written to ``transport`` its peer has not taken yet.

    Our own transports provide this as ``unsent_bytes()``. For Twisted's transports the sum of their buffer and the
    kernel's is used (``SIOCOUTQ``, which for TCP counts unacknowledged bytes; see tcp(7)). For any other transport it
    is always 0: then only a transport that resumes its producer shows that the peer took something.
    """
    own: Callable[[], int] | None = getattr(transport, "unsent_bytes", None)
    if own is not None:
        return own
    if not isinstance(transport, FileDescriptor) or not hasattr(transport, "_tempDataLen"):
        return lambda: 0
    descriptor: Any = transport

    def unsent() -> int:
        waiting = int(len(descriptor.dataBuffer) - descriptor.offset + descriptor._tempDataLen)
        return waiting + _in_kernel(descriptor.fileno())

    return unsent


def _in_kernel(descriptor: int) -> int:
    """Return the number of bytes in a socket's send queue; 0 where the system does not report it."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))[0])
    except (OSError, ValueError):
        return 0


class StallWatch:
    """Measures for how long the peer of one connection has taken nothing although data waits for it.

    The owner reports when the transport is full (:meth:`blocked`) and when it takes data again (:meth:`released`).
    Between the two nothing is written, so that every byte which leaves the buffers was taken by the peer. A slow
    reader therefore does not count as stalled, however long the transport stays full.
    """

    __slots__ = ("_progress", "_unsent", "_waiting")

    def __init__(self, transport: Any) -> None:
        self._unsent = unsent_measure(transport)
        self._waiting = 0
        self._progress = _NOTHING_WAITS

    def blocked(self, now: float) -> None:
        """Record that the transport is full from ``now`` on (seconds of any monotonic clock)."""
        self._waiting = self._unsent()
        self._progress = now

    def released(self) -> None:
        """Record that the transport takes data again, or that no data waits any more."""
        self._progress = _NOTHING_WAITS

    def seconds(self, now: float) -> float:
        """Return the seconds since the peer last took a byte; minus infinity while no data waits for it.

        Progress is noticed only by this call, so call it every few seconds.
        """
        if self._progress == _NOTHING_WAITS:
            return -_NOTHING_WAITS
        waiting = self._unsent()
        if waiting < self._waiting:
            self._progress = now
        self._waiting = waiting
        return now - self._progress
