"""Bodies, plain and compressed, whole and broken."""

from __future__ import annotations

import gzip
import json

import zstandard
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.codex import body_decoding as request_body
from ccmproxy.simulator.codex.body_decoding import decode_document, decompressed, read_body
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import InvalidRequest

BODY = json.dumps({"model": "gpt-5.4", "input": "ü" * 10_000}).encode()
ZSTD = zstandard.ZstdCompressor().compress(BODY)


class RequestBodyTests(SynchronousTestCase):
    """Reading what was sent."""

    def test_codings(self) -> None:
        self.assertEqual(decompressed(BODY, []), BODY)
        self.assertEqual(decompressed(BODY, [b"identity"]), BODY)
        self.assertEqual(decompressed(ZSTD, [b"zstd"]), BODY)
        streamed = zstandard.ZstdCompressor().compressobj()
        self.assertEqual(decompressed(streamed.compress(BODY) + streamed.flush(), [b"ZSTD"]), BODY)
        self.assertEqual(decompressed(gzip.compress(BODY), [b"gzip"]), BODY)
        self.assertEqual(decompressed(gzip.compress(ZSTD), [b"zstd", b"gzip"]), BODY)

    def test_document(self) -> None:
        request = ReceivedRequest(1, 0.0, b"POST", b"/", [(b"Content-Encoding", b"zstd")], ZSTD, "test")
        self.assertEqual(read_body(request)["model"], "gpt-5.4")

    def test_broken(self) -> None:
        for body, codings in (
            (ZSTD[:-5], [b"zstd"]),
            (gzip.compress(BODY)[:-5], [b"gzip"]),
            (BODY, [b"zstd"]),
            (BODY, [b"gzip"]),
            (BODY, [b"br"]),
            (b"", [b"zstd"]),
        ):
            self.assertRaises(InvalidRequest, decompressed, body, codings)

    def test_bombs(self) -> None:
        self.patch(request_body, "MAX_DECODED", 100_000)
        zeros = bytes(10_000_000)
        self.assertRaises(InvalidRequest, decompressed, zstandard.ZstdCompressor().compress(zeros), [b"zstd"])
        self.assertRaises(InvalidRequest, decompressed, gzip.compress(zeros), [b"gzip"])

    @given(st.binary(max_size=200), st.sampled_from([b"zstd", b"gzip", b"identity"]))
    def test_garbage(self, body: bytes, coding: bytes) -> None:
        try:
            decode_document(decompressed(body, [coding]))
        except InvalidRequest:
            pass

    def test_no_object(self) -> None:
        for body in (b"", b"[]", b"{", b"\xff", b"[" * 100_000):
            self.assertRaises(InvalidRequest, decode_document, body)
