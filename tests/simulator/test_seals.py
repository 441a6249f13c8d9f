"""Seals tell their owner."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.seals import is_sealed_by, seal


class SealTests(SynchronousTestCase):
    """F12."""

    def test_only_its_owner_accepts_it(self) -> None:
        sealed = seal("mine", "a thought")
        self.assertTrue(is_sealed_by("mine", sealed))
        self.assertFalse(is_sealed_by("yours", sealed))
        for odd in (b"", sealed[:5], sealed[1:]):
            self.assertFalse(is_sealed_by("mine", odd))

    def test_it_depends_on_the_text(self) -> None:
        self.assertNotEqual(seal("mine", "a"), seal("mine", "b"))
        self.assertEqual(seal("mine", "a"), seal("mine", "a"))
