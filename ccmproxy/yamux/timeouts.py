"""Time-outs of streams that wait for the same kind of event."""

from __future__ import annotations

from typing import Final

from ccmproxy.yamux.stream import Stream

_NEVER: Final = float("inf")


class Timeouts:
    """Streams that wait for the same kind of event, each for at most ``timeout`` seconds.

    Because all have the same time-out, streams expire in the order in which they began to wait. ``reason``: why an
    expired stream is given up, for the log; ``words``: the beginning of that.
    """

    __slots__ = ("_since", "_timeout", "reason")

    def __init__(self, timeout: float, words: str) -> None:
        self._timeout = timeout
        self.reason = f"{words} {timeout:g} seconds"
        self._since: dict[Stream, float] = {}

    def __len__(self) -> int:
        return len(self._since)

    def __contains__(self, stream: Stream) -> bool:
        return stream in self._since

    @property
    def deadline(self) -> float:
        """Time in seconds at which the first stream expires; infinity if none waits."""
        return next(iter(self._since.values()), _NEVER) + self._timeout

    def start(self, stream: Stream, now: float) -> None:
        """Start, or restart, the time-out of a stream."""
        self._since.pop(stream, None)
        self._since[stream] = now

    def stop(self, stream: Stream) -> None:
        """Stop the time-out of a stream, if it has one."""
        self._since.pop(stream, None)

    def clear(self) -> None:
        """Stop all time-outs."""
        self._since.clear()

    def over(self, now: float) -> list[Stream]:
        """Return the streams that have expired, the one that waited longest first. They stay until they are stopped."""
        found = []
        for stream, since in self._since.items():
            if now < since + self._timeout:
                break
            found.append(stream)
        return found
