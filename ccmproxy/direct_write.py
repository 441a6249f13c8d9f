"""Writing to a TCP transport without waiting for the reactor's next turn.

Twisted's transports queue what is written, ask to be told when the socket is writable, and send it in the next turn.
For a relay that passes small pieces on, that is two calls to the kernel and one turn of delay for each piece, which
is most of its cost. A socket that has nothing queued can be written to at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import ITransport
from twisted.internet.tcp import Connection


def direct_writer(transport: ITransport) -> Callable[[bytes], None]:
    """A ``write`` for ``transport`` that gives the kernel what it takes at once, and queues only the rest.

    For plain TCP connections of Twisted's own reactors; for any other transport it is that transport's ``write``.
    Order, back-pressure and errors stay the transport's: whatever is not sent at once goes through its queue, and a
    socket that fails is left for the transport to find so.
    """
    # The exact kinds that were looked at: a subclass may queue in ways of its own. The three attributes of the queue
    # are FileDescriptor's (Twisted 22 to 26); without them nothing is done differently.
    if not isinstance(transport, Connection) or transport.TLS or not hasattr(transport, "_tempDataBuffer"):
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
