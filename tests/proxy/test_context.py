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

    def test_the_unix_time_of_a_moment(self) -> None:
        """If the clock was set since, it is the time on the new clock (spec 11)."""
        clock, ahead = Clock(), 0.0
        context = Forwarder(CODEX, clock, lambda: 1.8e9 + clock.seconds() + ahead).context
        clock.advance(10)
        for ahead in (0.0, -10800.0, 72000.0):
            self.assertEqual(context.unix_time(4.0), 1.8e9 + 4 + ahead)

    def test_frozen(self) -> None:
        clock = Clock()
        context = Forwarder(CODEX, clock, clock.seconds).context
        with self.assertRaises(FrozenInstanceError):
            context.options = ProxyOptions()  # type: ignore[misc]
