"""Reads a socket on which the kernel reports network changes, in the reactor."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.interfaces.network import INetworkMonitor, NetworkChange

#: Size of the receive buffer (bytes), larger than any datagram from the kernel.
_LONGEST: Final = 64 * 1024
#: Most datagrams read in one iteration of the reactor, so that other events are not delayed.
_AT_ONCE: Final = 32
_NOTHING_THERE: Final = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR)


class Notifications(Protocol):
    """Parses the datagrams of one kind of socket, without I/O."""

    def begin(self) -> bytes:
        """Forget the known state. Returns the request that asks the kernel for the present state; empty for none."""

    def receive(self, data: bytes, sender: Any) -> NetworkChange:
        """Take a datagram and the address of its sender. Returns the greatest change that it tells of. Never raises."""

    def request(self) -> bytes:
        """Return the next request to send to the kernel; empty for none. Called after each :meth:`receive`."""


@implementer(INetworkMonitor, IReadDescriptor)
class SocketMonitor:
    """Calls ``changed`` when ``notifications`` finds a change in the datagrams of a socket, or when some were lost.

    ``make_socket`` returns a non-blocking datagram socket, and may raise OSError.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorFDSet,
        make_socket: Callable[[], socket.socket],
        notifications: Notifications,
        changed: Callable[[NetworkChange], object],
    ) -> None:
        self._reactor = reactor
        self._make_socket = make_socket
        self._notifications = notifications
        self._changed = changed
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """See INetworkMonitor."""
        if self._socket is None:
            self._socket = self._make_socket()
            self._send(self._notifications.begin())
            self._reactor.addReader(self)

    def stop(self) -> None:
        """See INetworkMonitor."""
        if self._socket is not None:
            self._reactor.removeReader(self)
            self._socket.close()
            self._socket = None

    # IReadDescriptor

    def fileno(self) -> int:
        """See IReadDescriptor. Returns -1 while there is no socket."""
        return -1 if self._socket is None else self._socket.fileno()

    def logPrefix(self) -> str:
        return "network monitor"

    def doRead(self) -> None:
        for _ in range(_AT_ONCE):
            if self._socket is None:
                return
            try:
                data, _, flags, sender = self._socket.recvmsg(_LONGEST)
            except OSError as error:
                if error.errno in _NOTHING_THERE:
                    return
                self._missed(error)
                continue
            if flags & socket.MSG_TRUNC:
                self._missed(None)
                continue
            change = self._notifications.receive(data, sender)
            self._send(self._notifications.request())
            if change:
                self._changed(change)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.stop()

    def _missed(self, error: OSError | None) -> None:
        """Handle the loss of datagrams, after which the known state may be wrong. Stops after any other ``error``."""
        if error is not None and error.errno != errno.ENOBUFS:
            self.log.error("network changes are not noticed any more: {error}", error=str(error))
            self.stop()
        else:
            self._send(self._notifications.begin())
        # Whatever it was, a connection that it has cut off does not answer a ping.
        self._changed(NetworkChange.OTHER)

    def _send(self, request: bytes) -> None:
        if request and self._socket is not None:
            try:
                self._socket.send(request)
            except OSError:
                pass  # The present state remains unknown, so first messages count as changes.
