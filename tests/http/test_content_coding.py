"""Compressed bodies are looked into, within bounds (F31, F59)."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import brotli
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.content_coding import decompressed

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
