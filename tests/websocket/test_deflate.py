"""Tests for :mod:`ccmproxy.websocket.deflate`."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.websocket.deflate import (
    Corrupt,
    DeflateAgreement,
    Deflater,
    Extension,
    Inflater,
    TooMuch,
    client_agreement,
    server_agreement,
)


def inflated(inflater: Inflater, data: bytes, room: int = 1000) -> bytes:
    """A whole message."""
    first = inflater.inflate(data, room)
    return first + inflater.end(room - len(first))


class CompressionTests(SynchronousTestCase):
    """One side's deflater, the other side's inflater."""

    def test_examples_of_the_rfc(self) -> None:
        """RFC 7692 section 7.2.3: fixed blocks, the shared window, no compression, a final block, two blocks."""
        inflater = Inflater(DeflateAgreement())
        self.assertEqual(inflated(inflater, bytes.fromhex("f248cdc9c90700")), b"Hello")
        self.assertEqual(inflated(inflater, bytes.fromhex("f200110000")), b"Hello")
        for payload in ("000500faff48656c6c6f00", "f348cdc9c9070000", "f248050000 00ffffcac9c90700"):
            self.assertEqual(inflated(Inflater(DeflateAgreement()), bytes.fromhex(payload)), b"Hello")

    def test_messages_share_a_window(self) -> None:
        deflater, inflater = Deflater(DeflateAgreement()), Inflater(DeflateAgreement())
        first, second = deflater.compress(b"abcdefgh" * 20), deflater.compress(b"abcdefgh" * 20)
        assert first is not None and second is not None
        self.assertLess(len(second), len(first))
        self.assertEqual([inflated(inflater, each) for each in (first, second)], [b"abcdefgh" * 20] * 2)

    def test_or_do_not(self) -> None:
        agreement = DeflateAgreement(keep_context=False, peer_keeps_context=False)
        deflater, inflater = Deflater(agreement), Inflater(agreement)
        first, second = deflater.compress(b"abcdefgh" * 20), deflater.compress(b"abcdefgh" * 20)
        assert first is not None
        self.assertEqual(first, second)
        for _ in range(2):
            self.assertEqual(inflated(inflater, first), b"abcdefgh" * 20)

    def test_each_message_may_end_a_stream(self) -> None:
        inflater = Inflater(DeflateAgreement())
        for _ in range(2):
            self.assertEqual(inflated(inflater, bytes.fromhex("f348cdc9c9070000")), b"Hello")

    def test_the_last_piece_together_with_the_end(self) -> None:
        """It makes no difference in how many steps a message is inflated, nor to the messages after it."""
        for agreement in (DeflateAgreement(), DeflateAgreement(keep_context=False, peer_keeps_context=False)):
            deflater = Deflater(agreement)
            at_once, in_steps = Inflater(agreement), Inflater(agreement)
            for number in range(3):
                message = b"abcdefgh" * 20 + bytes((number,))
                packed = deflater.compress(message)
                assert packed is not None
                self.assertEqual(at_once.end(1000, packed), message)
                self.assertEqual(inflated(in_steps, packed), message)
        packed = Deflater(DeflateAgreement()).compress(bytes(1001))
        assert packed is not None
        self.assertRaises(TooMuch, Inflater(DeflateAgreement()).end, 1000, packed)
        self.assertEqual(Inflater(DeflateAgreement()).end(1001, packed), bytes(1001))

    def test_a_window_that_zlib_cannot_make(self) -> None:
        self.assertIsNone(Deflater(DeflateAgreement(window_bits=8)).compress(b"hello"))

    def test_a_stream_that_ends_and_goes_on(self) -> None:
        """A final block in one message; the next one refers back into it."""
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        first = packer.compress(b"one two three " * 5) + packer.flush(zlib.Z_FINISH)
        packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=b"one two three " * 5)
        second = packer.compress(b"one two three " * 5) + packer.flush(zlib.Z_SYNC_FLUSH)
        inflater = Inflater(DeflateAgreement())
        self.assertEqual(inflated(inflater, first + b"\0"), b"one two three " * 5)
        self.assertEqual(inflated(inflater, second[:-4]), b"one two three " * 5)

    def test_many_ends_in_one_message(self) -> None:
        """Two bytes each, and each would cost a new stream."""
        with self.assertRaises(Corrupt):
            Inflater(DeflateAgreement()).inflate(b"\x03\x00" * 1000, 1000)

    def test_bomb(self) -> None:
        """No more is inflated than there is room for, by far."""
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = packer.compress(bytes(50_000_000)) + packer.flush()
        with self.assertRaises(TooMuch):
            Inflater(DeflateAgreement()).inflate(bomb, 1000)

    def test_room_is_exact(self) -> None:
        packed = Deflater(DeflateAgreement()).compress(bytes(1000))
        assert packed is not None
        self.assertEqual(inflated(Inflater(DeflateAgreement()), packed, 1000), bytes(1000))
        with self.assertRaises(TooMuch):
            inflated(Inflater(DeflateAgreement()), packed, 999)

    @given(st.binary(max_size=300), st.integers(0, 1000))
    def test_garbage(self, data: bytes, room: int) -> None:
        """Nothing but the two documented errors, and never more than there is room for."""
        try:
            self.assertLessEqual(len(inflated(Inflater(DeflateAgreement()), data, room)), room)
        except (Corrupt, TooMuch):
            pass

    @given(st.lists(st.binary(max_size=300), max_size=6), st.booleans(), st.integers(9, 15))
    def test_round_trip(self, messages: list[bytes], keep: bool, bits: int) -> None:
        deflater = Deflater(DeflateAgreement(window_bits=bits, keep_context=keep))
        inflater = Inflater(DeflateAgreement(peer_keeps_context=keep))
        for message in messages:
            packed = deflater.compress(message)
            assert packed is not None
            self.assertEqual(inflated(inflater, packed), message)


class NegotiationTests(SynchronousTestCase):
    """Who agrees to what."""

    def server(self, *offers: dict[str, str | None]) -> tuple[DeflateAgreement, str] | None:
        """What a server makes of offers."""
        listed: list[Extension] = [("permessage-deflate", offer) for offer in offers]
        return server_agreement([("x-other", {}), *listed])

    def test_server(self) -> None:
        """What the official client offers, and each parameter."""
        self.assertIsNone(self.server())
        self.assertEqual(
            self.server({"client_max_window_bits": None}), (DeflateAgreement(), "permessage-deflate")
        )
        self.assertEqual(
            self.server({"server_max_window_bits": "10", "server_no_context_takeover": None}),
            (
                DeflateAgreement(10, keep_context=False),
                "permessage-deflate; server_max_window_bits=10; server_no_context_takeover",
            ),
        )
        self.assertEqual(
            self.server({"client_no_context_takeover": None, "client_max_window_bits": "9"}),
            (
                DeflateAgreement(peer_keeps_context=False),
                "permessage-deflate; client_no_context_takeover",
            ),
        )

    def test_offers_that_cannot_be_taken(self) -> None:
        """The next one is looked at."""
        bad: list[dict[str, str | None]] = [
            {"server_max_window_bits": "8"},
            {"server_max_window_bits": None},
            {"server_max_window_bits": "16"},
            {"client_max_window_bits": "08"},
            {"server_no_context_takeover": "1"},
            {"unknown": None},
        ]
        for offer in bad:
            self.assertIsNone(self.server(offer), offer)
            self.assertEqual(self.server(offer, {}), (DeflateAgreement(), "permessage-deflate"))

    def test_client(self) -> None:
        self.assertEqual(client_agreement({}), DeflateAgreement())
        self.assertEqual(
            client_agreement({"server_no_context_takeover": None, "client_max_window_bits": "12"}),
            DeflateAgreement(12, peer_keeps_context=False),
        )
        self.assertEqual(
            client_agreement({"client_no_context_takeover": None, "server_max_window_bits": "12"}),
            DeflateAgreement(keep_context=False),
        )

    def test_answers_that_do_not_fit(self) -> None:
        bad: list[dict[str, str | None]] = [
            {"client_max_window_bits": None},
            {"client_max_window_bits": "7"},
            {"server_max_window_bits": "x"},
            {"client_no_context_takeover": "1"},
            {"unknown": None},
        ]
        for answer in bad:
            self.assertIsNone(client_agreement(answer), answer)
