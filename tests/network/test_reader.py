"""Tests of reading a socket in the reactor: completely, without blocking, and without raising."""

from __future__ import annotations

import errno
import socket
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ccmproxy.interfaces.network import INetworkMonitor, NetworkChange
from ccmproxy.network.reader import SocketMonitor


class Script:
    """Notifications for which datagrams that begin with ``!`` are changes. Each is answered by its first byte."""

    def __init__(self) -> None:
        self.begun = 0
        self.received: list[bytes] = []

    def begin(self) -> bytes:
        """Greet."""
        self.begun += 1
        return b"hello"

    def request(self) -> bytes:
        """Answer."""
        return self.received[-1][:1]

    def receive(self, data: bytes, sender: Any) -> NetworkChange:
        """Keep it."""
        self.received.append(data)
        return NetworkChange.DEFAULT_ROUTE if data.startswith(b"!") else NetworkChange.NONE


class Failing(socket.socket):
    """A socket whose recvmsg first fails with the error numbers in ``failures``."""

    failures: list[int]

    def recvmsg(self, *arguments: Any) -> Any:
        """See socket.socket."""
        if self.failures:
            raise OSError(self.failures.pop(0), "no")
        return super().recvmsg(*arguments)


class ReaderTests(SynchronousTestCase):
    """SocketMonitor, with a socket pair instead of the kernel."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.script = Script()
        self.told = 0
        self.changes: list[NetworkChange] = []
        mine, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.kernel.setblocking(False)
        self.addCleanup(self.kernel.close)
        self.socket = Failing(fileno=mine.detach())
        self.socket.failures = []
        self.socket.setblocking(False)
        self.monitor = SocketMonitor(self.reactor, lambda: self.socket, self.script, self.tell)
        self.addCleanup(self.monitor.stop)

    def tell(self, change: NetworkChange) -> None:
        """Record a change."""
        self.told += 1
        self.changes.append(change)

    def asked(self) -> list[bytes]:
        """Return the requests that were sent to the kernel."""
        found = []
        while True:
            try:
                found.append(self.kernel.recv(100))
            except BlockingIOError:
                return found

    def test_start_and_stop(self) -> None:
        verifyObject(INetworkMonitor, self.monitor)
        verifyObject(IReadDescriptor, self.monitor)
        self.assertEqual(self.monitor.fileno(), -1)
        self.monitor.start()
        self.monitor.start()
        self.assertEqual(self.reactor.getReaders(), [self.monitor])
        self.assertEqual(self.monitor.fileno(), self.socket.fileno())
        self.assertEqual(self.asked(), [b"hello"])
        self.monitor.stop()
        self.monitor.stop()
        self.assertEqual(self.reactor.getReaders(), [])
        self.assertEqual(self.socket.fileno(), -1)
        self.assertEqual(self.told, 0)

    def test_everything_is_read(self) -> None:
        self.monitor.start()
        for data in (b"a", b"!b", b"c", b"!d"):
            self.kernel.send(data)
        self.monitor.doRead()
        self.assertEqual(self.script.received, [b"a", b"!b", b"c", b"!d"])
        self.assertEqual(self.told, 2)
        self.assertEqual(self.asked(), [b"hello", b"a", b"!", b"c", b"!"])
        self.assertEqual(self.changes, [NetworkChange.DEFAULT_ROUTE] * 2)
        self.monitor.doRead()
        self.assertEqual(self.told, 2)

    def test_others_are_served_too(self) -> None:
        """A flood of datagrams does not block the reactor."""
        self.monitor.start()
        sent = 0
        try:
            while sent < 1000:
                self.kernel.send(b"x")
                sent += 1
        except BlockingIOError:
            pass
        self.kernel.setblocking(True)
        self.monitor.doRead()
        self.assertLess(len(self.script.received), 100)

    def test_lost_notifications(self) -> None:
        """ENOBUFS: the lost messages count as a change, and the state is requested again."""
        self.monitor.start()
        self.socket.failures = [errno.ENOBUFS]
        self.kernel.send(b"a")
        self.monitor.doRead()
        self.assertEqual((self.told, self.script.begun, self.script.received), (1, 2, [b"a"]))
        self.assertEqual(self.changes, [NetworkChange.OTHER])
        self.assertEqual(self.asked(), [b"hello", b"hello", b"a"])

    def test_a_datagram_that_is_cut(self) -> None:
        self.monitor.start()
        self.kernel.send(bytes(70_000))
        self.monitor.doRead()
        self.assertEqual((self.told, self.script.begun, self.script.received), (1, 2, []))

    def test_interrupted(self) -> None:
        self.monitor.start()
        self.socket.failures = [errno.EINTR]
        self.monitor.doRead()
        self.assertEqual(self.told, 0)
        self.assertEqual(self.reactor.getReaders(), [self.monitor])

    def test_broken(self) -> None:
        """The monitor stops instead of retrying endlessly."""
        self.monitor.start()
        self.socket.failures = [errno.EBADF]
        self.monitor.doRead()
        self.assertEqual(self.reactor.getReaders(), [])
        self.assertEqual(self.told, 1)

    def test_a_kernel_that_cannot_be_asked(self) -> None:
        self.kernel.close()
        self.monitor.start()
        self.assertEqual(self.reactor.getReaders(), [self.monitor])

    def test_stopped_by_who_is_told(self) -> None:
        self.monitor = SocketMonitor(
            self.reactor, lambda: self.socket, self.script, lambda change: self.monitor.stop()
        )
        self.monitor.start()
        for _ in range(3):
            self.kernel.send(b"!")
        self.monitor.doRead()
        self.assertEqual(len(self.script.received), 1)

    def test_a_socket_that_cannot_be_made(self) -> None:
        def make() -> socket.socket:
            raise OSError(errno.EAFNOSUPPORT, "no")

        monitor = SocketMonitor(self.reactor, make, self.script, self.tell)
        self.assertRaises(OSError, monitor.start)
        self.assertEqual(self.reactor.getReaders(), [])
        self.socket.close()

    def test_the_reactor_drops_it(self) -> None:
        self.monitor.start()
        self.monitor.connectionLost()
        self.assertEqual(self.socket.fileno(), -1)
