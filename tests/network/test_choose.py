"""Tests of the choice of a monitor, and of the single report of several changes."""

from __future__ import annotations

import errno

from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from ccmproxy.interfaces.network import INetworkMonitor, NetworkChange
from ccmproxy.network import network_monitor
from ccmproxy.network.choose import TOGETHER, FirstAvailable
from ccmproxy.network.debounce import Debounce


@implementer(INetworkMonitor)
class Monitor:
    """A monitor that does nothing. It can be started only if the system is said to support it."""

    def __init__(self, available: bool = True) -> None:
        self.available = available
        self.running = 0

    def start(self) -> None:
        """Count."""
        if not self.available:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        self.running += 1

    def stop(self) -> None:
        """Count."""
        self.running -= 1


class ChooseTests(SynchronousTestCase):
    """network_monitor and FirstAvailable."""

    def test_the_first_that_there_is(self) -> None:
        for available, expected in (((True, True), 0), ((False, True), 1), ((False, False), 2)):
            monitors = [*map(Monitor, available), Monitor()]
            chosen = FirstAvailable(monitors, Debounce(Clock(), 1, lambda change: None))
            verifyObject(INetworkMonitor, chosen)
            for _ in range(2):
                chosen.start()
                chosen.start()
                self.assertEqual([each.running for each in monitors], [n == expected for n in range(3)])
                chosen.stop()
                chosen.stop()
                self.assertEqual([each.running for each in monitors], [0, 0, 0])

    def test_without_file_descriptors(self) -> None:
        """Polling needs only a clock, on any system."""
        for platform in ("linux", "darwin", "win32"):
            clock = Clock()
            monitor = network_monitor(clock, lambda change: None, platform)
            monitor.start()
            self.assertEqual(len(clock.getDelayedCalls()), 1)
            monitor.stop()
            self.assertEqual(clock.getDelayedCalls(), [])

    def test_a_system_that_is_not_what_it_says(self) -> None:
        """This system has no routing socket, so polling is used."""
        reactor = MemoryReactorClock()
        monitor = network_monitor(reactor, lambda change: None, "freebsd14")
        monitor.start()
        if not reactor.getReaders():
            self.assertEqual(len(reactor.getDelayedCalls()), 1)
        monitor.stop()
        self.assertEqual((reactor.getReaders(), reactor.getDelayedCalls()), ([], []))

    def test_stop_forgets_what_was_to_be_told(self) -> None:
        clock = Clock()
        together = Debounce(clock, TOGETHER, lambda change: self.fail("told after the end"))
        chosen = FirstAvailable([Monitor()], together)
        chosen.start()
        together(NetworkChange.OTHER)
        chosen.stop()
        clock.advance(10)
