"""The interfaces between the server and its connections, and the limits that the server sets."""

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
    """Limits on the resources that one client may use. Sizes in bytes, times in seconds.

    ``head_size``: largest request line and header fields together (431). ``head_timeout``: longest time for a whole
    head, from its first byte or, for the first head, from the beginning of the connection (408 if a part of it
    arrived). ``body_idle_timeout``: longest pause between bytes of a body that is being received (BodyTimeout).
    ``keepalive_timeout``: longest idle time between requests. ``drain_size``, ``drain_timeout``: how many bytes of a
    body are read and discarded, and for how long, after the request was answered early, so that the client can read the
    answer instead of meeting a reset (RFC 9112 section 9.6). ``client_stall_timeout``: a client that reads no byte of
    its pending data for this long is dropped.
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
        """Enforce the time-outs of the connection. To be called every second, with ``now`` in the clock's seconds."""

    def close_when_idle(self) -> None:
        """Close now if no request is being received or answered, else after the current response."""

    def abort(self) -> None:
        """Drop the connection at once."""


class ConnectionOwner(Protocol):
    """The server, as its connections see it."""

    clock: IReactorTime
    limits: ServerLimits
    #: Whether the server is stopping: no connection takes a further request.
    stopping: bool
    #: Called with each request as soon as its head is complete.
    handler: Callable[[ServerRequest], None]
    #: Formats the answer to a malformed request, from a status and a sentence.
    malformed: Callable[[int, str], tuple[ResponseHead, bytes]]

    def connection_made(self, connection: OwnedConnection) -> None:
        """Register a new connection."""

    def connection_lost(self, connection: OwnedConnection) -> None:
        """Forget a connection that was lost."""


def last_answer(owner: ConnectionOwner, status: int, message: str) -> bytes:
    """Return the bytes of a complete error answer, head and body, after which the connection is closed.

    Raises whatever the owner's ``malformed`` raises, and FramingError when its head cannot be sent.
    """
    head, body = owner.malformed(status, message)
    skipped = (b"content-length", b"transfer-encoding", b"connection")
    headers = [field for field in head.headers if field[0].lower() not in skipped]
    headers += [(b"Content-Length", b"%d" % len(body)), (b"Connection", b"close")]
    return join_head(b"HTTP/1.1 %d %b" % (head.status, head.reason), headers) + body
