"""Tests of the monitor that polls every few seconds."""

from __future__ import annotations

import socket

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ccmproxy.interfaces.network import INetworkMonitor, NetworkChange
from ccmproxy.network.address_poll import INTERVAL, Look, PollMonitor, has_address, look


class PollTests(SynchronousTestCase):
    """PollMonitor, with a scripted state of the network."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.seen: Look = (((1, "lo"),), "192.0.2.7", None)
        self.told = 0
        self.changes: list[NetworkChange] = []
        self.monitor = PollMonitor(self.clock, self.tell, lambda: self.seen)

    def tell(self, change: NetworkChange) -> None:
        """Record a change."""
        self.told += 1
        self.changes.append(change)

    def test_changes(self) -> None:
        verifyObject(INetworkMonitor, self.monitor)
        self.monitor.start()
        self.monitor.start()
        changes: list[Look] = [
            (((1, "lo"),), "192.0.2.8", None),
            (((1, "lo"),), "192.0.2.8", "2001:db8::7"),
            (((1, "lo"), (2, "eth0")), "192.0.2.8", "2001:db8::7"),
            (((1, "lo"), (3, "eth0")), None, None),
        ]
        for number, change in enumerate(changes):
            self.clock.advance(INTERVAL)
            self.assertEqual(self.told, number)
            self.seen = change
            self.clock.advance(INTERVAL)
            self.assertEqual(self.told, number + 1)
        route, other = NetworkChange.DEFAULT_ROUTE, NetworkChange.OTHER
        self.assertEqual(self.changes, [route, route, other, route])

    def test_stop(self) -> None:
        self.monitor.start()
        self.monitor.start()
        self.monitor.stop()
        self.monitor.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        # A change while the monitor is stopped is not reported.
        self.seen = ((), None, None)
        self.monitor.start()
        self.clock.advance(INTERVAL)
        self.assertEqual(self.told, 0)

    def test_stopped_by_who_is_told(self) -> None:
        monitor = PollMonitor(self.clock, lambda change: monitor.stop(), lambda: self.seen)
        monitor.start()
        self.seen = ((), None, None)
        self.clock.advance(INTERVAL)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_addresses_of_this_machine(self) -> None:
        """192.0.2.1 is for documentation, and nobody's."""
        self.assertTrue(has_address("127.0.0.1"))
        self.assertFalse(has_address("192.0.2.1"))
        self.assertFalse(has_address("2001:db8::1") and socket.has_ipv6)
        self.assertTrue(has_address("no address at all"), "nothing follows from what cannot be found out")

    def test_this_machine(self) -> None:
        links, first, second = look()
        self.assertEqual(look(), (links, first, second))
        for family, source in ((socket.AF_INET, first), (socket.AF_INET6, second)):
            if source is not None:
                socket.inet_pton(family, source.partition("%")[0])
        for number, name in links:
            self.assertEqual(socket.if_indextoname(number), name)
