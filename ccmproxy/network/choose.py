"""Chooses the network monitor for this system."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

from twisted.internet.interfaces import IReactorFDSet
from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.interfaces.network import INetworkMonitor, NetworkChange
from ccmproxy.network.address_poll import PollMonitor
from ccmproxy.network.bsd import bsd_monitor, layout
from ccmproxy.network.debounce import Debounce
from ccmproxy.network.linux import linux_monitor

#: Changes within this time are reported as one (seconds; spec 7.4).
TOGETHER: Final = 1.0


def network_monitor(
    reactor: Any, changed: Callable[[NetworkChange], object], platform: str = sys.platform
) -> INetworkMonitor:
    """Return a monitor for this system, not started. It uses notifications of the kernel if possible, else polling.

    ``reactor`` provides time, and file descriptors if it supports them. ``changed`` is called in the reactor thread,
    once for all changes within a second, with the greatest of them, and never during ``start``. ``start`` does not
    raise.
    """
    together = Debounce(reactor, TOGETHER, changed)
    monitors: list[INetworkMonitor] = []
    if IReactorFDSet.providedBy(reactor):
        found = layout(platform)
        if platform == "linux":
            monitors.append(linux_monitor(reactor, together))
        elif found is not None:
            monitors.append(bsd_monitor(reactor, together, found))
    monitors.append(PollMonitor(reactor, together))
    return FirstAvailable(monitors, together)


@implementer(INetworkMonitor)
class FirstAvailable:
    """Runs the first of ``monitors`` that can be started. The last one must always start. ``stop`` also stops
    ``together``."""

    log = Logger()

    def __init__(self, monitors: Iterable[INetworkMonitor], together: Debounce) -> None:
        self._monitors = list(monitors)
        self._together = together
        self._running: INetworkMonitor | None = None

    def start(self) -> None:
        """See INetworkMonitor."""
        if self._running is not None:
            return
        *preferred, last = self._monitors
        for monitor in preferred:
            try:
                monitor.start()
            except OSError as error:
                self.log.info(
                    "the system does not tell of network changes ({error}): looking every few seconds instead",
                    error=str(error),
                )
            else:
                self._running = monitor
                return
        last.start()
        self._running = last

    def stop(self) -> None:
        """See INetworkMonitor."""
        if self._running is not None:
            self._running.stop()
            self._running = None
        self._together.stop()
