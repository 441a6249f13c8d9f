"""An upstream that a test operates by hand, deciding when to send, read and close."""

from __future__ import annotations

from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from ccmproxy.testing.memory_transport import MemoryTransport
from tests.conversation import World

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def event(name: str, payload: str) -> bytes:
    """One event of a stream."""
    return f"event: {name}\ndata: {payload}\n\n".encode()


START = event(
    "message_start",
    '{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
    '"model":"claude-opus-4-5","content":[],"usage":{"input_tokens":11,"output_tokens":1}}}',
)
TEXT = event(
    "content_block_delta",
    '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"größer — 日本語 🙂"}}',
)
USAGE = event("message_delta", '{"type":"message_delta","delta":{},"usage":{"output_tokens":42}}')
STOP = event("message_stop", '{"type":"message_stop"}')
MESSAGE = START + TEXT + USAGE + STOP


class Connection(Protocol):
    """One connection from the proxy. ``received``: all bytes; ``lost``: why it ended, None while it is open."""

    transport: MemoryTransport

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.received += data

    def connectionLost(self, reason: Failure = Failure(Exception())) -> None:  # noqa: B008
        """Keep why."""
        self.lost = reason

    def chunk(self, *data: bytes) -> None:
        """Send pieces of a chunked body, each a chunk of its own."""
        self.transport.write(b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in data))

    def end(self) -> None:
        """End a chunked body."""
        self.transport.write(b"0\r\n\r\n")


class ManualUpstream(Factory):
    """Replaces the simulator in ``world`` from now on."""

    noisy = False

    def __init__(self, world: World) -> None:
        self.connections: list[Connection] = []
        world.upstream.factory = self

    def buildProtocol(self, addr: object) -> Connection:
        """One more connection."""
        connection = Connection()
        self.connections.append(connection)
        return connection

    @property
    def last(self) -> Connection:
        """The connection made last."""
        return self.connections[-1]
