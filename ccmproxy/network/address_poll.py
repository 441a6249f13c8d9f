"""The monitor for all other systems: it polls the state of the network every few seconds.

Python can list the links, and find out which source address the kernel would use, but it cannot list all addresses.
This monitor therefore notices links that appear or disappear, and changes of the source address or default route (IPv4
and IPv6). It does not notice an address that is no source address, or a cable that is unplugged and plugged in again
between two polls.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from ccmproxy.interfaces.network import INetworkMonitor, NetworkChange

#: Seconds between two polls (spec 7.4).
INTERVAL: Final = 10.0

#: Documentation addresses (RFC 5737, RFC 3849), which only a default route can reach. Nothing is sent to them.
_ELSEWHERE: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))

#: ((index, name) of each link, IPv4 source address, IPv6 source address). An address is None if there is no route.
Look = tuple[tuple[tuple[int, str], ...], str | None, str | None]


def look() -> Look:
    """Return the present state of the network. Never raises; makes a few system calls but sends nothing."""
    try:
        links = tuple(socket.if_nameindex())
    except OSError:
        links = ()  # For example in a sandbox without netlink.
    first, second = (_source(family, address) for family, address in _ELSEWHERE)
    return links, first, second


def has_address(host: str) -> bool:
    """Return whether ``host``, an IP address, is one of this machine's. True where that cannot be found out."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


def _source(family: socket.AddressFamily, destination: str) -> str | None:
    """Return the source address of packets to ``destination``, or None. Connecting a UDP socket sends nothing."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((destination, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


@implementer(INetworkMonitor)
class PollMonitor:
    """Calls ``changed`` when the result of :func:`look` differs from the previous one. Works on every system."""

    def __init__(
        self,
        clock: IReactorTime,
        changed: Callable[[NetworkChange], object],
        look: Callable[[], Look] = look,
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
        seen, before = self._look(), self._seen
        if seen != before:
            self._seen = seen
            is_other_way = before is None or seen[1:] != before[1:]
            self._changed(NetworkChange.DEFAULT_ROUTE if is_other_way else NetworkChange.OTHER)
