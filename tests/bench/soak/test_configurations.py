"""The configurations that the run makes are valid, and each differs from the one before."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bench.soak import configurations
from bench.soak.configurations import Places
from ccmproxy.config import Config, load_text

USERS = ("alice", "bob", "carol", "borrower", "extra", "lender")
ACCOUNTS = ("own-1", "own-2", "own-3", "codex-own-1", "codex-own-2", "lent", "codex-lent")
PORTS = ("claude", "codex", "lender claude", "lender codex", "extra")


def loaded(text: str) -> Config:
    """The checked configuration. Raises ConfigError."""
    return load_text(text, "soak.yaml")


class ConfigurationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.places = Places(
            {name: 9000 + number for number, name in enumerate(PORTS)},
            {name: Path(f"/logins/{name}.json") for name in ACCOUNTS},
            "http://127.0.0.1:8999",
            {name: f"the-token-of-{name}" for name in USERS},
        )

    def test_every_variant_is_valid(self) -> None:
        for variant in range(12):
            loaded(configurations.daemon(self.places, variant))
        self.assertEqual(len(loaded(configurations.lender(self.places)).services), 2)

    def test_a_reload_changes_something(self) -> None:
        for variant in range(12):
            before = configurations.daemon(self.places, variant)
            after = configurations.daemon(self.places, variant + 1)
            self.assertNotEqual(loaded(before), loaded(after))

    def test_a_service_comes_and_goes(self) -> None:
        counts = [len(loaded(configurations.daemon(self.places, variant)).services) for variant in range(4)]
        self.assertEqual(counts, [2, 3, 2, 3])
