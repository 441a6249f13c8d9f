"""A request keeps the rules with which it began."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.codex import CODEX
from ccmproxy.proxy.context import ProxyOptions
from ccmproxy.proxy.forwarder import Forwarder


class ContextTests(SynchronousTestCase):
    """The context of a service whose rules change."""

    def test_options_change_for_those_who_come_later(self) -> None:
        clock = Clock()
        forwarder = Forwarder(CODEX, clock, clock.seconds, ProxyOptions(max_body=1))
        before = forwarder.context
        forwarder.options = ProxyOptions(max_body=2)
        self.assertEqual((before.options.max_body, forwarder.context.options.max_body), (1, 2))
        # Everything else is shared by both contexts.
        for name in ("registry", "aggregates", "bound_values", "polls", "dialect", "clock"):
            self.assertIs(getattr(before, name), getattr(forwarder.context, name), name)

    def test_frozen(self) -> None:
        clock = Clock()
        context = Forwarder(CODEX, clock, clock.seconds).context
        with self.assertRaises(FrozenInstanceError):
            context.options = ProxyOptions()  # type: ignore[misc]
