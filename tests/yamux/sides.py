"""Sessions for tests: one whose peer the test plays, and a pair that is joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ccmproxy.yamux import (
    DataReceived,
    DataSent,
    EndReceived,
    EndSent,
    Event,
    Session,
    SessionConfig,
    Stream,
    StreamOpened,
)
from ccmproxy.yamux.frames import DATA, FrameReader, Header, encode

#: More bytes than any test sends.
ALL = 2**40

_KINDS = ("DATA", "WUPD", "PING", "GOAWAY")
_FLAGS = ((1, "SYN"), (2, "ACK"), (4, "FIN"), (8, "RST"))


def frame(kind: int, flags: int = 0, stream_id: int = 0, length: int = 0, payload: bytes = b"") -> bytes:
    """Return the bytes of a frame; with ``payload``, its length is that of the payload."""
    return encode(kind, flags, stream_id, length or len(payload)) + payload


def frames(data: bytes) -> Iterator[tuple[Header, bytes]]:
    """Return the frames in ``data``, each with its payload; all must be complete."""
    reader = FrameReader()
    found: list[tuple[Header, bytes]] = []
    for item in reader.feed(data):
        if isinstance(item, Header):
            found.append((item, b""))
        else:
            found[-1] = found[-1][0], found[-1][1] + item
    assert reader.is_between_frames
    yield from found


def described(data: bytes) -> list[str]:
    """Describe the frames in ``data``, such as ``WUPD|ACK id=1 len=0`` or ``DATA id=1 len=2 b'hi'``."""
    found = []
    for header, payload in frames(data):
        names = [_KINDS[header.kind], *(name for bit, name in _FLAGS if header.flags & bit)]
        text = f"{'|'.join(names)} id={header.stream_id} len={header.length}"
        found.append(f"{text} {payload!r}" if header.kind == DATA and header.length else text)
    return found


class Side:
    """A session and the part of its owner. ``now``: time in seconds; ``events``: all events so far.

    What is received is kept in ``received``, by stream, and consumed by ``read``. ``streams``: the newest of each id.
    """

    def __init__(self, config: SessionConfig | None = None, *, is_client: bool = False) -> None:
        self.now = 1000.0
        self.config = config or SessionConfig()
        self.session = Session(self.config, is_client, self.now)
        self.events: list[Event] = []
        self.received: dict[Stream, bytearray] = {}
        self.ended: set[Stream] = set()
        self.streams: dict[int, Stream] = {}
        #: Called at once for each event.
        self.on_event: Callable[[Event], None] | None = None

    def take_events(self) -> list[Event]:
        """Record the events since the last call, and return them."""
        taken = []
        while new := self.session.events():
            taken += new
            for event in new:
                if isinstance(event, StreamOpened):
                    self.streams[event.stream.id] = event.stream
                elif isinstance(event, DataReceived):
                    self.received.setdefault(event.stream, bytearray()).extend(event.data)
                elif isinstance(event, EndReceived):
                    self.ended.add(event.stream)
                if self.on_event is not None:
                    self.on_event(event)
        self.events += taken
        return taken

    def receive(self, data: bytes) -> list[Event]:
        """Receive bytes from the peer."""
        self.session.receive(data, self.now)
        return self.take_events()

    def output(self, max_bytes: int = ALL) -> bytes:
        """Return the bytes to send to the peer now."""
        data = self.session.data_to_send(max_bytes, self.now)
        self.take_events()
        return data

    def says(self, max_bytes: int = ALL) -> list[str]:
        """Describe the frames to send to the peer now."""
        return described(self.output(max_bytes))

    def answers(self, *data: bytes) -> list[str]:
        """Receive ``data`` from the peer, and describe the frames to send to it then."""
        self.receive(b"".join(data))
        return self.says()

    def wait(self, seconds: float) -> list[Event]:
        """Let time pass."""
        self.now += seconds
        self.session.tick(self.now)
        return self.take_events()

    def open(self) -> Stream:
        """Open a stream."""
        stream = self.session.open_stream(self.now)
        self.streams[stream.id] = stream
        return stream

    def read(self, stream: Stream, size: int = ALL) -> bytes:
        """Consume at most ``size`` of what has come on the stream."""
        buffer = self.received.setdefault(stream, bytearray())
        taken = bytes(buffer[:size])
        del buffer[:size]
        self.session.consumed(stream, len(taken))
        return taken

    def echo(self, event: Event) -> None:
        """For ``on_event``: accept every stream, echo its data, and close it when the peer does."""
        if isinstance(event, StreamOpened):
            self.session.accept(event.stream)
        elif isinstance(event, DataReceived):
            self.session.send(event.stream, self.read(event.stream))
        elif isinstance(event, EndReceived):
            self.session.close_write(event.stream)

    def hold(self, event: Event) -> None:
        """For ``on_event``: accept every stream, and consume no data."""
        if isinstance(event, StreamOpened):
            self.session.accept(event.stream)


class ConnectionPair:
    """Two joined sides; bytes move only by ``exchange``. ``sent``: the bytes that each has sent so far."""

    def __init__(self, client: SessionConfig | None = None, server: SessionConfig | None = None) -> None:
        self.client = Side(client, is_client=True)
        self.server = Side(server)
        self.sent = {self.client: bytearray(), self.server: bytearray()}

    def peer(self, side: Side) -> Side:
        """Return the other side."""
        return self.server if side is self.client else self.client

    def move(self, side: Side, max_bytes: int = ALL, piece: int = ALL) -> bool:
        """Carry ``max_bytes`` or slightly more from ``side``, in pieces. Return whether there was anything to carry."""
        data = side.output(max_bytes)
        self.sent[side] += data
        for at in range(0, len(data), piece):
            self.peer(side).receive(data[at : at + piece])
        return bool(data)

    def exchange(self) -> None:
        """Carry all bytes until neither side has more to send."""
        while any([self.move(self.client), self.move(self.server)]):
            pass


def told(events: list[Event]) -> list[object]:
    """Return the events that do not depend on how the carrier splits the bytes: without DataSent and EndSent, and with
    pieces of data joined."""
    found: list[object] = []
    for event in events:
        if isinstance(event, DataSent | EndSent):
            continue
        last = found[-1] if found else None
        if (
            isinstance(event, DataReceived)
            and isinstance(last, DataReceived)
            and last.stream.id == event.stream.id
        ):
            found[-1] = DataReceived(last.stream, last.data + event.data)
        else:
            found.append(event)
    return [_comparable(event) for event in found]


def _comparable(event: object) -> object:
    """Return an event in a form that can be compared with that of another session."""
    stream = getattr(event, "stream", None)
    details = [getattr(event, name, None) for name in ("data", "by_peer", "reason", "number")]
    error = getattr(event, "error", None)
    return type(event).__name__, stream and stream.id, *details, error and (type(error), str(error))
