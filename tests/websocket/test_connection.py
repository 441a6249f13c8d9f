"""Tests for :mod:`ccmproxy.websocket.connection`."""

from __future__ import annotations

import os
import sys
import tracemalloc
import zlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.websocket.close_codes import INVALID_DATA, NO_CODE, PROTOCOL_ERROR, TOO_BIG
from ccmproxy.websocket.connection import (
    LONG_MESSAGE,
    Close,
    Connection,
    Event,
    Message,
    Ping,
    Pong,
    ProtocolError,
)
from ccmproxy.websocket.deflate import DeflateAgreement
from ccmproxy.websocket.frame_head import LONGEST_FRAME
from tests.profiles import examples

KEY = b"\x37\xfa\x21\x3d"
DEFLATE = DeflateAgreement()


def mask() -> bytes:
    """The key of the RFC's examples."""
    return KEY


def events(connection: Connection, data: bytes, step: int = 0) -> list[Event | int]:
    """All events of ``data``, given in pieces of ``step`` bytes (0: at once); a protocol error as its code."""
    found: list[Event | int] = []
    try:
        for at in range(0, len(data), step or len(data) or 1):
            connection.receive(data[at : at + step] if step else data)
            while (event := connection.next_event()) is not None:
                found.append(event)
    except ProtocolError as error:
        found.append(error.code)
    return found


def frame(first: int, payload: bytes, *, masked: bool = False, length: bytes | None = None) -> bytes:
    """A frame as it stands on the wire. ``length``: the length bytes, where they are to lie."""
    size = len(payload)
    if length is None:
        if size < 126:
            length = bytes((size,))
        elif size < 0x10000:
            length = b"\x7e" + size.to_bytes(2, "big")
        else:
            length = b"\x7f" + size.to_bytes(8, "big")
    if not masked:
        return bytes((first,)) + length + payload
    body = bytes(byte ^ KEY[at % 4] for at, byte in enumerate(payload))
    return bytes((first, length[0] | 0x80)) + length[1:] + KEY + body


class ReceivingTests(SynchronousTestCase):
    """What a peer sends. Everything is received at once, and byte by byte."""

    def received(
        self,
        data: bytes,
        *expected: Event | int,
        server: bool = False,
        limit: int = 1000,
        deflate: bool = False,
    ) -> None:
        """A client (or ``server``) that receives ``data`` sees ``expected``: events, a code for a protocol error."""
        for step in (0, 1, 2, 7):
            connection = Connection(None if server else mask, DEFLATE if deflate else None, limit)
            self.assertEqual(events(connection, data, step), list(expected), step)

    def broken(self, data: bytes, code: int = PROTOCOL_ERROR, **options: bool) -> None:
        """``data`` breaks the protocol."""
        self.received(data, code, **options)

    def test_examples_of_the_rfc(self) -> None:
        """RFC 6455 section 5.7."""
        hello = Message(b"Hello", True)
        self.received(bytes.fromhex("810548656c6c6f"), hello)
        self.received(bytes.fromhex("818537fa213d7f9f4d5158"), hello, server=True)
        self.received(bytes.fromhex("010348656c80026c6f"), hello)
        self.received(bytes.fromhex("890548656c6c6f"), Ping(b"Hello"))
        self.received(bytes.fromhex("8a8537fa213d7f9f4d5158"), Pong(b"Hello"), server=True)
        self.received(frame(0x82, bytes(256)), Message(bytes(256), False))
        self.received(frame(0x82, bytes(65536)), Message(bytes(65536), False), limit=65536)

    def test_lengths(self) -> None:
        """Around the limits of each form."""
        for size in (0, 1, 125, 126, 127, 65535, 65536):
            data = os.urandom(size)
            for masked in (False, True):
                connection = Connection(None if masked else mask)
                self.assertEqual(events(connection, frame(0x82, data, masked=masked)), [Message(data, False)])

    def test_control_frames_between_fragments(self) -> None:
        self.received(
            frame(0x01, b"a")
            + frame(0x89, b"p")
            + frame(0x00, "ä".encode()[:1])
            + frame(0x80, "ä".encode()[1:]),
            Ping(b"p"),
            Message("aä".encode(), True),
        )

    def test_empty_messages(self) -> None:
        self.received(frame(0x81, b""), Message(b"", True))
        self.received(frame(0x02, b"") + frame(0x00, b"") + frame(0x80, b""), Message(b"", False))

    def test_close(self) -> None:
        """And nothing behind it counts."""
        self.received(frame(0x88, b"") + b"garbage", Close(NO_CODE, b""))
        self.received(frame(0x88, b"\x03\xe8bye") + frame(0x81, b"x"), Close(1000, b"bye"))
        self.received(frame(0x88, b"\x0f\xa1quota"), Close(4001, b"quota"))

    def test_bad_close(self) -> None:
        for payload in (
            b"\x03",
            *(code.to_bytes(2, "big") for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000)),
        ):
            self.broken(frame(0x88, payload))
        self.broken(frame(0x88, b"\x03\xe8\xff"), INVALID_DATA)

    def test_masks(self) -> None:
        """Clients mask, servers do not."""
        self.broken(frame(0x81, b"x"), server=True)
        self.broken(frame(0x81, b"x", masked=True))

    def test_reserved_bits_and_opcodes(self) -> None:
        for first in (0xC1, 0xA1, 0x91, 0x83, 0x87, 0x8B, 0x8F):
            self.broken(frame(first, b"x"))
        for first in (0xC9, 0xA1, 0xC8):
            self.broken(frame(first, b""), deflate=True)

    def test_compressed_continuation(self) -> None:
        """The bit belongs on the first frame alone."""
        self.received(frame(0x01, b"x") + frame(0xC0, b""), PROTOCOL_ERROR, deflate=True)

    def test_fragments_out_of_place(self) -> None:
        self.broken(frame(0x80, b"x"))
        self.broken(frame(0x00, b"x"))
        self.broken(frame(0x01, b"x") + frame(0x81, b"y"))

    def test_bad_control_frames(self) -> None:
        """Fragmented, too long."""
        for opcode in (0x08, 0x09, 0x0A):
            self.broken(frame(opcode, b""))
            self.broken(frame(0x80 | opcode, bytes(126)))

    def test_lying_lengths(self) -> None:
        """Not minimal, negative, far more than will come."""
        self.broken(frame(0x82, b"", length=b"\x7e\x00\x05"))
        self.broken(frame(0x82, b"", length=b"\x7f" + (65535).to_bytes(8, "big")))
        self.broken(frame(0x82, b"", length=b"\x7f\xff" + bytes(7)))
        self.broken(frame(0x82, b"", length=b"\x7f\x7f" + b"\xff" * 7), TOO_BIG)

    def test_invalid_text(self) -> None:
        """Also where only the whole message shows it."""
        for payload in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"ok\xc0\xaf"):
            self.broken(frame(0x81, payload), INVALID_DATA)
            self.received(frame(0x82, payload), Message(payload, False))
        self.broken(frame(0x01, b"\xc3") + frame(0x80, b"("), INVALID_DATA)

    def test_long_messages_in_reads_of_any_size(self) -> None:
        """Of one frame and of two, masked or not, with something behind them in the same read."""
        data = os.urandom(300_000)
        for masked in (False, True):
            for frames in (
                frame(0x82, data, masked=masked),
                frame(0x02, data[:100_001], masked=masked) + frame(0x80, data[100_001:], masked=masked),
            ):
                wire = frames + frame(0x8A, b"behind", masked=masked)
                for step in (1500, 4095, 4096, 65_536, 300_000, 0):
                    connection = Connection(None if masked else mask)
                    found = events(connection, wire, step)
                    self.assertEqual(found, [Message(data, False), Pong(b"behind")], step)

    def test_small_pieces_do_not_take_more_memory_than_they_are_long(self) -> None:
        for wire in (frame(0x82, bytes(150_000)), frame(0x02, bytes(3)) + frame(0x00, bytes(3)) * 50_000):
            connection = Connection(mask)
            tracemalloc.start()
            self.addCleanup(tracemalloc.stop)
            for at in range(0, len(wire) - 1, 3):
                connection.receive(wire[at : at + 3])
                self.assertIsNone(connection.next_event())
            self.assertLess(tracemalloc.get_traced_memory()[0], 250_000)
            tracemalloc.stop()

    def test_what_was_read_is_not_kept(self) -> None:
        connection = Connection(mask)
        read = frame(0x81, b"one") + frame(0x82, bytes(200))
        references = sys.getrefcount(read)
        connection.receive(read)
        self.assertGreater(sys.getrefcount(read), references)
        while connection.next_event() is not None:
            pass
        self.assertEqual(sys.getrefcount(read), references)

    def test_what_is_missing(self) -> None:
        """Of a frame whose head has come."""
        connection = Connection(mask)
        for piece, missing in (
            (frame(0x82, bytes(1000))[:3], 0),
            (frame(0x82, bytes(1000))[3:104], 900),
            (bytes(899), 1),
            (bytes(1) + frame(0x82, bytes(1000))[:2], 0),
        ):
            connection.receive(piece)
            while connection.next_event() is not None:
                pass
            self.assertEqual(connection.missing, missing)

    def test_limit(self) -> None:
        """Of a message, however it is cut."""
        self.received(frame(0x82, bytes(1000)), Message(bytes(1000), False))
        self.broken(frame(0x82, bytes(1001)), TOO_BIG)
        self.received(frame(0x02, bytes(600)) + frame(0x00, bytes(400)) + frame(0x80, b"x"), TOO_BIG)

    def test_a_long_frame_is_refused_by_its_header(self) -> None:
        """Before a byte of it is there."""
        connection = Connection(mask, None, 1000)
        connection.receive(frame(0x82, bytes(1001))[:4])
        self.assertRaises(ProtocolError, connection.next_event)

    def test_compressed(self) -> None:
        """RFC 7692 section 7.2.3.1: one frame, and two."""
        hello = Message(b"Hello", True)
        self.received(bytes.fromhex("c107f248cdc9c90700"), hello, deflate=True)
        self.received(bytes.fromhex("4103f248cd8004c9c90700"), hello, deflate=True)
        self.received(frame(0x81, b"plain"), Message(b"plain", True), deflate=True)

    def test_compressed_garbage(self) -> None:
        self.received(frame(0xC1, b"\xff\xff\xff"), INVALID_DATA, deflate=True)

    def test_compressed_text_must_be_utf8(self) -> None:
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        packed = packer.compress(b"\xff\xff") + packer.flush(zlib.Z_SYNC_FLUSH)
        self.received(frame(0xC1, packed[:-4]), INVALID_DATA, deflate=True)

    def test_bomb(self) -> None:
        """Little on the wire, much behind it; in one frame, and spread over several."""
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = packer.compress(bytes(100_000)) + packer.flush(zlib.Z_SYNC_FLUSH)
        self.assertLess(len(bomb), 200)
        self.received(frame(0xC2, bomb[:-4]), TOO_BIG, deflate=True)
        half = len(bomb) // 2
        self.received(frame(0x42, bomb[:half]) + frame(0x80, bomb[half:-4]), TOO_BIG, deflate=True)

    def test_bomb_is_not_inflated(self) -> None:
        """Refusing it costs no more memory than a message may have."""
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        data = frame(0xC2, packer.compress(bytes(20_000_000)) + packer.flush(zlib.Z_SYNC_FLUSH))
        connection = Connection(mask, DEFLATE, 100_000)  # more than there is on the wire
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        connection.receive(data)
        self.assertRaises(ProtocolError, connection.next_event)
        self.assertLess(tracemalloc.get_traced_memory()[1], 1_000_000)

    def test_inflating_takes_turns(self) -> None:
        """F63: a message of 60 KiB becomes 60 MiB, some megabytes at a time."""
        size = 50_000_000
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = packer.compress(bytes(size)) + packer.flush(zlib.Z_SYNC_FLUSH)
        connection = Connection(mask, DEFLATE)
        connection.receive(frame(0xC2, packed[:-4]) + frame(0x89, b"next"))
        turns = 0
        while (event := connection.next_event()) is None:
            self.assertTrue(connection.is_behind)
            turns += 1
        self.assertGreater(turns, 8)
        self.assertEqual(event, Message(bytes(size), False))
        self.assertFalse(connection.is_behind)
        self.assertEqual(connection.next_event(), Ping(b"next"))
        connection.receive(frame(0xC2, packed[:-4])[:5000])
        while connection.is_behind or connection.buffered:
            self.assertIsNone(connection.next_event())
        self.assertFalse(connection.is_behind)  # more must come

    def test_incompressible_at_the_limit(self) -> None:
        """Packing makes it longer than the limit; what counts is what is inside."""
        data = os.urandom(1000)
        sender = Connection(None, DEFLATE)
        packed = sender.send_message(data, False)
        self.assertGreater(len(packed), 1004)
        self.received(packed, Message(data, False), deflate=True)

    def test_one_event_at_a_time(self) -> None:
        """Whoever cannot take more stops asking."""
        connection = Connection(mask)
        connection.receive(frame(0x81, b"1") + frame(0x81, b"2"))
        self.assertEqual(connection.next_event(), Message(b"1", True))
        self.assertEqual(connection.buffered, 3)
        connection.receive(frame(0x81, b"3"))
        self.assertEqual(connection.next_event(), Message(b"2", True))
        self.assertEqual(connection.next_event(), Message(b"3", True))
        self.assertIsNone(connection.next_event())
        self.assertEqual(connection.buffered, 0)

    def test_an_error_stays(self) -> None:
        connection = Connection(mask)
        connection.receive(frame(0x83, b""))
        for _ in range(2):
            self.assertRaises(ProtocolError, connection.next_event)
        connection.receive(frame(0x81, b"x"))
        self.assertRaises(ProtocolError, connection.next_event)
        self.assertEqual(connection.buffered, 0)

    @examples(200)
    @given(st.binary(max_size=200), st.booleans(), st.booleans(), st.integers(1, 5))
    def test_garbage(self, data: bytes, server: bool, deflate: bool, step: int) -> None:
        """Whole and in pieces alike, and nothing but the protocol error."""
        agreement = DEFLATE if deflate else None
        whole = events(Connection(None if server else mask, agreement, 100), data)
        pieces = events(Connection(None if server else mask, agreement, 100), data, step)
        self.assertEqual(whole, pieces)

    @examples(200)
    @given(
        st.lists(
            st.tuples(st.sampled_from([1, 2, 0, 8, 9, 10]), st.booleans(), st.binary(max_size=140)),
            max_size=6,
        ),
        st.integers(1, 9),
    )
    def test_frames_in_any_order(self, frames: list[tuple[int, bool, bytes]], step: int) -> None:
        data = b"".join(frame(opcode | (0x80 if fin else 0), payload) for opcode, fin, payload in frames)
        self.assertEqual(
            events(Connection(mask, None, 200), data), events(Connection(mask, None, 200), data, step)
        )


class LongMessageTests(SynchronousTestCase):
    """Messages that are longer than a frame may be (spec 10)."""

    def test_in_frames(self) -> None:
        """Each frame but the last says that more follows, and only the first says of what kind the message is."""
        data = os.urandom(2 * LONGEST_FRAME + 5)
        wire = Connection(None).send_message(data, False)
        expected = b"".join(
            frame(first, part)
            for first, part in (
                (0x02, data[:LONGEST_FRAME]),
                (0x00, data[LONGEST_FRAME : 2 * LONGEST_FRAME]),
                (0x80, data[2 * LONGEST_FRAME :]),
            )
        )
        self.assertEqual(wire, expected)
        whole = Connection(None).send_message(data[:LONGEST_FRAME], False)
        self.assertEqual(whole, frame(0x82, data[:LONGEST_FRAME]))

    def test_understood(self) -> None:
        """The peer gets one message, compressed or not, masked or not; neither end leaves an empty frame."""
        for size in (LONGEST_FRAME, LONGEST_FRAME + 1, 2 * LONGEST_FRAME, 3 * LONGEST_FRAME - 1):
            data = os.urandom(size // 2).hex().encode().ljust(size, b"x")
            for masking, deflate in ((None, None), (mask, None), (None, DEFLATE), (mask, DEFLATE)):
                wire = Connection(masking, deflate).send_message(data, True)
                peer = Connection(mask if masking is None else None, deflate, 4 * LONGEST_FRAME)
                self.assertEqual(events(peer, wire), [Message(data, True)])


class SendingTests(SynchronousTestCase):
    """What one side sends, the other receives."""

    def test_examples_of_the_rfc(self) -> None:
        self.assertEqual(Connection(None).send_message(b"Hello", True), bytes.fromhex("810548656c6c6f"))
        self.assertEqual(
            Connection(mask).send_message(b"Hello", True), bytes.fromhex("818537fa213d7f9f4d5158")
        )
        self.assertEqual(Connection(None).send_ping(b"Hello"), bytes.fromhex("890548656c6c6f"))

    @examples(100)
    @given(
        st.lists(st.tuples(st.binary(max_size=400), st.booleans()), max_size=8), st.booleans(), st.booleans()
    )
    def test_round_trip(self, messages: list[tuple[bytes, bool]], server: bool, deflate: bool) -> None:
        """Content, kind and order, with and without compression, from either side."""
        agreement = DEFLATE if deflate else None
        sender = Connection(None if server else mask, agreement)
        receiver = Connection(mask if server else None, agreement)
        sent = [Message(data, is_text and is_text_data(data)) for data, is_text in messages]
        wire = b"".join(sender.send_message(each.data, each.is_text) for each in sent)
        self.assertEqual(events(receiver, wire), sent)

    def test_long_messages_in_two_pieces(self) -> None:
        """Which are the same as the one of a short message."""
        for deflate in (None, DEFLATE):
            for key in (None, mask):
                data = b"x" * LONG_MESSAGE
                head, payload = Connection(key, deflate).send_long_message(data, True)
                self.assertEqual(head + payload, Connection(key, deflate).send_message(data, True))
                self.assertLess(len(head), 15)
                self.assertEqual(payload is data, key is None and deflate is None, "no needless copy")

    def test_compression_is_used(self) -> None:
        """Where it helps, and not for what is tiny or large."""
        sender = Connection(None, DEFLATE)
        self.assertLess(len(sender.send_message(b"a" * 1000, True)), 100)
        self.assertEqual(sender.send_message(b"a" * 50, True)[:1], b"\x81")
        self.assertEqual(sender.send_message(b"a" * 2_000_000, True)[:1], b"\x01")
        self.assertEqual(
            Connection(None, DeflateAgreement(window_bits=8)).send_message(b"a" * 1000, True)[:1], b"\x81"
        )

    def test_close(self) -> None:
        """Codes that may not be sent are left out, reasons are cut between characters."""
        for code in (1000, 1001, 1009, 1012, 3000, 4999):
            self.assertEqual(
                events(Connection(mask), Connection(None).send_close(code, b"r")), [Close(code, b"r")]
            )
        for code in (NO_CODE, 1006, 1015, 0, 70000):
            self.assertEqual(
                events(Connection(mask), Connection(None).send_close(code, b"r")), [Close(NO_CODE, b"")]
            )
        reason = ("ä" * 100).encode()
        self.assertEqual(
            events(Connection(mask), Connection(None).send_close(1000, reason)),
            [Close(1000, ("ä" * 61).encode())],
        )


def is_text_data(data: bytes) -> bool:
    """UTF-8?"""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
