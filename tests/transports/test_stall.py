"""A peer that takes nothing is told apart from one that is slow."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Connection
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.testing.pump import Pump
from ccmproxy.transports.stall import StallWatch, unsent_measure


class Waiting:
    """Stands for one of our own transports, with ``unsent`` bytes waiting in it."""

    def __init__(self, unsent: int) -> None:
        self.unsent = unsent

    def unsent_bytes(self) -> int:
        """All of it."""
        return self.unsent


class StallTests(SynchronousTestCase):
    """The time measured between ``blocked`` and ``released``."""

    def setUp(self) -> None:
        self.transport = Waiting(1000)
        self.watch = StallWatch(self.transport)

    def test_nothing_waits(self) -> None:
        self.assertLess(self.watch.seconds(1e9), 0)
        self.watch.blocked(10.0)
        self.watch.released()
        self.assertLess(self.watch.seconds(1e9), 0)

    def test_nothing_is_taken(self) -> None:
        self.watch.blocked(10.0)
        self.assertEqual([self.watch.seconds(now) for now in (10.0, 11.0, 70.0)], [0.0, 1.0, 60.0])

    def test_any_byte_counts(self) -> None:
        self.watch.blocked(0.0)
        for now in range(1, 1000):
            self.transport.unsent -= 1
            self.assertEqual(self.watch.seconds(float(now)), 0.0)
        self.assertEqual(self.watch.seconds(1059.0), 60.0)

    def test_more_than_before_is_no_progress(self) -> None:
        """Something is written meanwhile, such as a keep-alive comment."""
        self.watch.blocked(0.0)
        self.transport.unsent += 10
        self.assertEqual(self.watch.seconds(5.0), 5.0)
        self.transport.unsent -= 1
        self.assertEqual(self.watch.seconds(6.0), 0.0)

    def test_a_transport_that_cannot_tell(self) -> None:
        """Then the whole time since ``blocked`` counts."""
        watch = StallWatch(object())
        watch.blocked(0.0)
        self.assertEqual(watch.seconds(60.0), 60.0)


class MeasureTests(SynchronousTestCase):
    """How much waits."""

    def test_in_memory(self) -> None:
        pump = Pump(Protocol(), Protocol(), wire_size=100)
        unsent = unsent_measure(pump.client)
        pump.client.write(bytes(500))
        self.assertEqual(unsent(), 500)
        pump.server.pauseProducing()
        pump.flush()
        self.assertEqual(unsent(), 500)
        pump.server.resumeProducing()
        pump.flush()
        self.assertEqual(unsent(), 0)

    def test_twisted_with_the_kernel(self) -> None:
        """Bytes in the kernel that the peer has not read do not count as taken."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        ours.setblocking(False)
        transport: Any = Connection(ours, Protocol(), MemoryReactorClock())
        transport.connected = 1
        unsent = unsent_measure(transport)
        self.assertEqual(unsent(), 0)
        transport.write(bytes(4 * 1024 * 1024))
        self.assertEqual(unsent(), 4 * 1024 * 1024)
        transport.doWrite()
        held = unsent()
        self.assertGreater(held, len(transport.dataBuffer) - transport.offset)
        theirs.recv(1024 * 1024)
        self.assertLess(unsent(), held)

    def test_a_socket_that_is_gone(self) -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        transport: Any = Connection(ours, Protocol(), MemoryReactorClock())
        ours.close()
        self.assertEqual(unsent_measure(transport)(), 0)
