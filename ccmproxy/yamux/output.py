"""The send queue of a session: control frames first, then the data of the streams in round-robin order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import inf

from ccmproxy.yamux.frames import DATA, FIN, HEADER_SIZE, WINDOW_UPDATE, encode
from ccmproxy.yamux.parameters import SessionConfig
from ccmproxy.yamux.stream import Direction, Stream
from ccmproxy.yamux.timeouts import Timeouts


class Output:
    """Control frames (those without payload) that wait to be sent, and the streams that have data to send.

    Control frames keep their order. They are sent before all data, so that pings are answered and windows renewed even
    while the streams have more data than the carrier takes. The FIN of a stream is sent after its data.

    ``on_sent`` is called when some data of a stream has been taken, ``on_end`` when its FIN has. ``waiting``: streams
    that have data but no window. ``deadline``: when a full carrier will have been full for too long; infinity while the
    carrier is not full.
    """

    __slots__ = (
        "_control",
        "_max_frame",
        "_on_end",
        "_on_sent",
        "_ready",
        "_write_timeout",
        "deadline",
        "waiting",
    )

    def __init__(
        self, config: SessionConfig, on_sent: Callable[[Stream], None], on_end: Callable[[Stream], None]
    ) -> None:
        self._max_frame = config.max_frame
        self._write_timeout = config.write_timeout
        self.deadline = inf
        self._on_sent = on_sent
        self._on_end = on_end
        self._control: list[bytes] = []
        #: The streams that have data and may have window, the next one to be served first.
        self._ready: OrderedDict[Stream, None] = OrderedDict()
        self.waiting = Timeouts(config.window_timeout, "the peer read nothing for")

    def blocked(self, now: float) -> None:
        """Record that the carrier is full; a repeated call does not extend the deadline."""
        self.deadline = min(self.deadline, now + self._write_timeout)

    def unblocked(self) -> None:
        """Record that the carrier takes data again."""
        self.deadline = inf

    def add_control(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        """Queue a control frame."""
        self._control.append(encode(kind, flags, stream_id, length))

    def add_data(self, stream: Stream) -> None:
        """Schedule the stream, which has got data to send, or window for it."""
        if not stream.send_window.available and stream in self.waiting:
            return  # its time-out continues: more data to send is no sign of life of the peer
        self.waiting.stop(stream)
        self._ready.setdefault(stream)

    def forget(self, stream: Stream) -> None:
        """Drop the queued data of the stream."""
        stream.queue.clear()
        self.waiting.stop(stream)
        self._ready.pop(stream, None)

    def clear_data(self) -> None:
        """Send no more data of any stream; control frames are still sent."""
        self._ready.clear()
        self.waiting.clear()

    def take(self, max_bytes: int, now: float) -> bytes:
        """Return all control frames, and then DATA frames until these have ``max_bytes`` or more in total."""
        pieces: list[bytes | memoryview] = [*self._control]
        self._control.clear()
        taken = 0
        ready = self._ready
        while ready and taken < max_bytes:
            stream, _ = ready.popitem(last=False)
            queue, window = stream.queue, stream.send_window
            size = min(queue.size, window.available, self._max_frame)
            if size:
                window.sent(size)
                pieces.append(encode(DATA, 0, stream.id, size))
                pieces += queue.take(size)
                taken += HEADER_SIZE + size
                self._on_sent(stream)
            if queue.size and window.available:
                ready[stream] = None
                continue
            if queue.size:
                self.waiting.start(stream, now)
            elif stream.outbound is Direction.ENDING:
                # FIN is sent in a frame of its own: Go sometimes loses the payload of a DATA frame that has FIN.
                pieces.append(encode(WINDOW_UPDATE, FIN, stream.id, 0))
                self._on_end(stream)
        return b"".join(pieces)
