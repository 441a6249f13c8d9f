"""macOS, FreeBSD and OpenBSD: the routing socket (route(4)). Anybody may listen.

The messages are C structures that differ from system to system; where what lies in them is said by
:class:`Layout`, taken from each system's <net/route.h> and <net/if.h> (64 bits).
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from twisted.internet.interfaces import IReactorFDSet

from ccmproxy.network.reader import SocketMonitor

#: PF_ROUTE has this value on all three.
_ROUTING: Final = 17
_VERSION: Final = 5

_ADD, _DELETE, _CHANGE = 0x1, 0x2, 0x3
_NEW_ADDRESS, _DEL_ADDRESS, _LINK_INFO = 0xC, 0xD, 0xE
_UP, _LOOPBACK, _RUNNING = 0x1, 0x8, 0x40
_HOST_ROUTE: Final = 0x4
#: Which addresses follow a message, in this order: destination, gateway, netmask, genmask, link, link's address …
_DESTINATION, _NETMASK, _INTERFACE_ADDRESS = 0, 2, 5
_KINDS: Final = 15


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets in bytes from the beginning of a message.

    ``route_size``, ``address_size``: of rt_msghdr and ifa_msghdr, behind which the socket addresses begin; None where
    the message says it itself (at offset 4). ``route_addresses``, ``route_flags``: in rt_msghdr. ``addresses``,
    ``flags``, ``index``: in if_msghdr and ifa_msghdr. ``link_state``: in if_msghdr; None where there is none.
    ``alignment`` of socket addresses. ``ipv6``: value of AF_INET6. ``announcement``, ``lost``: types of messages for a
    link that comes or goes, and for messages that were lost; 0 where there are none.
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
    """The layout for a ``sys.platform``; None where it is not known."""
    for prefix, found in (("darwin", DARWIN), ("freebsd", FREEBSD), ("openbsd", OPENBSD)):
        if platform.startswith(prefix):
            return found
    return None


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The messages of a datagram: type, and the whole message. Ends where something is malformed."""
    position = 0
    while position + 4 <= len(data):
        length = _number(data, position, 2)
        if not 4 <= length <= len(data) - position:
            return
        if data[position + 2] == _VERSION:
            yield data[position + 3], data[position : position + length]
        position += length


def socket_addresses(message: bytes, position: int, present: int, alignment: int) -> dict[int, bytes]:
    """The socket addresses from ``position`` on, by kind; ``present``: a bit for each kind that is there."""
    found = {}
    for kind in range(_KINDS):
        if present & (1 << kind) and position < len(message):
            length = message[position]
            found[kind] = message[position : position + length]
            # One of length 0 takes as much room as the alignment asks for.
            position += max(alignment, (length + alignment - 1) & -alignment)
    return found


def _number(data: bytes, position: int, size: int) -> int:
    return int.from_bytes(data[position : position + size], sys.byteorder)


class RoutingSocket:
    """What the datagrams of a routing socket mean; see :class:`~ccmproxy.network.reader.Notifications`.

    The socket cannot be asked how things are (that takes sysctl), so a link counts when it is first heard of.
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

    def receive(self, data: bytes, sender: Any) -> bool:
        """See Notifications."""
        changed = False
        for kind, message in messages(data):
            if kind == _LINK_INFO:
                changed = self._take_link(message) or changed
            elif kind in (_NEW_ADDRESS, _DEL_ADDRESS):
                changed = self._is_change_of_address(message) or changed
            elif kind in (_ADD, _DELETE, _CHANGE):
                changed = self._is_default_route(message) or changed
            elif kind and kind in (self._layout.announcement, self._layout.lost):
                changed = True
        return changed

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
        # The destination is all zeros, and so is the mask, as far as there is one.
        destination = self._address(found.get(_DESTINATION, b""))
        return destination is not None and not any(destination) and not any(found.get(_NETMASK, b"")[4:])

    def _address(self, socket_address: bytes) -> bytes | None:
        """The IP address in a sockaddr_in or sockaddr_in6; None in another, or a broken one."""
        if len(socket_address) >= 8 and socket_address[1] == socket.AF_INET:
            return socket_address[4:8]
        if len(socket_address) >= 24 and socket_address[1] == self._layout.ipv6:
            return socket_address[8:24]
        return None


def open_socket() -> socket.socket:
    """A routing socket. Raises OSError where there is none."""
    opened = socket.socket(_ROUTING, socket.SOCK_RAW, 0)
    opened.setblocking(False)
    return opened


def bsd_monitor(reactor: IReactorFDSet, changed: Callable[[], object], layout: Layout) -> SocketMonitor:
    """A monitor that rests on the routing socket."""
    return SocketMonitor(reactor, open_socket, RoutingSocket(layout), changed)
