"""Heads of requests and responses, chunked bodies, and compressed ones."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import brotli
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.client.response_body import ChunkedBody, ResponseBody
from ccmproxy.http.client.response_head import ResponseHeadReader
from ccmproxy.http.content_coding import decompressed
from ccmproxy.http.failures import UpstreamProtocolError
from ccmproxy.http.framing import LAST_CHUNK, ChunkedDecoder, FramingError, chunk
from ccmproxy.http.server.request_head import IncomingHead, take_head
from tests.effort import Effort
from tests.fuzz.mutation import PIECES, mutated, pieces
from tests.profiles import examples

#: Largest head in these tests (bytes).
HEAD_SIZE = 16 * 1024

_FIELDS = st.lists(
    st.sampled_from(
        (
            *(b"Host: a", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Connection: close, te"),
            *(
                b"Expect: 100-continue",
                b"anthropic-beta: a,b",
                b"Authorization: Bearer x",
                b"X:",
                b"a:\t\xe9 ",
            ),
        )
    ),
    max_size=12,
)
_TOKENS = (
    b"\r\n\r\n",
    b"Host: b\r\n",
    b"Content-Length: 1\r\n",
    b"\r\n a",
    b"HTTP/1.1",
    b"a:\r\n",
    b"0\r\n\r\n",
)


def _head(lines: tuple[bytes, list[bytes]]) -> bytes:
    return b"\r\n".join([lines[0], *lines[1], b"", b""])


REQUESTS = st.tuples(
    st.sampled_from(
        (
            b"GET / HTTP/1.1",
            b"POST /v1/messages?x=%41 HTTP/1.1",
            b"OPTIONS * HTTP/1.1",
            b"HEAD http://a/b HTTP/1.0",
        )
    ),
    _FIELDS,
).map(_head)
RESPONSES = st.tuples(
    st.sampled_from((b"HTTP/1.1 200 OK", b"HTTP/1.1 103 Early Hints", b"HTTP/1.0 429 ", b"HTTP/1.1 204")),
    _FIELDS,
).map(_head)
CHUNKED = st.lists(st.binary(min_size=1, max_size=30), max_size=6).map(
    lambda parts: b"".join(map(chunk, parts)) + LAST_CHUNK
)


class RequestTests(SynchronousTestCase):
    """Heads of requests."""

    def read(self, data: bytes, size: int) -> list[object]:
        """Every head in ``data``, as a connection would read them; None for what is refused.

        The status may depend on the pieces: what is broken is refused as soon as that shows, and may be too long too.
        """
        found: list[object] = []
        buffer, searched = b"", 0
        try:
            for piece in pieces(data, size):
                buffer += piece
                while buffer:
                    head, buffer = take_head(buffer, searched, HEAD_SIZE)
                    if head is None:
                        searched = len(buffer)
                        break
                    searched = 0
                    found.append(self.described(head))
        except FramingError as error:
            self.assertIn(error.status, (400, 417, 431, 501, 505))
            found.append(None)
        return found

    def described(self, incoming: IncomingHead) -> object:
        head = incoming.head
        return head.method, head.target, head.headers, incoming.body_length, incoming.keep_alive

    @given(mutated(st.lists(REQUESTS, min_size=1, max_size=3).map(b"".join), _TOKENS))
    @examples(150)
    def test_requests(self, data: bytes) -> None:
        with Effort() as effort:
            whole = self.read(data, 0)
        self.assertLess(effort.lines, 500 + 20 * len(data))
        for size in PIECES:
            self.assertEqual(self.read(data, size)[: len(whole)], whole)


class ResponseTests(SynchronousTestCase):
    """Heads of responses: their status lines and fields."""

    def read(self, data: bytes, size: int) -> list[object]:
        """Every head in ``data``, until one is final; what is no head as None."""
        reader = ResponseHeadReader(HEAD_SIZE)
        found: list[object] = []
        try:
            for piece in pieces(data, size):
                while piece:
                    incoming = reader.feed(piece)
                    if incoming is None:
                        break
                    head = incoming.head
                    found.append((head.status, head.reason, head.headers, incoming.body_length))
                    if head.status >= 200:
                        return found
                    piece = incoming.rest
        except UpstreamProtocolError:
            found.append(None)
        return found

    @given(mutated(st.lists(RESPONSES, min_size=1, max_size=3).map(b"".join), _TOKENS))
    @examples(150)
    def test_responses(self, data: bytes) -> None:
        with Effort() as effort:
            whole = self.read(data, 0)
        self.assertLess(effort.lines, 500 + 20 * len(data))
        for size in PIECES:
            self.assertEqual(self.read(data, size), whole)


class _Told:
    """What a body tells: its bytes, and how it ended."""

    def __init__(self) -> None:
        self.data = b""
        self.end: object = None

    def body_data(self, data: bytes) -> None:
        self.data += data

    def body_ended(self, body: ResponseBody, is_clean: bool) -> None:
        self.end = "ended"

    def body_malformed(self, body: ResponseBody, problem: str) -> None:
        self.end = "malformed"


class ChunkedTests(SynchronousTestCase):
    """Bodies in the chunked coding, of requests and of responses."""

    def of_request(self, data: bytes, size: int) -> tuple[bytes, object]:
        """The payload, and what is behind it, or that it is broken."""
        decoder = ChunkedDecoder()
        payload = b""
        try:
            for piece in pieces(data, size):
                payload += b"".join(decoder.feed(piece))
        except FramingError:
            return b"", "broken"
        return payload, decoder.rest if decoder.finished else "goes on"

    def of_response(self, data: bytes, size: int) -> tuple[bytes, object]:
        body, told = ChunkedBody(1000), _Told()
        for piece in pieces(data, size):
            if told.end is None:
                body.receive(piece, told)
        return told.data, told.end

    @given(
        mutated(CHUNKED, (b"0\r\n", b"1\r\nx\r\n" * 1000, b";a=b\r\n", b"fffffffffffffff\r\n", b"a: b\r\n"))
    )
    @examples(150)
    def test_bodies(self, data: bytes) -> None:
        with Effort() as effort:
            whole = self.of_request(data, 0)
        self.assertLess(effort.lines, 500 + 20 * len(data))
        for size in PIECES:
            self.assertEqual(self.of_request(data, size), whole)

    @given(mutated(CHUNKED, (b"0\r\n", b";a=b\r\n", b"fffffffffffffff\r\n", b"a: b\r\n")))
    @examples(150)
    def test_bodies_of_responses(self, data: bytes) -> None:
        whole = self.of_response(data, 0)
        for size in PIECES:
            found = self.of_response(data, size)
            if "malformed" not in (whole[1], found[1]):
                self.assertEqual(found, whole)


def _packers() -> dict[bytes, Callable[[bytes], bytes]]:
    return {
        b"gzip": gzip.compress,
        b"deflate": zlib.compress,
        b"zstd": zstandard.compress,
        b"br": brotli.compress,
    }


class CompressedTests(SynchronousTestCase):
    """Bodies that are compressed."""

    LARGEST = 50_000

    @given(st.data(), st.sampled_from(sorted(_packers())))
    @examples(150)
    def test_bodies(self, data: st.DataObject, coding: bytes) -> None:
        pack = _packers()[coding]
        contents = st.sampled_from((b"", b"x", b'{"model":"m"}' * 50, bytes(200_000), bytes(range(256)) * 9))
        packed = data.draw(
            mutated(
                st.lists(contents.map(pack), min_size=1, max_size=4).map(b"".join),
                (
                    pack(b"") * 500,
                    b"\x00\x00\x00\xff\xff" * 1000,
                    b"\x50\x2a\x4d\x18\0\0\0\0",
                    pack(bytes(300_000)),
                ),
            )
        )
        with Effort(memory=True) as effort:
            found = decompressed(packed, coding, self.LARGEST)
        if found is not None:
            self.assertLessEqual(len(found), self.LARGEST)
        self.assertLess(effort.lines, 500 + 20 * (len(packed) // 20 + 1))
        self.assertLess(effort.peak, 3 * self.LARGEST + 3 * len(packed) + 700_000)
