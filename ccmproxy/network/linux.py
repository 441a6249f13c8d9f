"""The monitor for Linux: rtnetlink (RFC 3549, rtnetlink(7)). It needs no privileges.

Not every message of the kernel is a change: drivers repeat the state of their links, and routers refresh IPv6
addresses every few minutes. The monitor therefore remembers links, addresses and default routes, and only a difference
counts as a change.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

from twisted.internet.interfaces import IReactorFDSet

from ccmproxy.interfaces.network import NetworkChange
from ccmproxy.network.reader import SocketMonitor

#: Groups of <linux/rtnetlink.h>: links, IPv4 and IPv6 addresses, IPv4 and IPv6 routes.
_GROUPS: Final = 0x1 | 0x10 | 0x100 | 0x40 | 0x400

#: nlmsghdr: length with header, type, flags, sequence number, port.
_HEADER: Final = struct.Struct("=IHHII")
#: rtattr: length with header, type.
_ATTRIBUTE: Final = struct.Struct("=HH")
#: ifinfomsg: family, type, index, flags, change.
_LINK: Final = struct.Struct("=BxHiII")
#: ifaddrmsg: family, prefix length, flags, scope, index.
_ADDRESS: Final = struct.Struct("=BBBBI")
#: rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags.
_ROUTE: Final = struct.Struct("=BBBBBBBBI")

_ERROR, _DONE, _OVERRUN = 2, 3, 4
_NEW_LINK, _DEL_LINK, _GET_LINK = 16, 17, 18
_NEW_ADDRESS, _DEL_ADDRESS, _GET_ADDRESS = 20, 21, 22
_NEW_ROUTE, _DEL_ROUTE = 24, 25
_MULTI: Final = 0x2  # Part of the answer to a request of this process.
_REQUEST_DUMP: Final = 0x1 | 0x300

_UP, _LOOPBACK, _RUNNING = 0x1, 0x8, 0x40  # <linux/if.h>
_SCOPE_HOST: Final = 254
#: IFA_F_DADFAILED and IFA_F_TENTATIVE: an IPv6 address that is not usable, or not yet.
_UNUSABLE: Final = 0x8 | 0x40
_NATIVE: Final = sys.byteorder
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_UNICAST: Final = 1
_CLONED: Final = 0x200  # An entry of the route cache.
_OUTPUT: Final = 4
#: The attributes that identify a default route: output link, gateway, priority, multipath, table, via, nexthop.
_ROUTE_IDENTITY: Final = (_OUTPUT, 5, 6, 9, 15, 18, 30)

Address = tuple[int, int, int, bytes]
Route = tuple[int, tuple[bytes | None, ...]]


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (type, flags, sequence number, payload) for each message of a datagram. Ends at the first malformed one."""
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, position)
        if not _HEADER.size <= length <= len(data) - position:
            return
        yield kind, flags, sequence, data[position + _HEADER.size : position + length]
        position += _aligned(length)


def attributes(data: bytes, position: int) -> dict[int, bytes]:
    """Return the attributes of a message from ``position`` on, as type → value. Ends at the first malformed one."""
    found = {}
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if not _ATTRIBUTE.size <= length <= len(data) - position:
            break
        found[kind & 0x3FFF] = data[position + _ATTRIBUTE.size : position + length]  # The rest are flags.
        position += _aligned(length)
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3


class Rtnetlink:
    """Parses the datagrams of rtnetlink. See :class:`~ccmproxy.network.reader.Notifications`.

    At the start it requests all links and then all addresses. It does not request the routes, since a router may have a
    million of them; the first message about a default route therefore counts as a change.
    """

    def __init__(self) -> None:
        self._sequence = 0
        self._questions: list[int] = []
        self._request = b""
        self._links: dict[int, int] = {}
        self._loopbacks: set[int] = set()
        self._addresses: set[Address] = set()
        self._routes: set[Route] = set()

    def begin(self) -> bytes:
        """See Notifications."""
        for known in (self._links, self._loopbacks, self._addresses, self._routes):
            known.clear()
        self._questions = [_GET_ADDRESS, _GET_LINK]
        self._ask()
        return self.request()

    def request(self) -> bytes:
        """See Notifications."""
        request, self._request = self._request, b""
        return request

    def _ask(self) -> None:
        """Prepare the next request. The kernel handles one at a time."""
        self._sequence += 1
        if self._questions:
            size = _HEADER.size + _LINK.size  # The kernel accepts this length for all requests.
            self._request = _HEADER.pack(
                size, self._questions.pop(), _REQUEST_DUMP, self._sequence, 0
            ) + bytes(_LINK.size)

    def receive(self, data: bytes, sender: Any) -> NetworkChange:
        """See Notifications. ``sender``: (port, groups); port 0 is the kernel."""
        greatest = NetworkChange.NONE
        if sender[0] != 0:
            return greatest
        for kind, flags, sequence, payload in messages(data):
            if kind == _OVERRUN:
                greatest = max(greatest, NetworkChange.OTHER)
            elif kind in (_DONE, _ERROR):
                # After an error the request is not permitted, and first messages count as changes.
                if sequence == self._sequence:
                    self._ask()
            else:
                change = self._take(kind, payload)
                # The answer to a request is the present state, not a change.
                if not flags & _MULTI:
                    greatest = max(greatest, change)
        return greatest

    def _take(self, kind: int, payload: bytes) -> NetworkChange:
        """Record the content of a message. Returns how it differs from the known state."""
        if kind in (_NEW_ROUTE, _DEL_ROUTE) and len(payload) >= _ROUTE.size:
            return NetworkChange.DEFAULT_ROUTE if self._take_route(kind, payload) else NetworkChange.NONE
        if kind in (_NEW_LINK, _DEL_LINK) and len(payload) >= _LINK.size:
            index, is_change = _LINK.unpack_from(payload)[2], self._take_link(kind, payload)
        elif kind in (_NEW_ADDRESS, _DEL_ADDRESS) and len(payload) >= _ADDRESS.size:
            index, is_change = _ADDRESS.unpack_from(payload)[4], self._take_address(kind, payload)
        else:
            return NetworkChange.NONE
        if not is_change:
            return NetworkChange.NONE
        # The kernel removes the routes of a link or address with it, and does not always report that.
        gone = {route for route in self._routes if _leads_over(route, index)}
        self._routes -= gone
        return NetworkChange.DEFAULT_ROUTE if gone else NetworkChange.OTHER

    def _take_link(self, kind: int, payload: bytes) -> bool:
        family, _, index, flags, _ = _LINK.unpack_from(payload)
        if family != socket.AF_UNSPEC:
            return False  # A bridge reports on its ports, which are also reported as links.
        if flags & _LOOPBACK:
            self._loopbacks.add(index)
            return False
        if kind == _DEL_LINK:
            self._addresses = {address for address in self._addresses if address[0] != index}
            return self._links.pop(index, None) is not None
        state: int = flags & (_UP | _RUNNING)
        before = self._links.get(index)
        self._links[index] = state
        return state != before

    def _take_address(self, kind: int, payload: bytes) -> bool:
        family, prefix, flags, scope, index = _ADDRESS.unpack_from(payload)
        if scope == _SCOPE_HOST or index in self._loopbacks:
            return False
        found = attributes(payload, _ADDRESS.size)
        if len(found.get(_IFA_FLAGS, b"")) == 4:
            flags = int.from_bytes(found[_IFA_FLAGS], _NATIVE)
        address = index, family, prefix, found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b"")
        known = address in self._addresses
        if kind == _DEL_ADDRESS or flags & _UNUSABLE:
            self._addresses.discard(address)
            return known
        self._addresses.add(address)
        return not known

    def _take_route(self, kind: int, payload: bytes) -> bool:
        family, destination, *_, route_type, flags = _ROUTE.unpack_from(payload)
        if destination or route_type != _UNICAST or flags & _CLONED:
            return False
        found = attributes(payload, _ROUTE.size)
        if int.from_bytes(found.get(_OUTPUT, b""), _NATIVE) in self._loopbacks:
            return False
        route = family, tuple(found.get(each) for each in _ROUTE_IDENTITY)
        if kind == _DEL_ROUTE:
            self._routes.discard(route)
            return True
        known = route in self._routes
        self._routes.add(route)
        return not known


def _leads_over(route: Route, index: int) -> bool:
    """Return whether a default route may lead over the link ``index``. One over several links does not name any."""
    output = route[1][0]
    return output is None or int.from_bytes(output, _NATIVE) == index


def open_socket() -> socket.socket:
    """Open a socket for messages about links, addresses and routes. Raises OSError when there is no netlink."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    opened = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    try:
        opened.bind((0, _GROUPS))
    except OSError:
        opened.close()
        raise
    return opened


def linux_monitor(reactor: IReactorFDSet, changed: Callable[[NetworkChange], object]) -> SocketMonitor:
    """Return a monitor that uses rtnetlink."""
    return SocketMonitor(reactor, open_socket, Rtnetlink(), changed)
