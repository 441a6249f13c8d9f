"""Reads a socket on which the kernel tells of changes, in the reactor."""

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

from ccmproxy.interfaces.network import INetworkMonitor

#: Longer than any datagram of the kernel's (bytes).
_LONGEST: Final = 64 * 1024
#: Datagrams that are read in one turn of the reactor: others want to be served too.
_AT_ONCE: Final = 32
_NOTHING_THERE: Final = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR)


class Notifications(Protocol):
    """What the datagrams of one kind of socket mean; bytes in, decisions out."""

    def begin(self) -> bytes:
        """Forget what was learnt. What is to be sent to the kernel, if anything, to learn how things are."""

    def receive(self, data: bytes, sender: Any) -> bool:
        """Take a datagram, and the address that it came from: has the network changed? Never raises."""

    def request(self) -> bytes:
        """What is to be sent to the kernel after that, if anything."""


@implementer(INetworkMonitor, IReadDescriptor)
class SocketMonitor:
    """Calls ``changed`` whenever ``notifications`` find a change in what comes on a socket, or some were lost.

    ``make_socket`` makes the socket: for datagrams, one that does not block. It may raise OSError.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorFDSet,
        make_socket: Callable[[], socket.socket],
        notifications: Notifications,
        changed: Callable[[], object],
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
        """See IReadDescriptor; -1 while there is none."""
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
            changed = self._notifications.receive(data, sender)
            self._send(self._notifications.request())
            if changed:
                self._changed()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.stop()

    def _missed(self, error: OSError | None) -> None:
        """Something happened that we were not told; what we know may be wrong."""
        if error is not None and error.errno != errno.ENOBUFS:
            self.log.error("network changes are not noticed any more: {error}", error=str(error))
            self.stop()
        else:
            self._send(self._notifications.begin())
        self._changed()

    def _send(self, request: bytes) -> None:
        if request and self._socket is not None:
            try:
                self._socket.send(request)
            except OSError:
                pass  # then what is not known yet counts as a change when it is first heard of
