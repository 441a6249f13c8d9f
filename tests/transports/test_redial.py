"""When a permanent connection is dialled (spec 7.4)."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.backoff import GOOD_LIFE
from ccmproxy.transports.redial import Redial


class RedialTests(SynchronousTestCase):
    """Drives a Redial whose ``dial`` only counts; the test reports how each attempt went."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.dialled: list[float] = []
        self.redial = Redial(self.clock, lambda: 0.0, lambda: self.dialled.append(self.clock.seconds()))

    def test_nothing_before_it_is_started(self) -> None:
        self.redial.restart()
        self.assertIsNone(self.redial.lost())
        self.assertEqual((self.dialled, self.clock.getDelayedCalls()), ([], []))

    def test_started_once(self) -> None:
        self.redial.start()
        self.redial.start()
        self.assertEqual(self.dialled, [0])
        self.assertTrue(self.redial.is_running)

    def test_again_after_ever_longer_delays(self) -> None:
        self.redial.start()
        delays = []
        for _ in range(6):
            delays.append(self.redial.lost())
            self.clock.pump([0.5] * 60)
        self.assertEqual(delays, [2, 4, 8, 16, 30, 30])
        self.assertEqual(self.dialled, [0, 2, 34, 68, 106, 150, 180])

    def test_random_part(self) -> None:
        redial = Redial(self.clock, lambda: 0.5, lambda: None)
        redial.start()
        self.assertEqual(redial.lost(), 2.5)
        redial.stop()

    def test_what_lived_long_was_good(self) -> None:
        self.redial.start()
        for lived, delay in ((1.0, 2.0), (GOOD_LIFE - 1, 4.0), (GOOD_LIFE, 2.0), (1.0, 4.0)):
            self.redial.made()
            self.clock.advance(lived)
            self.assertEqual(self.redial.lost(), delay)
            self.clock.advance(delay)

    def test_a_try_that_lasts_is_no_life(self) -> None:
        """The time of an attempt that fails is no lifetime; nor does that of an earlier connection count again."""
        self.redial.start()
        self.redial.made()
        for delay in (2.0, 4.0, 8.0):
            self.assertEqual(self.redial.lost(), delay)
            self.clock.advance(delay)
            self.clock.advance(GOOD_LIFE)

    def test_restarted_while_it_waits(self) -> None:
        self.redial.start()
        self.redial.lost()
        self.clock.advance(2)
        self.redial.lost()
        self.clock.advance(1)
        self.redial.restart()
        self.assertEqual(self.dialled, [0, 2, 3])
        self.assertEqual(self.redial.lost(), 2)
        self.clock.advance(2)
        self.assertEqual(self.dialled, [0, 2, 3, 5])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_told_twice(self) -> None:
        """A loss that is reported twice leads to one attempt."""
        self.redial.start()
        self.redial.lost()
        self.redial.lost()
        self.clock.advance(100)
        self.assertEqual(self.dialled, [0, 100])

    def test_stopped_while_it_waits(self) -> None:
        self.redial.start()
        self.redial.lost()
        self.redial.stop()
        self.redial.stop()
        self.assertFalse(self.redial.is_running)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertIsNone(self.redial.lost())
        self.redial.start()
        self.assertEqual(self.dialled, [0, 0])
