"""What a selection says, and what a refused one does."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.availability import Availability
from ccmproxy.balancing import NoCredential, Selection


class SelectionTests(SynchronousTestCase):
    """Values."""

    def test_external_capacity_must_be_allowed(self) -> None:
        self.assertFalse(Selection().allow_external)
        self.assertEqual(Selection().excluded, frozenset())

    def test_refusal_says_why(self) -> None:
        blocked = Availability("rate_limited", "rate_limited", "all credentials rate-limited", 10.0)
        self.assertEqual(str(NoCredential(blocked)), "all credentials rate-limited")
        self.assertIs(NoCredential(blocked).availability, blocked)
        self.assertEqual(str(NoCredential(Availability("unavailable", "unavailable"))), "unavailable")
