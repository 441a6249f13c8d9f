"""Tests for :mod:`ccmproxy.yamux.frames`."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.yamux.errors import ProtocolError
from ccmproxy.yamux.frames import DATA, GO_AWAY, PING, FrameReader, Header, decode, encode
from tests.profiles import examples

U16 = st.integers(0, 2**16 - 1)
U32 = st.integers(0, 2**32 - 1)


class HeaderTests(SynchronousTestCase):
    """Encoding and decoding of one header."""

    @given(st.integers(0, 3), U16, U32, U32, st.binary(max_size=3))
    @examples(100)
    def test_round_trip(self, kind: int, flags: int, stream_id: int, length: int, before: bytes) -> None:
        data = before + encode(kind, flags, stream_id, length)
        self.assertEqual(decode(data, len(before)), Header(kind, flags, stream_id, length))

    @given(
        st.binary(min_size=12, max_size=12)
        | st.tuples(st.integers(0, GO_AWAY + 1), st.binary(min_size=10, max_size=10)).map(
            lambda drawn: bytes([0, drawn[0]]) + drawn[1]
        )
    )
    @examples(200)
    def test_any_twelve_bytes(self, data: bytes) -> None:
        """Any 12 bytes decode to a header that encodes to the same bytes, or raise ProtocolError."""
        try:
            header = decode(data)
        except ProtocolError as error:
            self.assertTrue(data[0] or data[1] > GO_AWAY, str(error))
        else:
            self.assertEqual(encode(*header), data)

    def test_too_large(self) -> None:
        self.assertRaises(struct.error, encode, DATA, 0, 2**32, 0)

    def test_unknown(self) -> None:
        for data, message in ((b"\1\0", "version 1"), (b"\0\4", "type 4")):
            error = self.assertRaises(ProtocolError, decode, data + bytes(10))
            self.assertIn(message, str(error))


class FrameReaderTests(SynchronousTestCase):
    """Frames that arrive in pieces."""

    def read(self, data: bytes, step: int) -> list[Header | bytes]:
        """Feed ``data``, ``step`` bytes at a time; return headers and payloads, the pieces of a payload joined."""
        reader = FrameReader()
        found: list[Header | bytes] = []
        for at in range(0, len(data), step):
            for item in reader.feed(data[at : at + step]):
                if isinstance(item, bytes) and found and isinstance(found[-1], bytes):
                    found[-1] += item
                else:
                    found.append(item)
        self.assertTrue(reader.is_between_frames)
        return found

    def test_any_pieces(self) -> None:
        data = (
            encode(DATA, 1, 1, 5)
            + b"hello"
            + encode(PING, 1, 0, 70000)
            + encode(DATA, 0, 1, 0)
            + encode(DATA, 0, 3, 300)
            + bytes(300)
        )
        whole = self.read(data, len(data))
        self.assertEqual(
            whole,
            [
                Header(DATA, 1, 1, 5),
                b"hello",
                Header(PING, 1, 0, 70000),
                Header(DATA, 0, 1, 0),
                Header(DATA, 0, 3, 300),
                bytes(300),
            ],
        )
        for step in (1, 2, 5, 11, 12, 13, 100):
            self.assertEqual(self.read(data, step), whole)

    def test_payload_is_not_waited_for(self) -> None:
        reader = FrameReader()
        self.assertEqual(list(reader.feed(encode(DATA, 0, 1, 2**32 - 1))), [Header(DATA, 0, 1, 2**32 - 1)])
        self.assertEqual(list(reader.feed(b"ab")), [b"ab"])
        self.assertEqual(reader.remaining, 2**32 - 3)
        self.assertFalse(reader.is_between_frames)

    def test_nothing_is_copied(self) -> None:
        reader = FrameReader()
        list(reader.feed(encode(DATA, 0, 1, 1000)))
        data = bytes(500)
        (piece,) = reader.feed(data)
        self.assertIs(piece, data)

    def test_good_frames_before_a_bad_one(self) -> None:
        found: list[Header | bytes] = []
        with self.assertRaises(ProtocolError):
            found.extend(FrameReader().feed(encode(PING, 1, 0, 1) + b"\1" + bytes(11)))
        reader = FrameReader()
        items = reader.feed(encode(PING, 1, 0, 1) + b"\1" + bytes(11))
        self.assertEqual(next(items), Header(PING, 1, 0, 1))
        self.assertRaises(ProtocolError, next, items)
