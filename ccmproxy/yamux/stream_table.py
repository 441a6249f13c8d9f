"""The open streams of a session, and the number of bytes that their owners have not consumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ccmproxy.yamux.stream import Stream


class StreamTable:
    """Open streams by id, with the accounting of unread data.

    ``unread``: bytes given to owners and not consumed yet, over all streams. Those of a removed stream still count,
    unless it was released.
    """

    __slots__ = ("_streams", "get", "unread")

    def __init__(self) -> None:
        self._streams: dict[int, Stream] = {}
        #: Return the open stream with an id; None if there is none. A bound method, since it is called for every frame.
        self.get: Callable[[int], Stream | None] = self._streams.get
        self.unread = 0

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._streams.values())

    def __contains__(self, stream_id: object) -> bool:
        return stream_id in self._streams

    def add(self, stream: Stream) -> None:
        """Add an open stream."""
        self._streams[stream.id] = stream

    def remove(self, stream: Stream) -> None:
        """Remove the stream and mark it as closed."""
        stream.is_closed = True
        del self._streams[stream.id]

    def given(self, stream: Stream, size: int) -> None:
        """Count ``size`` bytes that are given to the stream's owner."""
        stream.held += size
        self.unread += size

    def consumed(self, stream: Stream, size: int) -> None:
        """Count ``size`` bytes as consumed. Raises ValueError when the owner holds fewer."""
        if size > stream.held:
            raise ValueError(f"{size} bytes consumed of {stream.held}")
        stream.held -= size
        self.unread -= size

    def release(self, stream: Stream) -> None:
        """Stop counting the data that the stream's owner holds, and discard data received from now on."""
        self.unread -= stream.held
        stream.held = 0
        stream.is_discarding = True

    def fullest(self) -> Stream:
        """Return the open stream that holds the most unread data. At least one stream must be open."""
        return max(self._streams.values(), key=_held)

    def close_all(self) -> None:
        """Close and release every stream, and drop its queued data."""
        for stream in self._streams.values():
            self.release(stream)
            stream.is_closed = True
            stream.queue.clear()
        self._streams.clear()


def _held(stream: Stream) -> int:
    return stream.held
