"""The aggregate is correct, and is recomputed only when necessary."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.proxy.aggregate_cache import AggregateCache
from ccmproxy.proxy.caller import Caller
from ccmproxy.state.aggregate import Aggregate
from tests.proxy.parts import ShownCredential, ShownProvider
from tests.states import NOW


class AggregateCacheTests(SynchronousTestCase):
    """Two credentials, and callers that see one or both of them."""

    def setUp(self) -> None:
        self.now = NOW
        self.cache = AggregateCache(lambda: self.now)
        self.a, self.b = ShownCredential("a", 20.0), ShownCredential("b", 60.0)
        self.both = Caller("u", ShownProvider(self.a, self.b))
        self.one = Caller("v", ShownProvider(self.a))

    def utilization(self, caller: Caller) -> float:
        """The utilization of the short window that the caller sees (percent)."""
        return round(self.whole(caller).short_utilization)

    def whole(self, caller: Caller) -> Aggregate:
        """The aggregate that the caller sees."""
        found = self.cache.aggregate_for(caller)
        assert found is not None
        return found

    def test_each_sees_his_own(self) -> None:
        self.assertEqual([self.utilization(each) for each in (self.both, self.one, self.both)], [41, 21, 41])

    def test_the_same_is_not_summed_up_again(self) -> None:
        self.assertIs(self.whole(self.both), self.whole(self.both))

    def test_a_change_is_seen_at_once(self) -> None:
        before = self.utilization(self.both)
        self.b.use(80.0)
        self.assertGreater(self.utilization(self.both), before)

    def test_time_is_a_change(self) -> None:
        """The aggregate is recomputed as time passes, because resets are reported as times from now."""
        before = self.whole(self.both)
        self.now += 1
        self.assertIsNot(self.whole(self.both), before)

    def test_nothing_is_known(self) -> None:
        self.a.use(None)
        self.assertIsNone(self.cache.aggregate_for(self.one))
        self.assertIsNotNone(self.cache.aggregate_for(self.both))
