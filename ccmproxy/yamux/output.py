"""What a session has to send: frames without payload first, then the streams' data, each in its turn."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import inf

from ccmproxy.yamux.frames import DATA, FIN, HEADER_SIZE, WINDOW_UPDATE, encode
from ccmproxy.yamux.parameters import SessionConfig
from ccmproxy.yamux.stream import Direction, Stream
from ccmproxy.yamux.timeouts import Timeouts


class Output:
    """The frames that wait, and the streams that have data.

    Frames without payload keep their order. They go ahead of all data, so that pings are answered and windows opened
    while the streams have more to say than the carrier takes; but the end of a stream goes behind its own data.

    ``on_sent`` is called when some data of a stream, ``on_end`` when its end has been taken. ``waiting``: streams that
    have data and no window. ``deadline``: when a carrier that is blocked has been so for too long; else infinity.
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
        #: The streams that have data, and may have window: whose turn it is first.
        self._ready: OrderedDict[Stream, None] = OrderedDict()
        self.waiting = Timeouts(config.window_timeout, "the peer read nothing for")

    def blocked(self, now: float) -> None:
        """The carrier takes no more for now."""
        self.deadline = min(self.deadline, now + self._write_timeout)

    def unblocked(self) -> None:
        """The carrier takes something again."""
        self.deadline = inf

    def add_control(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        """A frame without payload is to be sent."""
        self._control.append(encode(kind, flags, stream_id, length))

    def add_data(self, stream: Stream) -> None:
        """The stream has got data to send, or window for it."""
        if not stream.send_window.available and stream in self.waiting:
            return  # it goes on waiting: more to send is no sign of the peer
        self.waiting.stop(stream)
        self._ready.setdefault(stream)

    def forget(self, stream: Stream) -> None:
        """Nothing more of the stream is sent."""
        stream.queue.clear()
        self.waiting.stop(stream)
        self._ready.pop(stream, None)

    def clear_data(self) -> None:
        """Nothing more of any stream is sent."""
        self._ready.clear()
        self.waiting.clear()

    def take(self, max_bytes: int, now: float) -> bytes:
        """All frames without payload, then frames with data until there are ``max_bytes`` or more of them."""
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
                # A frame of its own: Go loses the payload of a DATA frame with FIN now and then.
                pieces.append(encode(WINDOW_UPDATE, FIN, stream.id, 0))
                self._on_end(stream)
        return b"".join(pieces)
