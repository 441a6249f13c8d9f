"""Tests of what wakes a reactor after a time that the system's clock does not touch."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from ccmproxy.root.alarm import DescriptorAlarm, ReactorAlarm, make_alarm


class ReactorAlarmTests(SynchronousTestCase):
    """An alarm on a reactor without descriptors."""

    def test_set_and_set_anew(self) -> None:
        clock, woken = Clock(), []
        alarm = make_alarm(clock, lambda: woken.append(clock.seconds()))
        self.assertIsInstance(alarm, ReactorAlarm)
        alarm.set(5)
        alarm.set(3)
        clock.pump([1] * 10)
        alarm.set(1)
        alarm.set(None)
        clock.advance(10)
        self.assertEqual(woken, [3])


class DescriptorAlarmTests(TestCase):
    """An alarm of the kernel, in the reactor."""

    timeout = 10
    if sys.platform != "linux":
        skip = "timer descriptors are Linux's"

    def setUp(self) -> None:
        from twisted.internet import reactor  # noqa: TID251

        self.reactor: Any = reactor
        self.woken: Deferred[float] = Deferred()
        self.times = 0
        alarm = make_alarm(reactor, self.wake)
        assert isinstance(alarm, DescriptorAlarm)
        self.alarm = alarm

    def wake(self) -> None:
        """Note it."""
        self.times += 1
        woken, self.woken = self.woken, Deferred()
        woken.callback(self.reactor.seconds())

    async def test_it_wakes_once(self) -> None:
        self.assertTrue(verifyObject(IReadDescriptor, self.alarm))
        self.alarm.set(3600)
        began = self.reactor.seconds()
        self.alarm.set(0.05)
        self.assertGreaterEqual(await self.woken - began, 0.04)
        self.alarm.set(0)
        self.assertEqual(self.times, 1, "not at once, but in the next turn")
        await self.woken
        self.assertEqual(self.times, 2)
        self.alarm.set(None)

    async def test_nothing_is_left_in_the_reactor(self) -> None:
        self.alarm.set(0.01)
        self.assertIn(self.alarm, self.reactor.getReaders())
        self.alarm.set(None)
        self.assertNotIn(self.alarm, self.reactor.getReaders())
        other = Deferred[None]()
        self.reactor.callLater(0.05, other.callback, None)
        await other
        self.assertEqual(self.times, 0)
