"""Receiving the body of one request."""

from __future__ import annotations

from ccmproxy.http.failures import BodyTooLarge
from ccmproxy.http.framing import ChunkedDecoder
from ccmproxy.http.server.request_head import CHUNKED


class BodyReader:
    """Finds the end of a body, and keeps its bytes if it is told to.

    ``complete``: the whole body went past. ``chunks``: what was kept, as it was received. ``discarded``:
    bytes that went past without being kept.
    """

    __slots__ = ("_decoder", "_left", "_limit", "_size", "chunks", "complete", "discarded")

    def __init__(self, length: int) -> None:
        """``length`` in bytes, or CHUNKED."""
        self._decoder = ChunkedDecoder() if length == CHUNKED else None
        self._left = length
        self._limit: int | None = None
        self._size = 0
        self.complete = length == 0
        self.chunks: list[bytes] = []
        self.discarded = 0

    def keep(self, limit: int) -> None:
        """Keep what comes from now on, at most ``limit`` bytes. Raises BodyTooLarge where more is
        announced."""
        if self._left > limit:
            raise BodyTooLarge(limit)
        self._limit = limit

    def discard(self) -> None:
        """Keep nothing any more."""
        self._limit = None
        self.chunks = []

    def feed(self, data: bytes) -> bytes:
        """Take what belongs to the body; the result is what came behind its end.

        Raises BodyTooLarge, and FramingError where the chunked coding is broken.
        """
        if self._decoder is not None:
            pieces = self._decoder.feed(data)
            self.complete = self._decoder.finished
            if pieces:
                # Joined, or the overhead of tiny chunks would be many times the body itself.
                self._take(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            if self.complete:
                return self._decoder.rest
            return b""
        size = len(data)
        if size < self._left:
            self._left -= size
            self._take(data)
            return b""
        rest = b""
        if size > self._left:
            rest = data[self._left :]
            data = data[: self._left]
        self._left = 0
        self.complete = True
        if data:
            self._take(data)
        return rest

    def _take(self, data: bytes) -> None:
        if self._limit is None:
            self.discarded += len(data)
            return
        self._size += len(data)
        if self._size > self._limit:
            raise BodyTooLarge(self._limit)
        self.chunks.append(data)
