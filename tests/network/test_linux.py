"""Tests of rtnetlink: datagrams recorded from a kernel (Linux 6), garbage, and a real network namespace."""

from __future__ import annotations

import socket
import struct
import sys

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ccmproxy.interfaces.network import NetworkChange
from ccmproxy.network.linux import Rtnetlink, attributes, messages, open_socket
from tests.profiles import examples

KERNEL = (0, 1)

# Recorded datagrams. Of links only the header and the first attribute, because the rest is statistics.

NEW_LOOPBACK_ADDRESS = (
    "4c000000140000000000000000000000020880fe01000000080001007f000001080002007f000001070003006c6f0000"
    "080008008000000014000600ffffffffffffffffb6a60100b6a60100"
)
NEW_ADDRESS = (
    "5000000014000000152d096b65190000021880000300000008000100c000020108000200c00002010a00030076657468"
    "30000000080008008000000014000600ffffffffffffffff15a8010015a80100"
)
DEL_ADDRESS = (
    "5000000015000000162d096b69190000021880000300000008000100c000020108000200c00002010a00030076657468"
    "30000000080008008000000014000600ffffffffffffffff15a8010015a80100"
)
NEW_ADDRESS_6 = (
    "500000001400000000000000000000000a4080fd0200000014000100fe8000000000000014d28cfffeaaef9b14000600"
    "ffffffffffffffff10a7010010a70100080008008000000005000b0003000000"
)
NEW_DEFAULT_ROUTE = (
    "3400000018000006152d096b6619000002000000fe0300010000000008000f00fe00000008000500c00002020800040003000000"
)
DEL_DEFAULT_ROUTE = (
    "3400000019000000162d096b6819000002000000fe0300010000000008000f00fe00000008000500c00002020800040003000000"
)
NEW_OTHER_ROUTE = (
    "3c00000018000006162d096b6719000002180000fe0300010000000008000f00fe00000008000100c6336400"
    "08000500c00002020800040003000000"
)
NEW_LOCAL_ROUTE = (
    "3c00000018000006000000000000000002200000ff02fe020000000008000f00ff00000008000100c0000201"
    "08000700c00002010800040003000000"
)
DUMP_DONE = "1400000003000200010000003819000000000000"

UP, LOOPBACK, RUNNING = 0x1, 0x8, 0x40


def recorded(text: str) -> bytes:
    """Return a datagram from its hexadecimal digits."""
    return bytes.fromhex(text)


def link(index: int, flags: int, kind: int = 16, multi: int = 0, family: int = 0) -> bytes:
    """Return a message about a link, with its name."""
    payload = struct.pack("=BxHiIIHH", family, 1, index, flags, 0, 10, 3) + b"veth0\0\0\0"
    return struct.pack("=IHHII", 16 + len(payload), kind, multi, 0, 0) + payload


def changed(message: bytes, **fields: int) -> bytes:
    """Return ``message`` with other ``flags`` in its header, or another byte at an offset (``at_17=…``)."""
    data = bytearray(message)
    if "flags" in fields:
        data[6:8] = fields.pop("flags").to_bytes(2, sys.byteorder)
    for name, value in fields.items():
        data[int(name.removeprefix("at_"))] = value
    return bytes(data)


class RtnetlinkTests(SynchronousTestCase):
    """The messages that are changes, and those that are not."""

    def setUp(self) -> None:
        if sys.byteorder != "little":
            raise SkipTest("what was recorded is little-endian")
        self.state = Rtnetlink()
        self.state.begin()

    def told(self, *data: bytes) -> list[bool]:
        """Return whether each datagram is a change."""
        return [bool(change) for change in self.changes(*data)]

    def changes(self, *data: bytes) -> list[NetworkChange]:
        """Return the change that each datagram tells of."""
        return [self.state.receive(each, KERNEL) for each in data]

    def test_links(self) -> None:
        self.assertEqual(
            self.told(
                link(3, 0),
                link(3, 0),  # A driver that repeats its messages.
                link(3, UP),
                link(3, UP | 0x1000),
                link(3, UP | RUNNING),
                link(4, UP),
                link(3, UP),
                link(3, UP, kind=17),
                link(3, UP, kind=17),
                link(3, UP),
            ),
            [True, False, True, False, True, True, True, True, False, True],
        )

    def test_loopback(self) -> None:
        # The usual address is recognized by its scope (host), even before the link is known.
        self.assertEqual(self.told(recorded(NEW_LOOPBACK_ADDRESS)), [False])
        self.assertEqual(self.told(link(1, LOOPBACK), link(1, LOOPBACK | UP | RUNNING)), [False, False])
        # Another address of the loopback link is recognized by the index of the link.
        self.assertEqual(self.told(changed(recorded(NEW_ADDRESS), at_20=1)), [False])
        self.assertEqual(self.told(changed(recorded(NEW_DEFAULT_ROUTE), at_48=1)), [False])

    def test_ports_of_a_bridge(self) -> None:
        self.told(link(3, UP))
        for kind in (16, 17):
            self.assertEqual(self.told(link(3, 0, kind, family=7)), [False])

    def test_addresses(self) -> None:
        new, deleted = recorded(NEW_ADDRESS), recorded(DEL_ADDRESS)
        self.assertEqual(self.told(new, new, deleted, deleted, new), [True, False, True, False, True])
        # The same address with another prefix, on another link, and another address with the same peer.
        others = changed(new, at_17=25), changed(new, at_20=4), changed(new, at_39=9)
        self.assertEqual(self.told(*others), [True, True, True])

    def test_addresses_go_with_their_link(self) -> None:
        self.told(link(3, UP), recorded(NEW_ADDRESS), link(3, UP, kind=17))
        self.assertEqual(self.told(recorded(DEL_ADDRESS), recorded(NEW_ADDRESS)), [False, True])

    def test_an_address_counts_when_it_can_be_used(self) -> None:
        """It counts only after duplicate address detection (RFC 4862 section 5.4)."""
        new = recorded(NEW_ADDRESS_6)
        flags = new.index(bytes.fromhex("0800080080"))
        tentative, duplicate = (changed(new, **{f"at_{flags + 4}": value}) for value in (0xC0, 0x88))
        self.assertEqual(self.told(tentative, tentative, new, new), [False, False, True, False])
        # The link was down, and the address is checked again.
        self.assertEqual(self.told(tentative, new, duplicate), [True, True, True])

    def test_routes(self) -> None:
        new, deleted = recorded(NEW_DEFAULT_ROUTE), recorded(DEL_DEFAULT_ROUTE)
        self.assertEqual(
            self.told(recorded(NEW_OTHER_ROUTE), recorded(NEW_LOCAL_ROUTE), new, new, deleted, new),
            [False, False, True, False, True, True],
        )
        gateway = new.index(bytes.fromhex("c0000202"))
        self.assertEqual(self.told(changed(new, **{f"at_{gateway + 3}": 3})), [True])
        other = changed(new, **{f"at_{gateway + 3}": 4})
        self.assertEqual(self.told(changed(other, at_25=2)), [False])  # An entry of the route cache.
        self.assertEqual(self.told(changed(other, at_23=7)), [False])  # A route of the type "unreachable".
        self.assertEqual(self.told(other), [True])
        table = new.index(bytes.fromhex("08000f00fe"))
        self.assertEqual(self.told(changed(other, **{f"at_{table + 4}": 100})), [True])

    def test_a_route_may_have_gone_with_its_link(self) -> None:
        """The kernel does not report that; when the route comes back, it counts as a change."""
        new = recorded(NEW_DEFAULT_ROUTE)
        self.told(link(3, UP | RUNNING), new)
        self.assertEqual(self.told(link(3, 0), link(3, UP | RUNNING), new), [True, True, True])

    def test_what_concerns_the_default_route(self) -> None:
        """It is known over which link it leads, so that links of containers do not count (F68)."""
        none, other, route = NetworkChange
        new = recorded(NEW_DEFAULT_ROUTE)
        self.assertEqual(self.changes(link(3, UP | RUNNING), new), [other, route])
        containers = link(4, UP), link(4, UP | RUNNING), changed(recorded(NEW_ADDRESS), at_20=4), link(4, 0)
        self.assertEqual(self.changes(*containers, new, link(4, 0, kind=17)), [other] * 4 + [none, other])
        self.assertEqual(self.changes(new + link(5, UP)), [other])
        self.assertEqual(self.changes(link(3, 0), new, recorded(DEL_DEFAULT_ROUTE)), [route] * 3)
        self.assertEqual(self.changes(new, recorded(NEW_ADDRESS)), [route] * 2)

    def test_a_route_over_several_links(self) -> None:
        """It names none of them itself."""
        new = recorded(NEW_DEFAULT_ROUTE)
        output = new.index(bytes.fromhex("0800040003000000"))
        several = changed(new, **{f"at_{output + 2}": 9})
        self.assertTrue(self.told(link(4, UP), several)[1])
        self.assertEqual(self.changes(link(4, 0)), [NetworkChange.DEFAULT_ROUTE])

    def test_what_was_there_before_is_no_change(self) -> None:
        """The links are requested, then the addresses, then nothing more."""
        request = self.state.begin()
        self.assertEqual([(kind, flags) for kind, flags, _, _ in messages(request)], [(18, 0x301)])
        sequence = next(messages(request))[2]
        done = changed(recorded(DUMP_DONE), at_8=sequence)
        self.assertEqual(self.told(link(3, UP, multi=2) + link(1, LOOPBACK, multi=2)), [False])
        self.assertEqual(self.state.request(), b"")
        self.assertEqual(self.told(changed(done, at_8=sequence + 7)), [False])
        self.assertEqual(self.state.request(), b"")
        self.assertEqual(self.told(done), [False])
        request = self.state.request()
        self.assertEqual([kind for kind, _, _, _ in messages(request)], [22])
        self.assertEqual(self.told(changed(recorded(NEW_ADDRESS), flags=2)), [False])
        # If the request is not permitted, the parser goes on without an answer.
        self.assertEqual(self.told(changed(done, at_8=sequence + 1, at_4=2)), [False])
        self.assertEqual(self.state.request(), b"")
        self.assertEqual(self.told(link(3, UP), recorded(NEW_ADDRESS)), [False, False])
        self.assertEqual(self.told(link(3, 0), recorded(DEL_ADDRESS)), [True, True])

    def test_a_question_that_is_refused(self) -> None:
        """The next request is made nevertheless."""
        self.assertEqual(self.told(struct.pack("=IHHII", 16, 2, 0, 1, 0)), [False])
        self.assertEqual([kind for kind, _, _, _ in messages(self.state.request())], [22])

    def test_begin_forgets(self) -> None:
        everything = [link(3, UP), recorded(NEW_ADDRESS), recorded(NEW_DEFAULT_ROUTE)]
        self.assertEqual(self.told(*everything, *everything), [True] * 3 + [False] * 3)
        self.state.begin()
        self.assertEqual(self.told(*everything), [True] * 3)

    def test_several_in_one_datagram(self) -> None:
        self.assertEqual(self.told(link(3, UP) + link(3, UP)), [True])
        self.assertEqual(self.told(link(3, UP) + link(3, 0)), [True])
        self.assertEqual(self.told(link(3, UP) + link(3, UP) + link(3, UP)), [True])
        self.assertEqual(self.told(link(3, UP) + link(3, UP)), [False])

    def test_overrun(self) -> None:
        self.assertEqual(self.told(struct.pack("=IHHII", 16, 4, 0, 0, 0)), [True])

    def test_somebody_else(self) -> None:
        """Only messages from the kernel are accepted."""
        self.assertFalse(self.state.receive(link(3, UP), (4711, 0)))
        self.assertEqual(self.told(link(3, UP)), [True])

    def test_cut(self) -> None:
        """A truncated message is ignored, and those before it are not."""
        for text in (NEW_ADDRESS, NEW_DEFAULT_ROUTE):
            whole = recorded(text)
            for size in range(len(whole)):
                self.state.begin()
                self.assertEqual(self.told(whole[:size]), [False])
        self.assertEqual(self.told(link(3, UP) + recorded(NEW_ADDRESS)[:30]), [True])

    def test_too_short(self) -> None:
        """A complete message that is too short for its type."""
        for kind in (16, 17, 20, 21, 24, 25):
            for size in range(8):
                self.assertEqual(
                    self.told(struct.pack("=IHHII", 16 + size, kind, 0, 0, 0) + bytes(size)), [False]
                )

    def test_lengths(self) -> None:
        """Messages and attributes begin at multiples of four; the flags of an attribute are not part of its type."""
        first, second = struct.pack("=IHHII", 17, 1, 0, 7, 0) + b"a", struct.pack("=IHHII", 16, 4, 0, 8, 0)
        self.assertEqual(list(messages(first + bytes(3) + second)), [(1, 0, 7, b"a"), (4, 0, 8, b"")])
        wrong = struct.pack("=IHHII", 12, 1, 0, 7, 0)  # Shorter than its header.
        self.assertEqual(list(messages(wrong + second + second)), [])
        padded = struct.pack("=HH", 5, 3) + b"b" + bytes(3) + struct.pack("=HH", 4, 0x8000 | 9)
        self.assertEqual(attributes(padded, 0), {3: b"b", 9: b""})
        self.assertEqual(attributes(struct.pack("=HH", 6, 3) + b"b", 0), {})

    @examples(200)
    @given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 51), st.integers(0, 255)), max_size=6))
    def test_garbage(self, data: bytes, spoilt: list[tuple[int, int]]) -> None:
        """Nothing is raised."""
        state = Rtnetlink()
        state.begin()
        state.receive(data, KERNEL)
        for text in (NEW_ADDRESS, NEW_ADDRESS_6, NEW_DEFAULT_ROUTE, DUMP_DONE):
            message = bytearray(recorded(text))
            for position, value in spoilt:
                message[position % len(message)] = value
            state.receive(bytes(message), KERNEL)
            for kind, _, _, payload in messages(bytes(message)):
                attributes(payload, kind % 16)


class RealTests(SynchronousTestCase):
    """The kernel of this machine."""

    def test_socket(self) -> None:
        """Listening needs no privileges."""
        try:
            opened = open_socket()
        except (OSError, AttributeError) as error:
            raise SkipTest(f"no netlink here: {error}") from None
        self.addCleanup(opened.close)
        self.assertFalse(opened.getblocking())
        self.assertRaises(BlockingIOError, opened.recv, 10)
        state = Rtnetlink()
        opened.send(state.begin())
        opened.setblocking(True)
        opened.settimeout(5)
        asked = 1
        while asked < 3:
            data, sender = opened.recvfrom(65536)
            state.receive(data, sender)
            if request := state.request():
                opened.send(request)
                asked += 1
            elif (3, asked) in [(kind, sequence) for kind, _, sequence, _ in messages(data)]:
                break
        self.assertEqual(asked, 2)
        for index, name in socket.if_nameindex():
            if name != "lo":
                # It is already known.
                self.assertIn(index, vars(state)["_links"])
