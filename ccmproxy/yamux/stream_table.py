"""The open streams of a session, and what they were given that nobody has consumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ccmproxy.yamux.stream import Stream


class StreamTable:
    """Streams by their ids, and bytes that are held.

    ``unread``: bytes that owners were given and have not consumed, over all streams; those of a stream that was removed
    still count, unless it was released.
    """

    __slots__ = ("_streams", "get", "unread")

    def __init__(self) -> None:
        self._streams: dict[int, Stream] = {}
        #: The open stream with an id; None if there is none. Asked with every frame.
        self.get: Callable[[int], Stream | None] = self._streams.get
        self.unread = 0

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._streams.values())

    def __contains__(self, stream_id: object) -> bool:
        return stream_id in self._streams

    def add(self, stream: Stream) -> None:
        """The stream is open."""
        self._streams[stream.id] = stream

    def remove(self, stream: Stream) -> None:
        """The stream is closed."""
        stream.is_closed = True
        del self._streams[stream.id]

    def given(self, stream: Stream, size: int) -> None:
        """The stream's owner is given ``size`` bytes."""
        stream.held += size
        self.unread += size

    def consumed(self, stream: Stream, size: int) -> None:
        """``size`` bytes of that are used up. Raises ValueError if so many had not been given."""
        if size > stream.held:
            raise ValueError(f"{size} bytes consumed of {stream.held}")
        stream.held -= size
        self.unread -= size

    def release(self, stream: Stream) -> None:
        """What it was given counts no more, whether it is consumed or not; what still comes is thrown away."""
        self.unread -= stream.held
        stream.held = 0
        stream.is_discarding = True

    def fullest(self) -> Stream:
        """The open stream that was given most and did not consume it; there must be one."""
        return max(self._streams.values(), key=_held)

    def close_all(self) -> None:
        """The session is over: every stream is closed and released, and nothing of it will be sent."""
        for stream in self._streams.values():
            self.release(stream)
            stream.is_closed = True
            stream.queue.clear()
        self._streams.clear()


def _held(stream: Stream) -> int:
    return stream.held
