"""Streams that wait for something, and for how long."""

from __future__ import annotations

from typing import Final

from ccmproxy.yamux.stream import Stream

_NEVER: Final = float("inf")


class Timeouts:
    """Streams that wait for the same thing, each for ``timeout`` seconds at most.

    Because that is the same for all of them, the one that has waited longest is always the first. ``reason``: why a
    stream that has waited too long is given up; ``words``: how that begins.
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
        """When the first of them will have waited too long, in seconds; infinity if there is none."""
        return next(iter(self._since.values()), _NEVER) + self._timeout

    def start(self, stream: Stream, now: float) -> None:
        """The stream waits from now on, even if it has waited before."""
        self._since.pop(stream, None)
        self._since[stream] = now

    def stop(self, stream: Stream) -> None:
        """The stream does not wait any more, if it did."""
        self._since.pop(stream, None)

    def clear(self) -> None:
        """None waits any more."""
        self._since.clear()

    def over(self, now: float) -> list[Stream]:
        """Those that have waited too long, the longest first. They go on waiting until they are stopped."""
        found = []
        for stream, since in self._since.items():
            if now < since + self._timeout:
                break
            found.append(stream)
        return found
