"""Tests for :mod:`ccmproxy.yamux.parameters`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.yamux.parameters import INITIAL_WINDOW, LARGEST_WINDOW, Rate, RateLimit, SessionConfig


class SessionConfigTests(SynchronousTestCase):
    """Invalid configurations."""

    def test_window(self) -> None:
        self.assertRaises(ValueError, SessionConfig, max_window=INITIAL_WINDOW - 1)
        self.assertRaises(ValueError, SessionConfig, max_window=LARGEST_WINDOW + 1)
        SessionConfig(max_window=INITIAL_WINDOW)

    def test_frame(self) -> None:
        self.assertRaises(ValueError, SessionConfig, max_frame=0)


class RateLimitTests(SynchronousTestCase):
    """Burst size and rate of the token bucket."""

    def test_burst_then_rate(self) -> None:
        limit = RateLimit(Rate(3, 2.0), 100.0)
        self.assertEqual([limit.allows(100.0) for _ in range(4)], [True, True, True, False])
        self.assertEqual(
            [limit.allows(100.4), limit.allows(100.5), limit.allows(100.6)], [False, True, False]
        )
        self.assertTrue(limit.allows(101.1))

    def test_no_more_than_the_burst_is_saved(self) -> None:
        limit = RateLimit(Rate(2, 10.0), 0.0)
        self.assertEqual([limit.allows(1000.0) for _ in range(3)], [True, True, False])
