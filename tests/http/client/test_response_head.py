"""Heads of responses, from pieces of any size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.client.response_head import (
    MOST_INTERIM_RESPONSES,
    IncomingResponse,
    ResponseHeadReader,
    is_persistent,
)
from ccmproxy.http.failures import UpstreamProtocolError
from ccmproxy.http.framing import MOST_FIELDS

HEAD = b"HTTP/1.1 200 Fine\r\nX-One: 1\r\nContent-Length: 5\r\n\r\n"


def read(reader: ResponseHeadReader, pieces: list[bytes]) -> IncomingResponse | None:
    """The first head that ``pieces`` complete."""
    for piece in pieces:
        if (found := reader.feed(piece)) is not None:
            return found
    return None


class ReadingTests(SynchronousTestCase):
    """What a head says."""

    def read(self, *pieces: bytes, limit: int = 1000) -> IncomingResponse:
        found = read(ResponseHeadReader(limit), list(pieces))
        assert found is not None
        return found

    def test_whole(self) -> None:
        found = self.read(HEAD + b"hello")
        self.assertEqual((found.head.status, found.head.reason), (200, b"Fine"))
        self.assertEqual(list(found.head.headers), [(b"X-One", b"1"), (b"Content-Length", b"5")])
        self.assertEqual((found.body_length, found.is_persistent, found.rest), (5, True, b"hello"))

    def test_cut_anywhere(self) -> None:
        for cut in range(1, len(HEAD)):
            found = self.read(HEAD[:cut], HEAD[cut:] + b"h")
            self.assertEqual((found.head.status, found.body_length, found.rest), (200, 5, b"h"), cut)
        self.assertEqual(self.read(*(HEAD[at : at + 1] for at in range(len(HEAD)))).rest, b"")

    def test_length_of_the_body(self) -> None:
        for fields, length in (
            (b"", None),
            (b"Content-Length: 0\r\n", 0),
            (b"Transfer-Encoding: chunked\r\n", -1),
        ):
            self.assertEqual(self.read(b"HTTP/1.1 200\r\n" + fields + b"\r\n").body_length, length)

    def test_interim_responses(self) -> None:
        """One head at a time; the bound is that of all of them."""
        interim = b"HTTP/1.1 103 Early Hints\r\nContent-Length: nonsense\r\n\r\n"
        reader = ResponseHeadReader(2 * len(interim) + len(HEAD))
        first = reader.feed(interim + interim[:10])
        assert first is not None
        self.assertEqual((first.head.status, first.rest), (103, interim[:10]))
        self.assertIsNone(reader.feed(first.rest))
        second = reader.feed(interim[10:])
        third = reader.feed(HEAD)
        assert second is not None and third is not None
        self.assertEqual((second.head.status, third.head.status), (103, 200))
        for data in (HEAD, b"H"):
            with self.assertRaisesRegex(UpstreamProtocolError, "too large"):
                reader.feed(data)

    def test_the_bounds_themselves_are_allowed(self) -> None:
        """F64: of interim responses, of which there may be fewer on another connection, and of fields."""
        interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
        for reader, allowed in (
            (ResponseHeadReader(10**6), MOST_INTERIM_RESPONSES),
            (ResponseHeadReader(10**6, 2), 2),
        ):
            for _ in range(allowed):
                self.assertIsNotNone(reader.feed(interim))
            self.assertIsNotNone(reader.feed(HEAD))
            with self.assertRaisesRegex(UpstreamProtocolError, "too many interim responses"):
                reader.feed(interim)
        fields = b"a: b\r\n" * MOST_FIELDS
        found = self.read(b"HTTP/1.1 200\r\n" + fields + b"\r\n", limit=10**6)
        self.assertEqual(len(found.head.headers), MOST_FIELDS)

    def test_persistence(self) -> None:
        for start, field, expected in (
            (b"HTTP/1.1", b"", True),
            (b"HTTP/1.1", b"Connection: Close\r\n", False),
            (b"HTTP/1.1", b"Connection: a, close\r\n", False),
            (b"HTTP/1.0", b"", False),
            (b"HTTP/1.0", b"Connection: Keep-Alive\r\n", True),
            (b"HTTP/1.0", b"Connection: keep-alive, close\r\n", False),
        ):
            found = self.read(start + b" 204 No Content\r\n" + field + b"\r\n")
            self.assertEqual(found.is_persistent, expected, (start, field))
        self.assertTrue(is_persistent(b"1", [(b"Connection", b"upgrade")]))


class RefusalTests(SynchronousTestCase):
    """What is no head, as early as it shows."""

    def refused(self, reader: ResponseHeadReader, data: bytes, words: str) -> None:
        with self.assertRaisesRegex(UpstreamProtocolError, words):
            reader.feed(data)

    def test_at_the_first_bytes(self) -> None:
        for data in (b"x", b"HTTQ", b"HTTP/2", b"\r\n", b"220 hello"):
            self.refused(ResponseHeadReader(1000), data, "not an HTTP/1 response")
        reader = ResponseHeadReader(1000)
        self.assertIsNone(reader.feed(b"HTT"))
        self.refused(reader, b"X", "not an HTTP/1 response")

    def test_bare_line_feeds(self) -> None:
        """Before there is an end, which would never come."""
        self.refused(ResponseHeadReader(1000), b"HTTP/1.1 200 OK\n", "bare LF")
        reader = ResponseHeadReader(1000)
        self.assertIsNone(reader.feed(b"HTTP/1.1 200 OK\r"))
        self.assertIsNone(reader.feed(b"\nX: y"))
        self.refused(reader, b"\nZ: z", "bare LF")

    def test_the_limit_itself_is_allowed(self) -> None:
        for size in (0, 1):
            reader = ResponseHeadReader(len(HEAD) - size)
            if size:
                self.refused(reader, HEAD, "too large")
            else:
                self.assertIsNotNone(reader.feed(HEAD))
        reader = ResponseHeadReader(20)
        self.assertIsNone(reader.feed(b"HTTP/1.1 200 OKOKOKO"))
        self.refused(reader, b"K", "too large")

    def test_too_many_fields(self) -> None:
        """F64: the shorter the fields, the more work is a head of the same size."""
        head = b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * (MOST_FIELDS + 1) + b"\r\n"
        self.refused(ResponseHeadReader(10**6), head, "too many header fields")

    def test_malformed(self) -> None:
        for head in (
            b"HTTP/1.1 99 X\r\n\r\n",
            b"HTTP/1.1 2000 X\r\n\r\n",
            b"HTTP/1.1  200 X\r\n\r\n",
            b"HTTP/1.1 200 X\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 X\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 X\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.0 200 X\r\nTransfer-Encoding: chunked\r\n\r\n",
        ):
            self.refused(ResponseHeadReader(1000), head, "malformed response from the upstream")

    @given(st.lists(st.sampled_from([b"HTTP/1.1 200 O", b"\r\n", b"\n", b"\r", b"X: y", b"\0"]), max_size=8))
    def test_however_it_is_cut(self, pieces: list[bytes]) -> None:
        """The same is found, or refused. (Refusals may differ in their words: one that comes earlier knows less.)"""

        def outcome(pieces: list[bytes]) -> object:
            try:
                found = read(ResponseHeadReader(1000), pieces)
            except UpstreamProtocolError:
                return "refused"
            return None if found is None else (found.head.status, list(found.head.headers))

        whole = b"".join(pieces)
        singles = [whole[at : at + 1] for at in range(len(whole))]
        if outcome(singles) != "refused":
            self.assertEqual(outcome(singles), outcome([whole] if whole else []))
