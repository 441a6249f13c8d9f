"""Compressed bodies are looked into, within bounds (F31, F59)."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from random import Random

import brotli
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.content_coding import MOST_MEMBERS, decompressed

TEXT = b'{"model": "gpt-5.4"}' * 1000


def zstd(data: bytes) -> bytes:
    """``data`` as the official client compresses it."""
    return zstandard.ZstdCompressor(level=3).compress(data)


class DecompressionTests(SynchronousTestCase):
    """Each coding that clients use."""

    def test_codings(self) -> None:
        for coding, data in (
            (None, TEXT),
            (b"identity", TEXT),
            (b"gzip", gzip.compress(TEXT)),
            (b" X-GZIP ", gzip.compress(TEXT)),
            (b"gzip", gzip.compress(TEXT[:50]) + gzip.compress(TEXT[50:])),
            (b"Zstd", zstd(TEXT)),
            (b"zstd", zstd(TEXT[:50]) + zstd(TEXT[50:])),
            (b"deflate", zlib.compress(TEXT)),
            (b"deflate", zlib.compress(TEXT)[2:-4]),  # bare, as some servers send it
            (b"br", brotli.compress(TEXT)),
        ):
            self.assertEqual(decompressed(data, coding), TEXT, coding)

    def test_what_is_not_known_or_broken(self) -> None:
        for coding in (b"br", b"deflate", b"compress", b"zstd, gzip"):
            self.assertIsNone(decompressed(zstd(TEXT), coding))
        for coding in (b"gzip", b"zstd"):
            self.assertIsNone(decompressed(TEXT, coding))
            self.assertEqual(decompressed(b"", coding), b"")

    def test_a_bomb_is_left_alone(self) -> None:
        bomb = bytes(64 * 1024 * 1024)
        for coding, data in (
            (b"gzip", gzip.compress(bomb)),
            (b"zstd", zstd(bomb)),
            (b"deflate", zlib.compress(bomb)),
            (b"br", brotli.compress(bomb, quality=5)),
        ):
            tracemalloc.start()
            self.assertIsNone(decompressed(data, coding, largest=1024 * 1024))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            self.assertLess(peak, 4 * 1024 * 1024)

    def test_the_bound_is_exact(self) -> None:
        for coding, data in (
            (b"gzip", gzip.compress(TEXT)),
            (b"zstd", zstd(TEXT)),
            (b"deflate", zlib.compress(TEXT)),
            (b"br", brotli.compress(TEXT)),
        ):
            self.assertEqual(decompressed(data, coding, largest=len(TEXT)), TEXT)
            self.assertIsNone(decompressed(data, coding, largest=len(TEXT) - 1))

    def test_pieces_are_bounded(self) -> None:
        """F63: a member of gzip costs more than its 20 bytes, and is copied with all that follows it."""
        empty = gzip.compress(b"")
        self.assertEqual(decompressed(empty * (MOST_MEMBERS - 1) + gzip.compress(TEXT), b"gzip"), TEXT)
        self.assertIsNone(decompressed(empty * MOST_MEMBERS + gzip.compress(TEXT), b"gzip"))
        self.assertIsNone(decompressed(empty * 300_000, b"gzip"))

    def test_what_is_longer_than_what_it_may_become(self) -> None:
        """F63: a body that does not shrink is hostile where it is longer than what may be in it."""
        empty_blocks = b"\x00\x00\x00\xff\xff" * 30_000
        for coding, head, piece in (
            (b"gzip", gzip.compress(b"")[:10], empty_blocks),
            (b"deflate", b"", empty_blocks),
            (b"zstd", b"", zstd(b"") * 20_000),
        ):
            self.assertEqual(decompressed(head + piece, coding, largest=1024 * 1024), b"", coding)
            self.assertIsNone(decompressed(head + piece, coding, largest=64 * 1024), coding)

    def test_what_did_not_shrink_is_read(self) -> None:
        random = Random(1).randbytes(1024 * 1024)
        for coding, data in (
            (b"gzip", gzip.compress(random)),
            (b"zstd", zstd(random)),
            (b"deflate", zlib.compress(random)),
            (b"br", brotli.compress(random, quality=5)),
            (b"gzip", b"".join(gzip.compress(random[at : at + 9000]) for at in range(0, len(random), 9000))),
        ):
            self.assertEqual(decompressed(data, coding, largest=len(random)), random)

    def test_a_window_larger_than_allowed_is_refused(self) -> None:
        parameters = zstandard.ZstdCompressionParameters(window_log=24, enable_ldm=True)
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        data = compressor.compress(TEXT) + compressor.flush()
        self.assertIsNone(decompressed(data, b"zstd"))

    @given(st.binary(max_size=100), st.sampled_from([b"gzip", b"zstd", b"deflate", b"br"]))
    def test_never_raises(self, data: bytes, coding: bytes) -> None:
        decompressed(data, coding)
        compress = {b"gzip": gzip.compress, b"zstd": zstd, b"deflate": zlib.compress, b"br": brotli.compress}
        whole = compress[coding](data)
        decompressed(whole[: len(whole) // 2], coding)
        decompressed(whole + data, coding)
