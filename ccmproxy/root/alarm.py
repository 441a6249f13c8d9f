"""What wakes a reactor after a number of seconds of monotonic time, whatever the system's clock says meanwhile."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

#: <linux/time.h>
_CLOCK_MONOTONIC: Final = 1


class Alarm(Protocol):
    """Calls a function once, after a time."""

    def set(self, delay: float | None) -> None:
        """Make the call in ``delay`` seconds, in place of an earlier setting; None: do not make it."""


def make_alarm(reactor: Any, wake: Callable[[], None]) -> Alarm:
    """Return an alarm that calls ``wake`` in the thread of ``reactor``: a timer descriptor where the system has such
    (Linux), and else a delayed call of the reactor, which follows the reactor's own clock."""
    if sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8 and IReactorFDSet.providedBy(reactor):
        try:
            return DescriptorAlarm(reactor, wake)
        except (OSError, AttributeError):
            pass  # A sandbox, or a C library that does not have it.
    return ReactorAlarm(reactor, wake)


class ReactorAlarm:
    """An alarm that a delayed call of the reactor makes. It comes late if the reactor's clock is set back."""

    def __init__(self, clock: IReactorTime, wake: Callable[[], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._call: IDelayedCall | None = None

    def set(self, delay: float | None) -> None:
        """See Alarm."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None if delay is None else self._clock.callLater(delay, self._wake)


class _Timer(ctypes.Structure):
    """struct itimerspec on systems with 64 bits: the interval, which stays 0, and the time until the first expiry."""

    _fields_ = (
        ("interval_seconds", ctypes.c_int64),
        ("interval_nanoseconds", ctypes.c_int64),
        ("seconds", ctypes.c_int64),
        ("nanoseconds", ctypes.c_int64),
    )


@implementer(IReadDescriptor)
class DescriptorAlarm:
    """An alarm that a descriptor of timerfd_create(2) makes. Raises OSError when the system does not give one.

    The standard library has these functions since Python 3.13 only. The reactor knows the descriptor only while the
    alarm is set, so that nothing is left in it afterwards.
    """

    def __init__(self, reactor: Any, wake: Callable[[], None]) -> None:
        """``reactor``: provides IReactorFDSet and IReactorFromThreads."""
        self._reactor = reactor
        self._wake = wake
        self._library = ctypes.CDLL(None, use_errno=True)
        self._library.timerfd_settime  # noqa: B018 - raises AttributeError if it is not there
        self._descriptor = self._library.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise _error()
        self._is_read = False

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)

    def set(self, delay: float | None) -> None:
        """See Alarm. Raises OSError when the system cannot set its timer.

        Without a delay, the call comes in the reactor's next turn, which costs less than a timer. It comes also if the
        alarm is set anew before that.
        """
        if delay == 0:
            self._reactor.callFromThread(self._wake)
            return
        timer = _Timer()
        if delay is not None:
            # A timer of 0 ns would be none.
            timer.seconds, timer.nanoseconds = divmod(max(1, round(delay * 1e9)), 1_000_000_000)
        if self._library.timerfd_settime(self._descriptor, 0, ctypes.byref(timer), None):
            raise _error()
        if (delay is not None) is not self._is_read:
            self._is_read = not self._is_read
            (self._reactor.addReader if self._is_read else self._reactor.removeReader)(self)

    # IReadDescriptor

    def fileno(self) -> int:
        """See IReadDescriptor."""
        return int(self._descriptor)

    def logPrefix(self) -> str:
        return "alarm"

    def doRead(self) -> None:
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:
            return  # It was set anew meanwhile.
        self._wake()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """The reactor ends."""
        self._is_read = False


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
