"""One stream of a session: the state of its two directions, and the data that waits to be sent."""

from __future__ import annotations

from collections import deque
from enum import Enum

from ccmproxy.yamux.window import ReceiveWindow, SendWindow


class Direction(Enum):
    """State of one direction. It only changes from an earlier to a later member of this enumeration."""

    #: More data may follow.
    OPEN = "open"
    #: Outbound only: the owner writes no more data, but queued data and FIN have not been sent yet.
    ENDING = "ending"
    #: FIN has been sent or received.
    ENDED = "ended"


class Stream:
    """The state of a stream. Owners may read it and pass it to the session's methods, but not change it.

    ``id``: the number on the wire. It may be reused once the stream is closed, so this object, not the number,
    identifies the stream. ``is_inbound``: the peer opened the stream. ``is_accepted``: the owner has accepted it.
    ``is_acknowledged``: the peer has acknowledged it. ``inbound``, ``outbound``: the two directions. ``is_closed``:
    both have ended, or the stream was reset; the session has forgotten it. ``is_discarding``: received data is
    discarded. ``held``: bytes given to the owner and not consumed yet.
    """

    __slots__ = (
        "held",
        "id",
        "inbound",
        "is_accepted",
        "is_acknowledged",
        "is_closed",
        "is_discarding",
        "is_inbound",
        "outbound",
        "queue",
        "receive_window",
        "send_window",
    )

    def __init__(self, stream_id: int, is_inbound: bool, max_window: int) -> None:
        self.id = stream_id
        self.is_inbound = is_inbound
        self.is_accepted = not is_inbound
        self.is_acknowledged = is_inbound
        self.inbound = Direction.OPEN
        self.outbound = Direction.OPEN
        self.is_closed = False
        self.is_discarding = False
        self.held = 0
        self.receive_window = ReceiveWindow(max_window)
        self.send_window = SendWindow()
        self.queue = SendQueue()

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else f"in {self.inbound.value}, out {self.outbound.value}"
        return f"<Stream {self.id} {state}, {self.queue.size} bytes queued>"


class SendQueue:
    """Data that waits for window and carrier. ``size``: its number of bytes."""

    __slots__ = ("_chunks", "_taken", "size")

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._taken = 0  # bytes of the first chunk that have been taken already
        self.size = 0

    def add(self, data: bytes) -> None:
        """Append ``data``, which must not be changed afterwards."""
        self._chunks.append(data)
        self.size += len(data)

    def take(self, size: int) -> list[bytes | memoryview]:
        """Remove and return the next ``size`` bytes, which must be there, in pieces. Chunks are not copied."""
        chunks, pieces = self._chunks, list[bytes | memoryview]()
        self.size -= size
        while size:
            chunk, start = chunks[0], self._taken
            available = len(chunk) - start
            if available > size:
                pieces.append(memoryview(chunk)[start : start + size])
                self._taken += size
                break
            pieces.append(memoryview(chunk)[start:] if start else chunk)
            size -= available
            chunks.popleft()
            self._taken = 0
        return pieces

    def clear(self) -> None:
        """Drop all data."""
        self._chunks.clear()
        self._taken = self.size = 0
