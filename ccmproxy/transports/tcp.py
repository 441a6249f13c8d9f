"""What we do to TCP connections, ours to upstreams and clients' to us: options, and writing without delay."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import ITransport
from twisted.internet.tcp import Connection

#: Seconds of silence after which the kernel asks whether the other end is still there, seconds between the questions,
#: and how many unanswered ones end the connection (F35). NATs and load balancers forget after 60 to 350 seconds.
KEEPALIVE_IDLE: Final = 30
KEEPALIVE_INTERVAL: Final = 10
KEEPALIVE_COUNT: Final = 6
#: How much Twisted reads from a TCP connection at once (bytes).
READ_SIZE: Final = Connection.bufferSize


def set_socket_options(transport: Any) -> None:
    """TCP_NODELAY, and keep-alive that notices a dead peer within two minutes, on a TCP transport.

    What the system or the transport does not know is left out; a socket that is gone already is no error.
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


def set_read_size(transport: ITransport, size: int) -> None:
    """Read at most ``size`` bytes at once from now on; does nothing to transports other than plain TCP connections.

    For whoever knows that so much is to come, such as the rest of a long message: each read costs a turn of the
    reactor, and its bytes a copy into one piece.
    """
    if isinstance(transport, Connection):
        transport.bufferSize = size


def direct_writer(transport: ITransport) -> Callable[[bytes], None]:
    """A ``write`` for ``transport`` that gives the kernel what it takes at once, and queues only the rest.

    Twisted's transports queue what is written, ask to be told when the socket is writable, and send it in the
    reactor's next turn. For a relay that passes small pieces on, that is two more calls to the kernel and one turn of
    delay for each piece, which is most of its cost.

    For plain TCP connections of Twisted's own reactors; for any other transport it is that transport's ``write``.
    Order, back-pressure and errors stay the transport's: whatever is not sent at once goes through its queue, and a
    socket that fails is left for the transport to find so.
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
            # Full, or broken: the transport finds out which.
            queue(data)
            return
        if sent < len(data):
            queue(data[sent:])

    return write


def direct_gatherer(transport: ITransport) -> Callable[[bytes, bytes | bytearray], None]:
    """A ``write`` of two pieces at once, for a short head and a long payload that are not to be copied into one.

    For the same connections as :func:`direct_writer`, and with the same promises; any other transport is given one
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
    # The exact kinds that were looked at: a subclass may queue in ways of its own. The three attributes of the queue
    # are FileDescriptor's (Twisted 22 to 26); without them nothing is done differently.
    return isinstance(transport, Connection) and not transport.TLS and hasattr(transport, "_tempDataBuffer")
