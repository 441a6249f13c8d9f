"""Tests of delayed calls on a monotonic clock (F65)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.base import ReactorBase
from twisted.internet.error import AlreadyCalled
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock, LoopingCall, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from ccmproxy.root.alarm import DescriptorAlarm, ReactorAlarm
from ccmproxy.root.monotonic_time import MonotonicTime, monotonic_clock, use_monotonic_time


class BareReactor(ReactorBase):
    """A reactor without descriptors, which runs one iteration when it is asked to."""

    def installWaker(self) -> None:
        """There is none."""


class ReactorTests(SynchronousTestCase):
    """A reactor that is ours."""

    def test_its_own_calls(self) -> None:
        reactor = BareReactor()
        use_monotonic_time(reactor)
        made: list[str] = []
        reactor.callLater(0, made.append, "now")
        later = reactor.callLater(3600, made.append, "later")
        self.assertLess(abs(later.getTime() - time.monotonic() - 3600), 60)
        reactor.runUntilCurrent()
        self.assertEqual(made, ["now"])
        self.assertIs(monotonic_clock(reactor), reactor)

    def test_not_when_something_is_scheduled(self) -> None:
        """It would never happen."""
        reactor = BareReactor()
        reactor.callLater(1, lambda: None)
        self.assertRaises(RuntimeError, use_monotonic_time, reactor)

    def test_the_reactor_of_somebody_else_keeps_its_time(self) -> None:
        reactor = BareReactor()
        clock = monotonic_clock(reactor)
        self.assertIsInstance(clock, MonotonicTime)
        self.assertLess(abs(clock.seconds() - time.monotonic()), 60)
        self.assertGreater(reactor.seconds(), 1e9)

    def test_a_clock_that_is_no_wall_clock(self) -> None:
        clock = Clock()
        self.assertIs(monotonic_clock(clock), clock)


class RealTests(TestCase):
    """On a reactor that knows the time of day."""

    timeout = 10
    if sys.platform != "linux":
        skip = "timer descriptors are Linux's"

    async def test_nothing_is_left_in_the_reactor(self) -> None:
        """Neither a delayed call nor a descriptor, once everything has been called or cancelled."""
        from twisted.internet import reactor  # noqa: TID251

        real: Any = reactor
        clock = monotonic_clock(real)
        made: list[str] = []
        began = time.monotonic()
        clock.callLater(0.1, made.append, "last")
        clock.callLater(0.05, made.append, "second")
        clock.callLater(0, made.append, "first")
        cancelled = clock.callLater(3600, made.append, "never")
        await deferLater(clock, 0.02)
        self.assertEqual(made, ["first"])
        await deferLater(clock, 0.2)
        self.assertEqual(made, ["first", "second", "last"])
        self.assertLess(0.2, time.monotonic() - began)
        await deferLater(real, 0)  # The alarm is set at the end of its own turn.
        self.assertEqual(self.alarms(real), 1)
        cancelled.cancel()
        self.assertEqual(self.alarms(real), 0)
        await deferLater(clock, 0.01)
        await deferLater(real, 0)
        self.assertEqual(self.alarms(real), 0)

    def alarms(self, reactor: Any) -> int:
        """How many alarms there are in the reactor."""
        return len([each for each in reactor.getReaders() if isinstance(each, DescriptorAlarm)])


class ManualAlarm:
    """An alarm that a test gives. ``delay``: what it is set to; ``wake``: what it calls."""

    def __init__(self) -> None:
        self.delay: float | None = None
        self.wake: Callable[[], None] = lambda: None

    def made(self, wake: Callable[[], None]) -> ManualAlarm:
        """The alarm, for its clock."""
        self.wake = wake
        return self

    def set(self, delay: float | None) -> None:
        """See Alarm."""
        self.delay = delay


class MonotonicTimeTests(SynchronousTestCase):
    """On a clock that a test moves, with an alarm on the same clock."""

    def setUp(self) -> None:
        self.hardware = Clock()
        self.clock = MonotonicTime(self.alarm, self.hardware.seconds)
        self.made: list[object] = []

    def alarm(self, wake: Callable[[], None]) -> ReactorAlarm:
        """The alarm."""
        return ReactorAlarm(self.hardware, wake)

    def later(self, delay: float, name: str | None = None) -> None:
        """Schedule a note."""
        self.clock.callLater(delay, self.made.append, name or str(delay))

    def test_interface(self) -> None:
        self.assertTrue(verifyObject(IReactorTime, self.clock))
        self.assertRaises(ValueError, self.clock.callLater, -1.0, lambda: None)

    def test_in_order_of_time_and_then_of_calling(self) -> None:
        for delay, name in ((2, "c"), (1, "a"), (1, "b"), (0, "0")):
            self.later(delay, name)
        self.assertEqual(len(self.clock.getDelayedCalls()), 4)
        self.hardware.pump([0, 0.5, 0.5])
        self.assertEqual(self.made, ["0", "a", "b"])
        self.hardware.advance(1)
        self.assertEqual(self.made, ["0", "a", "b", "c"])
        self.assertEqual(self.hardware.getDelayedCalls(), [])

    def test_cancelled(self) -> None:
        calls = [self.clock.callLater(delay, self.made.append, delay) for delay in (1, 2, 3)]
        calls[0].cancel()
        self.assertEqual(len(self.clock.getDelayedCalls()), 2)
        self.hardware.advance(2)
        self.assertEqual(self.made, [2])
        self.assertRaises(AlreadyCalled, calls[1].cancel)
        calls[2].cancel()
        self.assertEqual(self.hardware.getDelayedCalls(), [], "nothing is left in the reactor")

    def test_many_that_are_cancelled_are_not_kept(self) -> None:
        self.later(10_000)
        for _ in range(1000):
            self.clock.callLater(5000, lambda: None).cancel()
        self.assertLess(len(self.clock._heap), 200)
        self.hardware.advance(10_000)
        self.assertEqual(self.made, ["10000"])

    def test_cancelled_by_one_that_comes_at_the_same_time(self) -> None:
        self.clock.callLater(1, lambda: second.cancel())
        second = self.clock.callLater(1, self.made.append, "second")
        self.later(2)
        self.hardware.advance(1)
        self.hardware.advance(1)
        self.assertEqual(self.made, ["2"])
        self.assertEqual(self.hardware.getDelayedCalls(), [])

    def test_reset_and_delayed(self) -> None:
        sooner = self.clock.callLater(10, self.made.append, "sooner")
        later = self.clock.callLater(1, self.made.append, "later")
        delayed = self.clock.callLater(1, self.made.append, "delayed")
        sooner.reset(0.5)
        later.reset(4)
        delayed.delay(2)
        for expected in (["sooner"], ["sooner"], ["sooner", "delayed"], ["sooner", "delayed", "later"]):
            self.hardware.advance(1)
            self.assertEqual(self.made, expected)
        self.assertEqual(self.hardware.getDelayedCalls(), [])

    def test_what_a_call_schedules_comes_in_a_later_turn(self) -> None:
        """Nothing starves the reactor."""
        alarm = ManualAlarm()
        clock = MonotonicTime(alarm.made, self.hardware.seconds)

        def again() -> None:
            self.made.append("again")
            clock.callLater(0, again)

        clock.callLater(0, again)
        for number in range(1, 4):
            self.assertEqual(alarm.delay, 0)
            alarm.wake()
            self.assertEqual(len(self.made), number)

    def test_a_call_that_fails(self) -> None:
        """It is logged, and the others are made."""
        self.clock.callLater(1, lambda: 1 / 0)
        self.later(1)
        self.hardware.advance(1)
        self.assertEqual(self.made, ["1"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_periodic(self) -> None:
        looping = LoopingCall(self.made.append, "tick")
        looping.clock = self.clock
        looping.start(1.0, now=False)
        self.hardware.pump([1.0] * 5)
        looping.stop()
        self.assertEqual(self.made, ["tick"] * 5)
        self.assertEqual(self.hardware.getDelayedCalls(), [])
