"""Sessions in a test: one whose peer is the test itself, and two that are joined."""

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

#: More than any test has to send.
ALL = 2**40

_KINDS = ("DATA", "WUPD", "PING", "GOAWAY")
_FLAGS = ((1, "SYN"), (2, "ACK"), (4, "FIN"), (8, "RST"))


def frame(kind: int, flags: int = 0, stream_id: int = 0, length: int = 0, payload: bytes = b"") -> bytes:
    """A frame; with ``payload``, of its length."""
    return encode(kind, flags, stream_id, length or len(payload)) + payload


def frames(data: bytes) -> Iterator[tuple[Header, bytes]]:
    """The frames in ``data``, which must be whole, each with its payload."""
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
    """The frames in ``data`` in words, such as ``WUPD|ACK id=1 len=0`` or ``DATA id=1 len=2 b'hi'``."""
    found = []
    for header, payload in frames(data):
        names = [_KINDS[header.kind], *(name for bit, name in _FLAGS if header.flags & bit)]
        text = f"{'|'.join(names)} id={header.stream_id} len={header.length}"
        found.append(f"{text} {payload!r}" if header.kind == DATA and header.length else text)
    return found


class Side:
    """A session and what an owner does with it. ``now``: in seconds; ``events``: all that were told.

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
        #: What is done at once on each event, besides.
        self.on_event: Callable[[Event], None] | None = None

    def take_events(self) -> list[Event]:
        """Note what has happened since, and return it."""
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
        """Bytes come from the peer."""
        self.session.receive(data, self.now)
        return self.take_events()

    def output(self, max_bytes: int = ALL) -> bytes:
        """What goes to the peer now."""
        data = self.session.data_to_send(max_bytes, self.now)
        self.take_events()
        return data

    def says(self, max_bytes: int = ALL) -> list[str]:
        """What goes to the peer now, in words."""
        return described(self.output(max_bytes))

    def answers(self, *data: bytes) -> list[str]:
        """What goes to the peer once it has sent ``data``."""
        self.receive(b"".join(data))
        return self.says()

    def wait(self, seconds: float) -> list[Event]:
        """Time passes."""
        self.now += seconds
        self.session.tick(self.now)
        return self.take_events()

    def open(self) -> Stream:
        """A stream of our own."""
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
        """For ``on_event``: accept everything, say it back, close what the peer closes."""
        if isinstance(event, StreamOpened):
            self.session.accept(event.stream)
        elif isinstance(event, DataReceived):
            self.session.send(event.stream, self.read(event.stream))
        elif isinstance(event, EndReceived):
            self.session.close_write(event.stream)

    def hold(self, event: Event) -> None:
        """For ``on_event``: accept everything, read nothing."""
        if isinstance(event, StreamOpened):
            self.session.accept(event.stream)


class ConnectionPair:
    """Two sides joined; nothing moves before ``exchange``. ``sent``: what each said so far."""

    def __init__(self, client: SessionConfig | None = None, server: SessionConfig | None = None) -> None:
        self.client = Side(client, is_client=True)
        self.server = Side(server)
        self.sent = {self.client: bytearray(), self.server: bytearray()}

    def peer(self, side: Side) -> Side:
        """The other one."""
        return self.server if side is self.client else self.client

    def move(self, side: Side, max_bytes: int = ALL, piece: int = ALL) -> bool:
        """Carry what ``side`` has to say, ``max_bytes`` of data or a little more, in pieces. Whether there was any."""
        data = side.output(max_bytes)
        self.sent[side] += data
        for at in range(0, len(data), piece):
            self.peer(side).receive(data[at : at + piece])
        return bool(data)

    def exchange(self) -> None:
        """Carry everything until neither has more to say."""
        while any([self.move(self.client), self.move(self.server)]):
            pass


def told(events: list[Event]) -> list[object]:
    """Events without those that only say that something left, and pieces of data joined: what does not depend on
    how the carrier cuts what it carries."""
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
    """An event of one session that equals that of another one."""
    stream = getattr(event, "stream", None)
    details = [getattr(event, name, None) for name in ("data", "by_peer", "reason", "number")]
    error = getattr(event, "error", None)
    return type(event).__name__, stream and stream.id, *details, error and (type(error), str(error))
