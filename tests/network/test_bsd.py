"""Tests of the routing socket: messages as the headers of the systems describe them, and garbage."""

from __future__ import annotations

import socket
import sys

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.interfaces.network import NetworkChange
from ccmproxy.network.bsd import DARWIN, FREEBSD, OPENBSD, Layout, RoutingSocket, bsd_monitor, layout
from tests.profiles import examples

LAYOUTS = (DARWIN, FREEBSD, OPENBSD)
ADD, DELETE, CHANGE, GET, NEW_ADDRESS, DEL_ADDRESS, LINK = 1, 2, 3, 4, 12, 13, 14
UP, LOOPBACK, RUNNING, GATEWAY, HOST = 0x1, 0x8, 0x40, 0x2, 0x4


def number(value: int, size: int) -> bytes:
    """Return a C integer."""
    return value.to_bytes(size, sys.byteorder)


def message(layout: Layout, kind: int, fields: dict[int, bytes], addresses: list[bytes], size: int) -> bytes:
    """Return a message with ``fields`` at their offsets in a header of ``size`` bytes, followed by socket addresses."""
    head = bytearray(size)
    for position, value in fields.items():
        head[position : position + len(value)] = value
    body = bytearray()
    for each in addresses:
        room = max(layout.alignment, -(-len(each) // layout.alignment) * layout.alignment)
        body += (each or b"\0").ljust(room, b"\0")
    head[2:4] = bytes([5, kind])
    if layout.route_size is None:
        head[4:6] = number(size, 2)
    head[0:2] = number(size + len(body), 2)
    return bytes(head + body)


def link(layout: Layout, index: int, flags: int, state: int = 2) -> bytes:
    """An RTM_IFINFO."""
    fields = {layout.flags: number(flags, 4), layout.index: number(index, 2)}
    if layout.link_state is not None:
        fields[layout.link_state] = bytes([state])
    return message(layout, LINK, fields, [], 168)


def inet(layout: Layout, text: str) -> bytes:
    """A sockaddr_in or sockaddr_in6."""
    if ":" in text:
        return bytes([28, layout.ipv6]) + bytes(6) + socket.inet_pton(socket.AF_INET6, text) + bytes(4)
    return bytes([16, socket.AF_INET, 0, 0]) + socket.inet_aton(text) + bytes(8)


def address(layout: Layout, kind: int, text: str, index: int = 3) -> bytes:
    """Return an RTM_NEWADDR or RTM_DELADDR with netmask, link and address."""
    fields = {layout.addresses: number(0b110100, 4), layout.index: number(index, 2)}
    following = [bytes([7, 0, 0, 0, 255, 255, 255]), bytes([20, 18, 3, 0]) + bytes(16), inet(layout, text)]
    return message(layout, kind, fields, following, layout.address_size or 24)


def route(
    layout: Layout, kind: int, destination: str, mask: bytes | None = b"", flags: int = UP | GATEWAY
) -> bytes:
    """Return a message about a route with destination, gateway and, if given, netmask."""
    present = 0b011 if mask is None else 0b111
    fields = {layout.route_addresses: number(present, 4), layout.route_flags: number(flags, 4)}
    following = [inet(layout, destination), inet(layout, "192.0.2.2")]
    return message(
        layout, kind, fields, following + ([] if mask is None else [mask]), layout.route_size or 96
    )


class RoutingSocketTests(SynchronousTestCase):
    """The messages that are changes on each system, and those that are not."""

    def told(self, layout: Layout, *data: bytes) -> list[bool]:
        """Return whether each datagram is a change for a new parser."""
        state = RoutingSocket(layout)
        self.assertEqual((state.begin(), state.request()), (b"", b""))
        return [bool(state.receive(each, None)) for each in data]

    def test_links(self) -> None:
        for each in LAYOUTS:
            self.assertEqual(
                self.told(
                    each,
                    link(each, 3, UP),
                    link(each, 3, UP | 0x8000),
                    link(each, 3, UP | RUNNING),
                    link(each, 4, UP),
                    link(each, 3, 0),
                ),
                [True, False, True, True, True],
            )

    def test_carrier(self) -> None:
        """On systems whose flags do not report the carrier, ``link_state`` does."""
        for each in (FREEBSD, OPENBSD):
            unplugged = [link(each, 3, UP | RUNNING, 1), link(each, 3, UP | RUNNING, 2)]
            self.assertEqual(self.told(each, *unplugged, unplugged[1]), [True, True, False])

    def test_addresses(self) -> None:
        for each in LAYOUTS:
            for text in ("192.0.2.7", "2001:db8::7"):
                for kind in (NEW_ADDRESS, DEL_ADDRESS):
                    self.assertEqual(self.told(each, address(each, kind, text)), [True])

    def test_loopback(self) -> None:
        for each in LAYOUTS:
            self.assertEqual(
                self.told(
                    each,
                    address(each, NEW_ADDRESS, "127.0.0.1", 1),
                    address(each, NEW_ADDRESS, "::1", 1),
                    link(each, 1, UP | LOOPBACK),
                    link(each, 1, UP | LOOPBACK | RUNNING),
                    address(each, NEW_ADDRESS, "10.0.0.1", 1),
                ),
                [False] * 5,
            )

    def test_a_socket_address_of_no_length(self) -> None:
        """It takes up space, so the addresses behind it must still be found."""
        for each in LAYOUTS:
            fields = {each.addresses: number(0b100100, 4), each.index: number(3, 2)}
            for text, expected in (("127.0.0.1", False), ("192.0.2.7", True)):
                following = [b"", inet(each, text)]
                found = message(each, NEW_ADDRESS, fields, following, each.address_size or 24)
                self.assertEqual(self.told(each, found), [expected])

    def test_what_concerns_the_default_route(self) -> None:
        """Links and addresses of containers do not (F68)."""
        for each in LAYOUTS:
            state = RoutingSocket(each)
            told = [
                state.receive(data, None)
                for data in (
                    link(each, 3, UP),
                    address(each, NEW_ADDRESS, "192.0.2.7"),
                    route(each, ADD, "0.0.0.0"),
                )
            ]
            self.assertEqual(told, [NetworkChange.OTHER, NetworkChange.OTHER, NetworkChange.DEFAULT_ROUTE])

    def test_default_routes(self) -> None:
        for each in LAYOUTS:
            for destination, zeros in (
                ("0.0.0.0", bytes([16, 2]) + bytes(14)),
                ("::", bytes([28]) + bytes(27)),
            ):
                for kind in (ADD, DELETE, CHANGE):
                    for mask in (b"", None, zeros):
                        self.assertEqual(self.told(each, route(each, kind, destination, mask)), [True])
                self.assertEqual(self.told(each, route(each, GET, destination)), [False])

    def test_other_routes(self) -> None:
        for each in LAYOUTS:
            self.assertEqual(
                self.told(
                    each,
                    route(each, ADD, "198.51.100.0", bytes([7, 0, 0, 0, 255, 255, 255])),
                    route(each, ADD, "0.0.0.0", bytes([5, 0, 0, 0, 128])),  # half of all addresses (VPNs)
                    route(each, ADD, "0.0.0.0", None, UP | HOST),
                    route(each, ADD, "2001:db8::"),
                ),
                [False] * 4,
            )

    def test_links_that_come_and_go(self) -> None:
        for each in (FREEBSD, OPENBSD):
            self.assertEqual(self.told(each, message(each, each.announcement, {}, [], 26)), [True])
        self.assertEqual(self.told(OPENBSD, message(OPENBSD, 0x10, {}, [], 8)), [True])  # Messages were lost.
        for kind in (0, 0xF, 0x10, 0x11):
            self.assertEqual(self.told(DARWIN, message(DARWIN, kind, {}, [], 26)), [False])

    def test_several_in_one_datagram(self) -> None:
        for each in LAYOUTS:
            two = route(each, ADD, "2001:db8::") + address(each, NEW_ADDRESS, "192.0.2.7")
            self.assertEqual(self.told(each, two, two[:-1], two[4:]), [True, False, False])
            # A change counts whatever follows it in the datagram.
            change = address(each, NEW_ADDRESS, "192.0.2.7")
            for other in (
                link(each, 1, UP | LOOPBACK),
                address(each, NEW_ADDRESS, "127.0.0.1"),
                route(each, ADD, "2001:db8::"),
            ):
                self.assertEqual(self.told(each, change + other), [True])

    def test_cut(self) -> None:
        """A message that is too short for its fields is ignored."""
        for each in LAYOUTS:
            for whole in (link(each, 3, UP), address(each, NEW_ADDRESS, "192.0.2.7"), route(each, ADD, "::")):
                cut = number(8, 2) + whole[2:8]
                self.assertEqual(self.told(each, cut, cut), [False, False])

    def test_addresses_that_are_not_said(self) -> None:
        """Some address of the link has changed, which counts; a route without destination is no default route."""
        for each in LAYOUTS:
            size = each.address_size or 24
            found = message(each, NEW_ADDRESS, {each.index: number(3, 2)}, [], size)
            self.assertEqual(self.told(each, found), [True])
            found = message(each, ADD, {each.route_flags: number(UP, 4)}, [], each.route_size or 96)
            self.assertEqual(self.told(each, found), [False])

    def test_begin_forgets(self) -> None:
        for each in LAYOUTS:
            state = RoutingSocket(each)
            up, loopback = link(each, 3, UP), link(each, 1, UP | LOOPBACK)
            change = address(each, NEW_ADDRESS, "192.0.2.7", 1)
            self.assertEqual(
                [state.receive(data, None) for data in (up, loopback, up, change)], [True] + [False] * 3
            )
            state.begin()
            self.assertEqual([state.receive(data, None) for data in (up, change)], [True, True])

    def test_another_version(self) -> None:
        other = bytearray(link(DARWIN, 3, UP))
        other[2] = 6
        self.assertEqual(self.told(DARWIN, bytes(other), link(DARWIN, 3, UP)), [False, True])

    @examples(200)
    @given(
        st.sampled_from(LAYOUTS),
        st.binary(max_size=100),
        st.integers(4, 200),
        st.lists(st.tuples(st.integers(0, 199), st.integers(0, 255)), max_size=6),
    )
    def test_garbage(self, each: Layout, data: bytes, size: int, spoilt: list[tuple[int, int]]) -> None:
        """Nothing is raised."""
        state = RoutingSocket(each)
        state.receive(data, None)
        for good in (
            link(each, 3, UP),
            address(each, NEW_ADDRESS, "2001:db8::7"),
            route(each, ADD, "0.0.0.0"),
        ):
            broken = bytearray(good[:size])
            for position, value in spoilt:
                broken[position % len(broken)] = value
            state.receive(bytes(broken), None)
            broken[0:4] = number(len(broken), 2) + b"\x05" + good[3:4]
            state.receive(bytes(broken), None)


class SystemTests(SynchronousTestCase):
    """The supported systems."""

    def test_layout(self) -> None:
        for platform, expected in (
            ("darwin", DARWIN),
            ("freebsd14", FREEBSD),
            ("openbsd7", OPENBSD),
            ("netbsd10", None),
            ("linux", None),
        ):
            self.assertIs(layout(platform), expected)

    def test_monitor(self) -> None:
        """A system without routing sockets raises OSError."""
        reactor = MemoryReactorClock()
        monitor = bsd_monitor(reactor, lambda change: None, DARWIN)
        try:
            monitor.start()
        except OSError:
            self.assertEqual(reactor.getReaders(), [])
        else:
            self.assertEqual(reactor.getReaders(), [monitor])
            monitor.stop()
