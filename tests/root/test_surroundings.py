"""Tests of the surroundings of a real process."""

from __future__ import annotations

from random import Random

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config import UpstreamConfig
from ccmproxy.root.surroundings import Surroundings


class RealSurroundingsTests(SynchronousTestCase):
    """What is taken from the reactor."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.surroundings = Surroundings.of_reactor(self.reactor, Random(1))

    def test_clock_and_endpoints_are_the_reactors(self) -> None:
        """Unix time is not: it is the system's, and only advances with the reactor's clock (spec 11)."""
        self.assertIs(self.surroundings.clock, self.reactor)
        before = self.surroundings.now()
        self.assertGreater(before, 1.7e9)
        self.reactor.advance(5)
        self.assertEqual(self.surroundings.now(), before + 5)
        self.assertLess(self.surroundings.look_at_clock(), 0)
        self.surroundings.listen("tcp:8080:interface=127.0.0.1")
        way = self.surroundings.outbound(UpstreamConfig(), None)
        way.endpoint("127.0.0.1", 9000, False)
        self.assertEqual(self.reactor.tcpServers, [])

    def test_certificates_that_cannot_be_used_are_named(self) -> None:
        path = self.mktemp()
        error = self.assertRaises(OSError, self.surroundings.outbound, UpstreamConfig(ca_path=path), None)
        self.assertIn(path, str(error))
