"""Tests of :mod:`ccmproxy.credentials.login.forced_refreshes`: nobody makes us refresh all the time (spec 12.3)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.login.forced_refreshes import MOST_CALLERS, ForcedRefreshes

NOW = 1_800_000_000.0


class BudgetTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.budget = ForcedRefreshes()

    def test_three_a_minute(self) -> None:
        self.assertEqual([self.budget.take(None, NOW + n) for n in range(5)], [True] * 3 + [False] * 2)
        self.assertFalse(self.budget.take(None, NOW + 59))
        self.assertTrue(self.budget.take(None, NOW + 60))

    def test_one_caller_once_in_ten_minutes(self) -> None:
        self.assertTrue(self.budget.take("alice", NOW))
        self.assertFalse(self.budget.take("alice", NOW + 1))
        self.assertTrue(self.budget.take("bob", NOW + 2), "one caller spends nothing of another's")
        self.assertFalse(self.budget.take("alice", NOW + 599))
        self.assertTrue(self.budget.take("alice", NOW + 600))
        self.assertFalse(self.budget.take("alice", NOW + 1199))

    def test_what_is_refused_is_not_counted(self) -> None:
        self.assertTrue(self.budget.take("alice", NOW))
        for n in range(10):
            self.assertFalse(self.budget.take("alice", NOW + n))
        self.assertEqual([self.budget.take(name, NOW + 10) for name in "bcd"], [True, True, False])
        self.assertTrue(self.budget.take("d", NOW + 60), "it has forced none yet")

    def test_a_clock_that_is_set_back_blocks_nobody(self) -> None:
        self.assertTrue(self.budget.take("alice", NOW))
        self.assertTrue(self.budget.take("alice", NOW - 3600))

    def test_callers_are_bounded(self) -> None:
        for n in range(MOST_CALLERS + 1):
            self.assertTrue(self.budget.take(n, NOW + 20 * n))
        self.assertEqual(len(self.budget._callers), MOST_CALLERS)
