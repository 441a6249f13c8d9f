"""Noticing that the peer of a connection does not take what waits for it, by the bytes that it takes."""

from __future__ import annotations

import fcntl
import struct
import termios
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.abstract import FileDescriptor

_NOTHING_WAITS: Final = float("inf")


def unsent_measure(transport: Any) -> Callable[[], int]:
    """A function that tells how many bytes written to ``transport`` its peer has not taken yet.

    A transport of ours tells by its own ``unsent_bytes()``. For Twisted's own it is what stands in their buffer and in
    the kernel's (``SIOCOUTQ``, which for TCP counts what is not acknowledged; see tcp(7)). For any other it is always
    0: then only that it asks for more shows that something was taken.
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
    """Bytes in a socket's send queue; 0 where the system does not tell."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))[0])
    except (OSError, ValueError):
        return 0


class StallWatch:
    """How long the peer of one connection has taken nothing, while something waits for it.

    The connection tells when its transport takes no more (:meth:`blocked`) and when it does again (:meth:`released`);
    between the two nothing is written, so that any byte that leaves is one that the peer took. A slow reader is
    therefore no stalled one, however long the transport stays full.
    """

    __slots__ = ("_progress", "_unsent", "_waiting")

    def __init__(self, transport: Any) -> None:
        self._unsent = unsent_measure(transport)
        self._waiting = 0
        self._progress = _NOTHING_WAITS

    def blocked(self, now: float) -> None:
        """The transport takes no more, from ``now`` on (seconds of any clock that does not go back)."""
        self._waiting = self._unsent()
        self._progress = now

    def released(self) -> None:
        """It does again, or nothing waits any more."""
        self._progress = _NOTHING_WAITS

    def seconds(self, now: float) -> float:
        """Seconds since the peer took a byte; negative while nothing waits for it. To be asked every few seconds."""
        if self._progress == _NOTHING_WAITS:
            return -_NOTHING_WAITS
        waiting = self._unsent()
        if waiting < self._waiting:
            self._progress = now
        self._waiting = waiting
        return now - self._progress
