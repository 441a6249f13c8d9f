"""Timers that no change of the system's clock can touch (spec 11, F65).

Twisted's reactors take the time from ``time.time``. If the system's clock is set back by three hours, every delayed
call of such a reactor comes three hours late, and with it every time-out, retry, poll and ping. Two ways out, for two
situations:

- A process that owns its reactor gives it another clock, before anything is scheduled (:func:`use_monotonic_time`).
  This is one assignment, and it also covers the timers that Twisted and the libraries set for themselves. The daemon
  does this.
- A program that embeds ccmproxy owns its reactor, and may want Unix time from it. There, ccmproxy keeps its delayed
  calls itself (:class:`MonotonicTime`). They must not be driven by a delayed call of the reactor, which would be late
  after the jump as well, so a timer descriptor of the kernel wakes the reactor (:mod:`ccmproxy.root.alarm`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Final

from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.root.alarm import Alarm, make_alarm

#: A reactor whose time is within this of the system's clock takes it from there (seconds).
_SAME: Final = 60.0
#: What an alarm is set for that has gone off: whatever comes next, even nothing, is something else.
_GONE_OFF: Final = -1.0
#: As many cancelled calls are kept before they are removed together.
_MOST_DEAD: Final = 50


def use_monotonic_time(reactor: Any) -> None:
    """Let ``reactor`` take the time of its delayed calls from the monotonic clock.

    This works for the reactors of Twisted that keep their delayed calls in ReactorBase, which all of them do. Raises
    RuntimeError when something has been scheduled already, because that would not happen any more.
    """
    if reactor.getDelayedCalls():
        raise RuntimeError("the reactor has delayed calls already")
    reactor.seconds = time.monotonic


def monotonic_clock(reactor: Any) -> IReactorTime:
    """Return a monotonic clock: ``reactor`` itself, unless its time is that of the system's clock."""
    clock: IReactorTime = reactor
    if abs(reactor.seconds() - time.time()) > _SAME:  # noqa: TID251 - that clock is what is asked about
        return clock
    return MonotonicTime(lambda wake: make_alarm(reactor, wake))


@implementer(IReactorTime)
class MonotonicTime:
    """Delayed calls on a monotonic clock, in an alarm's turns of the reactor.

    ``make``: makes the alarm, given the function that it calls. ``seconds``: the monotonic clock.
    """

    log = Logger()

    def __init__(
        self, make: Callable[[Callable[[], None]], Alarm], seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._alarm = make(self._wake)
        #: (time, number, call) by time; of calls at the same time, the one that was made first comes first.
        self._heap: list[tuple[float, int, DelayedCall]] = []
        self._numbers = count()
        #: How many of them have been cancelled.
        self._dead = 0
        #: The time for which the alarm is set; None: it is not set.
        self._set_for: float | None = None
        self._is_waking = False

    def seconds(self) -> float:
        """See IReactorTime."""
        return self._seconds()

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> IDelayedCall:
        """See IReactorTime. Raises ValueError when ``delay`` is negative."""
        if delay < 0:
            raise ValueError(f"a call cannot be {-delay} s late")
        call = DelayedCall(
            self.seconds() + delay, callable, args, kw, self._cancelled, self._is_sooner, self._seconds
        )
        heappush(self._heap, (call.time, next(self._numbers), call))
        self._set_alarm()
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """See IReactorTime."""
        return [call for _, _, call in self._heap if call.active()]

    def _cancelled(self, call: DelayedCall) -> None:
        """Leave a cancelled call where it is until half of all are. The last one is removed, and the alarm with it."""
        self._dead += 1
        if self._dead >= len(self._heap) or self._dead > max(_MOST_DEAD, len(self._heap) // 2):
            self._sort_anew(without=call)

    def _is_sooner(self, call: DelayedCall) -> None:
        """A call was given an earlier time. For a later one nothing is done before the call's first time has come."""
        self._sort_anew()

    def _sort_anew(self, without: DelayedCall | None = None) -> None:
        self._dead = 0
        self._heap = [
            (call.time, number, call)
            for _, number, call in self._heap
            if call.active() and call is not without
        ]
        heapify(self._heap)
        self._set_alarm()

    def _set_alarm(self) -> None:
        if self._is_waking:
            return  # It is set at the end of the turn.
        first = self._heap[0][0] if self._heap else None
        if first != self._set_for:
            self._set_for = first
            self._alarm.set(None if first is None else max(0.0, first - self.seconds()))

    def _wake(self) -> None:
        """Make the calls that are due, and set the alarm for the next one."""
        self._set_for = _GONE_OFF
        self._is_waking = True
        try:
            # What is scheduled meanwhile comes in a later turn, so that the reactor does not stay here.
            for call in self._due():
                if call.active():
                    call.called = 1
                    try:
                        call.func(*call.args, **call.kw)
                    except BaseException:
                        self.log.failure("a delayed call failed")
        finally:
            self._is_waking = False
            self._set_alarm()

    def _due(self) -> list[DelayedCall]:
        now, due = self.seconds(), []
        while self._heap and self._heap[0][0] <= now:
            _, number, call = heappop(self._heap)
            if not call.active():
                self._dead -= 1
            elif call.delayed_time > 0:
                call.activate_delay()
                heappush(self._heap, (call.time, number, call))
            else:
                due.append(call)
        return due
