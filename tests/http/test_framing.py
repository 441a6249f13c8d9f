"""Where messages begin and end, and which are refused because they are ambiguous."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.framing import (
    LAST_CHUNK,
    ChunkedDecoder,
    FramingError,
    body_length,
    chunk,
    is_token,
    join_head,
    parse_content_length,
    response_has_body,
    split_head,
)
from ccmproxy.http.message import Headers

TOKENS = st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", fullmatch=True)
VALUES = st.from_regex(rb"(?:[!-~\x80-\xff](?:[ \t!-~\x80-\xff]{0,20}[!-~\x80-\xff])?)?", fullmatch=True)

BROKEN_HEADS = (
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\tfolded\r\n\r\n",
    b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost\t: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost a\r\n\r\n",
    b"GET / HTTP/1.1\r\n: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nX\xe9: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: a\0b\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: a\x7fb\r\n\r\n",
    b"GET / HTTP/1.1\r\nX(: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: a\r\n",
    b"GET / HTTP/1.1\r\n\r\nX: a\r\n\r\n",
    b"\r\n",
    b"",
)

BROKEN_CHUNKS = (
    b"g\r\n",
    b"-1\r\n",
    b"+1\r\n",
    b"0x1\r\n",
    b" 1\r\na\r\n",
    b"1 \r\na\r\n",
    b"\r\n",
    b"1\na\r\n",
    b"1\r\nab\r\n",
    b"1\r\na\n0\r\n\r\n",
    b"1\r\na\rb",
    b"1;a\0\r\na\r\n",
    b"1;a\rb\r\na\r\n",
    b"1000000000000000\r\n",
    b"0" * 2000,
    b"1;" + b"x" * 2000,
    b"0\r\nno colon\r\n\r\n",
    b"0\r\nX : y\r\n\r\n",
    b"0\r\nX: \0\r\n\r\n",
    b"0\r\nX: y\rz\r\n\r\n",
    b"0\r\n" + b"X: y\r\n" * 5000,
    b"0\r\n\n",
)


def decode(pieces: list[bytes]) -> tuple[bytes, bool, bytes]:
    """The payload of a chunked body that arrives in ``pieces``, whether it ended, and the bytes after its end."""
    decoder = ChunkedDecoder()
    payload = b"".join(b"".join(decoder.feed(piece)) for piece in pieces)
    return payload, decoder.finished, decoder.rest


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` cut at the given places."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


class HeadTests(SynchronousTestCase):
    """Heads, taken apart and put together."""

    def test_names_values_and_order_stay(self) -> None:
        raw = b"GET / HTTP/1.1\r\nhOST:a\r\nX-B: 1\r\nX-b:\t2 \t\r\nEmpty:\r\nLatin: \xe9 \xff\r\n\r\n"
        self.assertEqual(
            split_head(raw),
            (
                b"GET / HTTP/1.1",
                [(b"hOST", b"a"), (b"X-B", b"1"), (b"X-b", b"2"), (b"Empty", b""), (b"Latin", b"\xe9 \xff")],
            ),
        )
        self.assertEqual(split_head(b"x\r\n\r\n"), (b"x", []))

    def test_broken_heads(self) -> None:
        for raw in BROKEN_HEADS:
            with self.assertRaises(FramingError, msg=repr(raw)):
                split_head(raw)

    @given(st.lists(st.tuples(TOKENS, VALUES)))
    def test_round_trip(self, headers: Headers) -> None:
        self.assertEqual(split_head(join_head(b"HTTP/1.1 200 OK", headers)), (b"HTTP/1.1 200 OK", headers))

    @given(st.binary())
    def test_garbage(self, garbage: bytes) -> None:
        try:
            line, headers = split_head(garbage + b"\r\n\r\n")
        except FramingError:
            return
        self.assertTrue(all(is_token(name) for name, _ in headers))
        self.assertNotIn(b"\n", b"".join([line, *[value for _, value in headers]]))

    def test_nothing_can_be_injected(self) -> None:
        for field in (
            (b"X", b"a\r\nSet-Cookie: b"),
            (b"X", b"a\nb"),
            (b"X", b"a\rb"),
            (b"X", b"a\0"),
            (b"X\r\nY", b"a"),
            (b"X Y", b"a"),
            (b"X:", b"a"),
        ):
            with self.assertRaises(FramingError, msg=repr(field)):
                join_head(b"HTTP/1.1 200 OK", [field])
        with self.assertRaises(FramingError):
            join_head(b"HTTP/1.1 200 OK\r\nX: y", [])

    def test_content_length(self) -> None:
        self.assertEqual(parse_content_length(b"0012"), 12)
        for value in (b"", b"-1", b"+1", b"1 ", b"1,1", b"0x1", b"1.0", b"\xb2", b"1" * 19, b"1\n"):
            with self.assertRaises(FramingError, msg=repr(value)):
                parse_content_length(value)

    def test_body_length(self) -> None:
        self.assertEqual(body_length([]), None)
        self.assertEqual(body_length([(b"content-LENGTH", b"7")]), 7)
        self.assertEqual(body_length([(b"Transfer-Encoding", b"Chunked")]), -1)
        for headers, status in (
            ([(b"Content-Length", b"7"), (b"Content-Length", b"7")], 400),
            ([(b"Content-Length", b"7"), (b"Transfer-Encoding", b"chunked")], 400),
            ([(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")], 400),
            ([(b"Transfer-Encoding", b"gzip, chunked")], 501),
            ([(b"Transfer-Encoding", b"identity")], 501),
            ([(b"Transfer-Encoding", b"")], 501),
        ):
            with self.assertRaises(FramingError) as caught:
                body_length(headers)
            self.assertEqual(caught.exception.status, status)

    def test_responses_without_a_body(self) -> None:
        self.assertTrue(response_has_body(b"GET", 200))
        for method, status in ((b"HEAD", 200), (b"GET", 204), (b"GET", 304), (b"GET", 103)):
            self.assertFalse(response_has_body(method, status))


class ChunkedTests(SynchronousTestCase):
    """The chunked coding."""

    @given(
        st.lists(st.binary(min_size=1, max_size=300)),
        st.binary(max_size=50),
        st.lists(st.integers(min_value=0)),
    )
    def test_whole_is_piecewise(self, payloads: list[bytes], behind: bytes, places: list[int]) -> None:
        raw = b"".join(map(chunk, payloads)) + LAST_CHUNK + behind
        expected = b"".join(payloads), True, behind
        self.assertEqual(decode([raw]), expected)
        self.assertEqual(decode(cut(raw, places)), expected)
        self.assertEqual(decode([raw[i : i + 1] for i in range(len(raw))]), expected)

    def test_extensions_and_trailers_are_dropped(self) -> None:
        raw = b'5;name="a b"\r\nhello\r\n0;x\r\nExpires: never\r\nX:\r\n\r\nrest'
        self.assertEqual(decode([raw]), (b"hello", True, b"rest"))
        self.assertEqual(decode([b"A\r\n0123456789\r\n000\r\n\r\n"]), (b"0123456789", True, b""))

    def test_broken_chunks(self) -> None:
        for raw in BROKEN_CHUNKS:
            for pieces in ([raw], [raw[i : i + 1] for i in range(len(raw))]):
                with self.assertRaises(FramingError, msg=repr(raw[:40])):
                    decode(pieces)

    @given(st.binary(), st.lists(st.integers(min_value=0)))
    def test_garbage(self, garbage: bytes, places: list[int]) -> None:
        try:
            whole = decode([garbage])
        except FramingError:
            with self.assertRaises(FramingError):
                decode(cut(garbage, places))
        else:
            self.assertEqual(decode(cut(garbage, places)), whole)

    def test_unfinished(self) -> None:
        self.assertEqual(decode([b"5\r\nhel"]), (b"hel", False, b""))
