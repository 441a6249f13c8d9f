"""Socket options and direct writing for TCP connections, both ours to upstreams and those of clients to us."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import ITransport
from twisted.internet.tcp import Connection

#: Keep-alive: seconds of silence before the kernel's first probe, seconds between probes, and the number of unanswered
#: probes after which the connection is dead (F35). NATs and load balancers forget connections after 60 to 350 seconds.
KEEPALIVE_IDLE: Final = 30
KEEPALIVE_INTERVAL: Final = 10
KEEPALIVE_COUNT: Final = 6
#: How much Twisted reads from a TCP connection at once (bytes).
READ_SIZE: Final = Connection.bufferSize

#: The number of TCP_NOTSENT_LOWAT, which Python's socket module does not name before 3.12.
_TCP_NOTSENT_LOWAT: Final = {"linux": 25, "darwin": 0x201}.get(sys.platform)


def set_socket_options(transport: Any) -> None:
    """Set TCP_NODELAY on a TCP transport, and keep-alive that notices a dead peer within two minutes.

    Options that the system or the transport does not support are skipped; a closed socket is not an error.
    """
    try:
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)
        handle = transport.getHandle()
        for names, value in (
            (("TCP_KEEPIDLE", "TCP_KEEPALIVE"), KEEPALIVE_IDLE),  # the second is macOS's name
            (("TCP_KEEPINTVL",), KEEPALIVE_INTERVAL),
            (("TCP_KEEPCNT",), KEEPALIVE_COUNT),
        ):
            option = next((getattr(socket, name) for name in names if hasattr(socket, name)), None)
            if option is not None:
                handle.setsockopt(socket.IPPROTO_TCP, option, value)
    except (OSError, AttributeError):
        pass


def limit_unsent(transport: Any, size: int) -> None:
    """Limit the unsent data in the kernel to little more than ``size`` bytes, on any transport that has a socket.

    Where the option is not supported, nothing changes: later writes wait behind all that the kernel's buffer holds.
    """
    if _TCP_NOTSENT_LOWAT is not None:
        try:
            transport.getHandle().setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, size)
        except (OSError, AttributeError):
            pass


def set_read_size(transport: ITransport, size: int) -> None:
    """Read at most ``size`` bytes at once from now on; does nothing to transports other than plain TCP connections.

    For whoever knows that so much is to come, such as the rest of a long message: each read costs a turn of the
    reactor, and its bytes a copy into one piece.
    """
    if isinstance(transport, Connection):
        transport.bufferSize = size


def direct_writer(transport: ITransport) -> Callable[[bytes], None]:
    """Return a ``write`` for ``transport`` that sends to the socket at once, and queues only what the kernel refuses.

    Twisted's transports queue what is written, ask to be told when the socket is writable, and send it in the
    reactor's next turn. For a relay of small pieces this adds two system calls and one reactor turn of delay to each
    piece, which is most of its cost.

    This works for plain TCP connections of Twisted's own reactors; for any other transport that transport's own
    ``write`` is returned. The transport still handles order, back-pressure and errors: whatever is not sent at once
    goes through its queue, and it is left to the transport to notice a socket that fails.
    """
    if not _can_write_directly(transport):
        return transport.write
    tcp: Any = transport
    queue: Callable[[bytes], None] = tcp.write
    send: Callable[[bytes], int] = tcp.socket.send

    def write(data: bytes) -> None:
        if tcp.dataBuffer or tcp._tempDataBuffer or tcp.disconnecting or not tcp.connected:
            queue(data)
            return
        try:
            sent = send(data)
        except OSError:
            # The socket is full or broken; the transport finds out which.
            queue(data)
            return
        if sent < len(data):
            queue(data[sent:])

    return write


def direct_gatherer(transport: ITransport) -> Callable[[bytes, bytes | bytearray], None]:
    """Return a ``write`` of two pieces at once, for a short head and a long payload that need not be copied into one.

    It works for the same connections as :func:`direct_writer`, and in the same way; any other transport is given one
    piece. The payload must not be changed afterwards.
    """
    if not _can_write_directly(transport):
        return lambda head, payload: transport.write(head + payload)
    tcp: Any = transport
    queue: Callable[[bytes], None] = tcp.write
    send: Callable[[tuple[bytes, bytes | bytearray]], int] = tcp.socket.sendmsg

    def write(head: bytes, payload: bytes | bytearray) -> None:
        sent = 0
        if tcp.connected and not (tcp.dataBuffer or tcp._tempDataBuffer or tcp.disconnecting):
            try:
                sent = send((head, payload))
            except OSError:
                pass  # full, or broken: the transport finds out which
        if sent < len(head):
            queue(head[sent:])
            sent = len(head)
        if sent < len(head) + len(payload):
            queue(bytes(memoryview(payload)[sent - len(head) :]))

    return write


def _can_write_directly(transport: ITransport) -> bool:
    # The attributes of the queue are those of Twisted's FileDescriptor (Twisted 22 to 26); without them the
    # transport's own write is used.
    return isinstance(transport, Connection) and not transport.TLS and hasattr(transport, "_tempDataBuffer")
