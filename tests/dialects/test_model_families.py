"""Names that distinguish models."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.model_families import names_models

WORDS = frozenset({"acme", "latest"})


class FamilyTests(SynchronousTestCase):
    """Which names do."""

    def test_names(self) -> None:
        for name in ("opus", "Opus", "acme_opus", "acme-4", "latest acme"):
            self.assertTrue(names_models(name, WORDS), name)
        for name in ("acme", "Acme", "_acme_", "LATEST", "", "_", "-"):
            self.assertFalse(names_models(name, WORDS), name)
