"""Activities in progress are registered, and counted by user."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.proxy.caller import Caller
from ccmproxy.proxy.registry import Registry
from tests.proxy.parts import ShownProvider


class _Exchange:
    credential = ""

    def __init__(self, name: str) -> None:
        self.caller = Caller(name, ShownProvider())

    def leave(self) -> None:
        pass


class RegistryTests(SynchronousTestCase):
    """Requests that begin and end."""

    def test_counts(self) -> None:
        registry = Registry()
        exchanges = [_Exchange(name) for name in ("alice", "alice", "bob")]
        for exchange in exchanges:
            registry.begin(exchange)
        self.assertEqual(registry.exchanges, set(exchanges))
        self.assertEqual(registry.under_way, {"alice": 2, "bob": 1})
        for exchange in exchanges[1:]:
            registry.end(exchange)
        self.assertEqual(registry.exchanges, {exchanges[0]})
        # Users may disappear from the configuration, so names without requests must not be kept.
        self.assertEqual(dict(registry.under_way), {"alice": 1})
