"""Reading bodies up to their end, kept or discarded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.failures import BodyTooLarge, NoRoomForBody
from ccmproxy.http.framing import LAST_CHUNK, FramingError, chunk
from ccmproxy.http.server.request_body import RESERVED_AT_ONCE, SMALL_PIECE, BodyReader
from ccmproxy.http.server.request_head import CHUNKED
from tests.effort import Effort
from tests.http.test_framing import cut


class BodyReaderTests(SynchronousTestCase):
    """Feeding a reader."""

    @given(st.binary(max_size=300), st.binary(max_size=50), st.lists(st.integers(min_value=0)), st.booleans())
    def test_ends_where_it_should(
        self, payload: bytes, behind: bytes, places: list[int], chunked: bool
    ) -> None:
        raw = (chunk(payload) if payload else b"") + LAST_CHUNK if chunked else payload
        reader = BodyReader(CHUNKED if chunked else len(payload))
        reader.keep(300)
        rest = b""
        for piece in filter(None, cut(raw + behind, places)):
            rest += piece if reader.complete else reader.feed(piece)
        self.assertTrue(reader.complete)
        self.assertEqual((b"".join(reader.chunks), rest), (payload, behind))
        self.assertNotIn(b"", reader.chunks)

    def test_nothing_to_come(self) -> None:
        reader = BodyReader(0)
        self.assertTrue(reader.complete)
        reader.keep(0)
        self.assertEqual(reader.feed(b"next"), b"next")
        self.assertEqual(reader.chunks, [])

    def test_large_pieces_are_kept_as_they_came(self) -> None:
        pieces = [b"a" * SMALL_PIECE, b"b" * 5000, b"c"]
        reader = BodyReader(sum(map(len, pieces)))
        reader.keep(100_000)
        for piece in pieces:
            reader.feed(piece)
        self.assertEqual(reader.chunks, pieces)
        self.assertIs(reader.chunks[0], pieces[0])

    def test_small_pieces_do_not_multiply(self) -> None:
        """F63: the object for a piece of two bytes is twenty times as large as the piece."""
        size = 60_000
        reader = BodyReader(size)
        reader.keep(size)
        with Effort(memory=True) as effort:
            for number in range(size // 2):
                reader.feed(b"%02d" % (number % 100))
        self.assertLess(effort.peak, 3 * size)
        self.assertEqual(b"".join(reader.chunks), b"".join(b"%02d" % (n % 100) for n in range(size // 2)))

    def test_tiny_chunks_do_not_multiply(self) -> None:
        reader = BodyReader(CHUNKED)
        reader.keep(10_000)
        for _ in range(3):
            reader.feed(chunk(b"a") * 1000)
        reader.feed(LAST_CHUNK)
        self.assertEqual([len(piece) for piece in reader.chunks], [3000])  # not 3,000 of one byte (F63)

    def test_announced_too_large(self) -> None:
        with self.assertRaises(BodyTooLarge) as caught:
            BodyReader(11).keep(10)
        self.assertEqual(caught.exception.limit, 10)

    def test_grows_too_large(self) -> None:
        reader = BodyReader(CHUNKED)
        reader.keep(10)
        reader.feed(chunk(b"0123456789"))
        with self.assertRaises(BodyTooLarge):
            reader.feed(chunk(b"a"))

    def test_reserved_at_once_where_announced(self) -> None:
        reserved: list[int] = []
        reader = BodyReader(10)
        reader.keep(10, reserved.append)
        self.assertEqual(reserved, [10])
        reader.feed(b"0123456789")
        self.assertEqual(reserved, [10])
        BodyReader(0).keep(10, reserved.append)
        self.assertEqual(reserved, [10], "nothing for a request without a body")

    def test_reserved_as_it_comes_beyond_a_mebibyte(self) -> None:
        """Who announces much and sends nothing holds little."""
        reserved: list[int] = []
        size = RESERVED_AT_ONCE
        reader = BodyReader(3 * size)
        reader.keep(4 * size, reserved.append)
        self.assertEqual(sum(reserved), size)
        for part, expected in (
            (size // 2, size),
            (size // 2, size),
            (size, 2 * size),
            (size - 1, 3 * size - 1),
        ):
            reader.feed(bytes(part))
            self.assertEqual(sum(reserved), expected)
        reader.feed(b"x")
        self.assertTrue(reader.complete)
        self.assertEqual(sum(reserved), 3 * size)

    def test_reserved_as_it_comes_where_chunked(self) -> None:
        reserved: list[int] = []
        reader = BodyReader(CHUNKED)
        reader.keep(100, reserved.append)
        for size in (10, 1, 0):
            reader.feed(chunk(b"x" * size) if size else LAST_CHUNK)
        self.assertEqual(reserved, [10, 1])

    def test_no_room(self) -> None:
        """Nothing is kept without room for it, and the end of the body is still found."""

        def refuse(size: int) -> None:
            raise NoRoomForBody(size)

        with self.assertRaises(NoRoomForBody) as caught:
            BodyReader(10).keep(10, refuse)
        self.assertEqual(caught.exception.size, 10)
        reader = BodyReader(CHUNKED)
        reader.keep(10, refuse)
        with self.assertRaises(NoRoomForBody):
            reader.feed(chunk(b"abc"))
        self.assertEqual(reader.chunks, [])
        reader.discard()
        reader.feed(chunk(b"def") + LAST_CHUNK)
        self.assertTrue(reader.complete)

    def test_thrown_away(self) -> None:
        reader = BodyReader(10)
        reader.keep(10)
        reader.feed(b"abc")
        reader.discard()
        reader.feed(b"defg")
        self.assertEqual((reader.chunks, reader.discarded, reader.complete), ([], 4, False))
        self.assertEqual(reader.feed(b"hijk"), b"k")
        self.assertTrue(reader.complete)

    def test_broken(self) -> None:
        with self.assertRaises(FramingError):
            BodyReader(CHUNKED).feed(b"x\r\n")
