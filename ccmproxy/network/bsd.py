"""The monitor for macOS, FreeBSD and OpenBSD: the routing socket (route(4)). It needs no privileges.

The messages are C structures that differ between the systems. :class:`Layout` holds the offsets of their fields, taken
from <net/route.h> and <net/if.h> of each system (64 bits).
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from twisted.internet.interfaces import IReactorFDSet

from ccmproxy.interfaces.network import NetworkChange
from ccmproxy.network.reader import SocketMonitor

#: PF_ROUTE, which has this value on all three systems.
_ROUTING: Final = 17
_VERSION: Final = 5

_ADD, _DELETE, _CHANGE = 0x1, 0x2, 0x3
_NEW_ADDRESS, _DEL_ADDRESS, _LINK_INFO = 0xC, 0xD, 0xE
_UP, _LOOPBACK, _RUNNING = 0x1, 0x8, 0x40
_HOST_ROUTE: Final = 0x4
#: Kinds of the socket addresses behind a message, which come in the order: destination, gateway, netmask, genmask,
#: link, address of the link …
_DESTINATION, _NETMASK, _INTERFACE_ADDRESS = 0, 2, 5
_KINDS: Final = 15


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets of fields, in bytes from the start of a message.

    ``route_size``, ``address_size``: sizes of rt_msghdr and ifa_msghdr, behind which the socket addresses begin; None
    if the message has the size at offset 4. ``route_addresses``, ``route_flags``: fields of rt_msghdr. ``addresses``,
    ``flags``, ``index``: fields of if_msghdr and ifa_msghdr. ``link_state``: field of if_msghdr, None if it has none.
    ``alignment``: of socket addresses. ``ipv6``: the value of AF_INET6. ``announcement``, ``lost``: the types of the
    messages that a link was added or removed, and that messages were lost; 0 if the system has no such messages.
    """

    route_size: int | None
    route_addresses: int
    route_flags: int
    address_size: int | None
    addresses: int
    flags: int
    index: int
    link_state: int | None
    alignment: int
    ipv6: int
    announcement: int = 0
    lost: int = 0


DARWIN: Final = Layout(92, 12, 8, 20, 4, 8, 12, None, 4, 30)
FREEBSD: Final = Layout(152, 12, 8, 20, 4, 8, 12, 20, 8, 28, announcement=0x11)
OPENBSD: Final = Layout(None, 12, 16, None, 12, 16, 6, 27, 8, 24, announcement=0xF, lost=0x10)


def layout(platform: str) -> Layout | None:
    """Return the layout for a value of ``sys.platform``, or None if it is not known."""
    for prefix, found in (("darwin", DARWIN), ("freebsd", FREEBSD), ("openbsd", OPENBSD)):
        if platform.startswith(prefix):
            return found
    return None


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, whole message) for each message of a datagram. Ends at the first malformed message."""
    position = 0
    while position + 4 <= len(data):
        length = _number(data, position, 2)
        if not 4 <= length <= len(data) - position:
            return
        if data[position + 2] == _VERSION:
            yield data[position + 3], data[position : position + length]
        position += length


def socket_addresses(message: bytes, position: int, present: int, alignment: int) -> dict[int, bytes]:
    """Return the socket addresses from ``position`` on, by kind. ``present``: bit mask of the kinds that are there."""
    found = {}
    for kind in range(_KINDS):
        if present & (1 << kind) and position < len(message):
            length = message[position]
            found[kind] = message[position : position + length]
            # An address of length 0 still takes up one unit of the alignment.
            position += max(alignment, (length + alignment - 1) & -alignment)
    return found


def _number(data: bytes, position: int, size: int) -> int:
    return int.from_bytes(data[position : position + size], sys.byteorder)


class RoutingSocket:
    """Parses the datagrams of a routing socket. See :class:`~ccmproxy.network.reader.Notifications`.

    The present state cannot be requested on this socket (that takes sysctl), so the first message about a link counts
    as a change.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._links: dict[int, tuple[int, int]] = {}
        self._loopbacks: set[int] = set()

    def begin(self) -> bytes:
        """See Notifications."""
        self._links.clear()
        self._loopbacks.clear()
        return b""

    def request(self) -> bytes:
        """See Notifications."""
        return b""

    def receive(self, data: bytes, sender: Any) -> NetworkChange:
        """See Notifications."""
        change = NetworkChange.NONE
        for kind, message in messages(data):
            change = max(change, self._take(kind, message))
        return change

    def _take(self, kind: int, message: bytes) -> NetworkChange:
        if kind in (_ADD, _DELETE, _CHANGE):
            return NetworkChange.DEFAULT_ROUTE if self._is_default_route(message) else NetworkChange.NONE
        if kind == _LINK_INFO:
            is_change = self._take_link(message)
        elif kind in (_NEW_ADDRESS, _DEL_ADDRESS):
            is_change = self._is_change_of_address(message)
        else:
            is_change = kind != 0 and kind in (self._layout.announcement, self._layout.lost)
        return NetworkChange.OTHER if is_change else NetworkChange.NONE

    def _take_link(self, message: bytes) -> bool:
        layout = self._layout
        if len(message) < max(layout.flags + 4, layout.index + 2, (layout.link_state or 0) + 1):
            return False
        index, flags = _number(message, layout.index, 2), _number(message, layout.flags, 4)
        if flags & _LOOPBACK:
            self._loopbacks.add(index)
            return False
        state = flags & (_UP | _RUNNING), 0 if layout.link_state is None else message[layout.link_state]
        before = self._links.get(index)
        self._links[index] = state
        return state != before

    def _is_change_of_address(self, message: bytes) -> bool:
        layout = self._layout
        size = layout.address_size or _number(message, 4, 2)
        if len(message) < max(size, layout.index + 2, layout.addresses + 4):
            return False
        if _number(message, layout.index, 2) in self._loopbacks:
            return False
        present = _number(message, layout.addresses, 4)
        found = socket_addresses(message, size, present, layout.alignment)
        address = self._address(found.get(_INTERFACE_ADDRESS, b""))
        return address is None or not ip_address(address).is_loopback

    def _is_default_route(self, message: bytes) -> bool:
        layout = self._layout
        size = layout.route_size or _number(message, 4, 2)
        if len(message) < max(size, layout.route_addresses + 4, layout.route_flags + 4):
            return False
        if _number(message, layout.route_flags, 4) & _HOST_ROUTE:
            return False
        present = _number(message, layout.route_addresses, 4)
        found = socket_addresses(message, size, present, layout.alignment)
        # A default route has a destination of zeros, and a mask of zeros or none.
        destination = self._address(found.get(_DESTINATION, b""))
        return destination is not None and not any(destination) and not any(found.get(_NETMASK, b"")[4:])

    def _address(self, socket_address: bytes) -> bytes | None:
        """Return the IP address in a sockaddr_in or sockaddr_in6. None for other families and malformed addresses."""
        if len(socket_address) >= 8 and socket_address[1] == socket.AF_INET:
            return socket_address[4:8]
        if len(socket_address) >= 24 and socket_address[1] == self._layout.ipv6:
            return socket_address[8:24]
        return None


def open_socket() -> socket.socket:
    """Open a routing socket. Raises OSError when the system has none."""
    opened = socket.socket(_ROUTING, socket.SOCK_RAW, 0)
    opened.setblocking(False)
    return opened


def bsd_monitor(
    reactor: IReactorFDSet, changed: Callable[[NetworkChange], object], layout: Layout
) -> SocketMonitor:
    """Return a monitor that uses the routing socket."""
    return SocketMonitor(reactor, open_socket, RoutingSocket(layout), changed)
