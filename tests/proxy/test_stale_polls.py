"""Credentials check the age of their state once a second, however many requests arrive."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.proxy.stale_polls import StalePolls
from tests.proxy.parts import ShownCredential, ShownProvider


class StalePollsTests(SynchronousTestCase):
    """Two providers that share a credential."""

    def test_once_a_second_and_provider(self) -> None:
        now = 100.2
        polls = StalePolls(lambda: now)
        a, b = ShownCredential("a"), ShownCredential("b")
        both, one = ShownProvider(a, b), ShownProvider(a)
        for _ in range(3):
            polls.poll_stale(both, [a, b])
        self.assertEqual((a.asked, b.asked), (1, 1))
        polls.poll_stale(one, [a])
        self.assertEqual((a.asked, b.asked), (2, 1))
        now = 101.0
        polls.poll_stale(both, [a, b])
        self.assertEqual((a.asked, b.asked), (3, 2))
