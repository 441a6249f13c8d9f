"""One stream of a session: how far each of its directions has got, and what waits to be sent."""

from __future__ import annotations

from collections import deque
from enum import Enum

from ccmproxy.yamux.window import ReceiveWindow, SendWindow


class Direction(Enum):
    """How far one direction has got. It only ever goes on."""

    #: Data may come.
    OPEN = "open"
    #: Outbound only: no more data will be given, but some waits to be sent, and the end behind it.
    ENDING = "ending"
    #: The end (FIN) has been sent, or has come.
    ENDED = "ended"


class Stream:
    """What the session knows of a stream. Its owner passes it to the session's methods, and reads it; nothing else.

    ``id``: its number on the wire, which may be used again once the stream is closed; so the object stands for the
    stream, not the number. ``is_inbound``: the peer opened it. ``is_accepted``: somebody has taken it.
    ``is_acknowledged``: the peer has shown that it knows it. ``inbound``, ``outbound``: the two directions.
    ``is_closed``: both have ended, or it was reset; the session has forgotten it. ``is_discarding``: what comes is
    thrown away. ``held``: bytes that its owner was given and has not consumed.
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
    """Bytes that wait for window and carrier. ``size``: how many."""

    __slots__ = ("_chunks", "_taken", "size")

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._taken = 0  # bytes of the first chunk that are gone already
        self.size = 0

    def add(self, data: bytes) -> None:
        """``data`` goes behind the rest. It must not be changed afterwards."""
        self._chunks.append(data)
        self.size += len(data)

    def take(self, size: int) -> list[bytes | memoryview]:
        """The next ``size`` bytes, at most what is there, in pieces; no large chunk is ever copied for it."""
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
        """Nothing is to be sent any more."""
        self._chunks.clear()
        self._taken = self.size = 0
