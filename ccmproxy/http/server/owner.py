"""What one connection knows of the server that it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from twisted.internet.interfaces import IReactorTime

from ccmproxy.http.framing import join_head
from ccmproxy.http.message import ResponseHead
from ccmproxy.http.server.request import ServerRequest

KIB: Final = 1024
MIB: Final = 1024 * KIB


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a client may take of a server. Sizes in bytes, times in seconds.

    ``head_size``: request line and header fields (431). ``head_timeout``: for a whole head, from its first byte or, for
    the first one, from the beginning of the connection (408 if any of it came). ``body_idle_timeout``: without a byte
    of a body that is being received (BodyTimeout). ``keepalive_timeout``: between requests. ``drain_size``,
    ``drain_timeout``: how much of a body is read and thrown away, and for how long, after it was answered early, so
    that the client comes to read the answer instead of being reset (RFC 9112 section 9.6). ``client_stall_timeout``: a
    client that takes not a byte of what waits for it is dropped.
    """

    head_size: int = 64 * KIB
    head_timeout: float = 30.0
    body_idle_timeout: float = 60.0
    keepalive_timeout: float = 300.0
    drain_size: int = 128 * MIB
    drain_timeout: float = 30.0
    client_stall_timeout: float = 600.0


class OwnedConnection(Protocol):
    """A connection, as its server sees it."""

    def check_deadline(self, now: float) -> None:
        """Act on what has lasted too long; ``now`` in the clock's seconds. To be called every second."""

    def close_when_idle(self) -> None:
        """Take no further request."""

    def abort(self) -> None:
        """Drop the connection at once."""


class ConnectionOwner(Protocol):
    """The server, as its connections see it."""

    clock: IReactorTime
    limits: ServerLimits
    #: No further request is taken.
    stopping: bool
    #: Called with each request as soon as its head is complete.
    handler: Callable[[ServerRequest], None]
    #: Shapes the answer to what never became a request: from a status and a sentence.
    malformed: Callable[[int, str], tuple[ResponseHead, bytes]]

    def connection_made(self, connection: OwnedConnection) -> None:
        """A connection begins."""

    def connection_lost(self, connection: OwnedConnection) -> None:
        """A connection is over."""


def last_answer(owner: ConnectionOwner, status: int, message: str) -> bytes:
    """The whole answer, head and body, to what never became a request; the connection ends with it.

    Raises whatever the owner's ``malformed`` raises, and FramingError where its head cannot be sent.
    """
    head, body = owner.malformed(status, message)
    skipped = (b"content-length", b"transfer-encoding", b"connection")
    headers = [field for field in head.headers if field[0].lower() not in skipped]
    headers += [(b"Content-Length", b"%d" % len(body)), (b"Connection", b"close")]
    return join_head(b"HTTP/1.1 %d %b" % (head.status, head.reason), headers) + body
