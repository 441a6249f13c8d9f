"""Everywhere else: look every few seconds.

Python can list the links, and ask the kernel which address it would send from; it cannot list all addresses. So this
sees links that come and go, and another way out of the machine (address or default route, IPv4 and IPv6); it does not
see an address that nothing is sent from, nor a cable that is unplugged and plugged in again between two looks.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from ccmproxy.interfaces.network import INetworkMonitor

#: Seconds between two looks (spec 7.4).
INTERVAL: Final = 10.0

#: Addresses that only a default route leads to: they are for documentation (RFC 5737, RFC 3849). Nothing is sent there.
_ELSEWHERE: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))

#: The links' numbers and names, and the addresses that IPv4 and IPv6 are sent from; None where they cannot be sent.
Look = tuple[tuple[tuple[int, str], ...], str | None, str | None]


def look() -> Look:
    """How things are. Never raises; takes a few calls to the kernel, and none to the network."""
    try:
        links = tuple(socket.if_nameindex())
    except OSError:
        links = ()  # a sandbox without netlink
    first, second = (_source(family, address) for family, address in _ELSEWHERE)
    return links, first, second


def _source(family: socket.AddressFamily, destination: str) -> str | None:
    """The address that packets to ``destination`` come from. Connecting a UDP socket sends nothing."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((destination, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


@implementer(INetworkMonitor)
class PollMonitor:
    """Calls ``changed`` where :func:`look` finds something else than at the last time. Works everywhere."""

    def __init__(
        self, clock: IReactorTime, changed: Callable[[], object], look: Callable[[], Look] = look
    ) -> None:
        self._clock = clock
        self._changed = changed
        self._look = look
        self._seen: Look | None = None
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """See INetworkMonitor."""
        if self._call is None:
            self._seen = self._look()
            self._call = self._clock.callLater(INTERVAL, self._look_again)

    def stop(self) -> None:
        """See INetworkMonitor."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look_again(self) -> None:
        self._call = self._clock.callLater(INTERVAL, self._look_again)
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            self._changed()
