"""Trends of figures."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from bench.soak.slopes import Bound, trend


class TrendTests(SynchronousTestCase):
    def test_a_leak_is_found_beneath_noise(self) -> None:
        rng = random.Random(1)
        leak = [(n * 5.0, 80.0 + n * 5.0 / 3600 * 30 + rng.uniform(-3, 3)) for n in range(720)]
        found = trend(leak, 600.0)
        assert found is not None
        self.assertTrue(28.0 < found.per_hour < 32.0, found)
        self.assertAlmostEqual(found.hours, (719 * 5 - 600) / 3600, places=3)
        self.assertTrue(found.exceeds(Bound(16.0, 12.0)))

    def test_a_level_figure(self) -> None:
        rng = random.Random(1)
        found = trend([(n * 5.0, 50.0 + rng.uniform(-5, 5)) for n in range(720)], 600.0)
        assert found is not None
        self.assertFalse(found.exceeds(Bound(10.0, 15.0)))

    def test_the_beginning_does_not_count(self) -> None:
        grows = [(float(n), float(min(n, 100))) for n in range(400)]
        found = trend(grows, 100.0)
        assert found is not None
        self.assertEqual((found.per_hour, found.first, found.last), (0.0, 100.0, 100.0))

    def test_one_outlier(self) -> None:
        found = trend([(float(n), 1000.0 if n == 350 else 50.0) for n in range(400)], 0.0)
        assert found is not None
        self.assertEqual(found.per_hour, 0.0)

    def test_noise_in_a_short_run(self) -> None:
        """A steep slope over a short time is no leak yet."""
        found = trend([(n * 5.0, 80.0 + n / 10) for n in range(24)], 0.0)
        assert found is not None
        self.assertAlmostEqual(found.per_hour, 72.0)
        self.assertFalse(found.exceeds(Bound(16.0, 12.0)))
        self.assertTrue(found.exceeds(Bound(16.0, 2.0)))

    def test_too_few(self) -> None:
        self.assertIsNone(trend([], 0.0))
        self.assertIsNone(trend([(float(n), 1.0) for n in range(10)], 6.0))
