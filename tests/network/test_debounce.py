"""Tests of debouncing."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.interfaces.network import NetworkChange
from ccmproxy.network.debounce import Debounce

OTHER = NetworkChange.OTHER


class DebounceTests(SynchronousTestCase):
    """Debounce."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.told: list[float] = []
        self.debounce = Debounce(self.clock, 1.0, self.tell)
        self.changes: list[NetworkChange] = []

    def tell(self, change: NetworkChange) -> None:
        """Keep it and its time."""
        self.told.append(self.clock.seconds())
        self.changes.append(change)

    def test_together(self) -> None:
        for _ in range(3):
            self.debounce(OTHER)
            self.clock.advance(0.25)
        self.assertEqual(self.told, [])
        self.clock.advance(0.25)
        self.assertEqual(self.told, [1.0])
        self.clock.advance(10)
        self.assertEqual(self.told, [1.0])
        self.debounce(OTHER)
        self.clock.advance(1)
        self.assertEqual(self.told, [1.0, 12.0])

    def test_what_never_rests_is_told_all_the_same(self) -> None:
        for _ in range(40):
            self.debounce(OTHER)
            self.clock.advance(0.125)
        self.assertEqual(len(self.told), 5)

    def test_the_greatest(self) -> None:
        for change in (OTHER, NetworkChange.DEFAULT_ROUTE, OTHER):
            self.debounce(change)
        self.clock.advance(1)
        self.debounce(OTHER)
        self.clock.advance(1)
        self.debounce(NetworkChange.DEFAULT_ROUTE)
        self.debounce.stop()
        self.debounce(OTHER)
        self.clock.advance(1)
        self.assertEqual(self.changes, [NetworkChange.DEFAULT_ROUTE, OTHER, OTHER])

    def test_stop(self) -> None:
        self.debounce(OTHER)
        self.debounce.stop()
        self.debounce.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.debounce(OTHER)
        self.clock.advance(1)
        self.assertEqual(len(self.told), 1)

    def test_from_within(self) -> None:
        """The function that is called may cause the next call."""
        self.debounce = Debounce(self.clock, 1.0, self.again)
        self.debounce(OTHER)
        self.clock.pump([1] * 10)
        self.assertEqual(len(self.told), 3)

    def again(self, change: NetworkChange) -> None:
        """Count, and cause another, twice."""
        self.told.append(0)
        if len(self.told) < 3:
            self.debounce(OTHER)
