"""Receiving the body of one request."""

from __future__ import annotations

from collections.abc import Callable

from ccmproxy.http.failures import BodyMalformed, BodyTooLarge
from ccmproxy.http.framing import ChunkedDecoder, FramingError
from ccmproxy.http.message import Body
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


class BodyIntake:
    """The body of the request at hand, and the handler that waits for it. First nobody does: then bytes are not to be
    fed. Then it is received; or, once it was answered or cannot be received, thrown away.

    ``continue_expected``: the client waits for "100 Continue" before it sends any of it. ``wasted``: bytes that were
    thrown away.
    """

    __slots__ = ("_on_body", "_on_error", "_reader", "continue_expected", "wasted")

    def __init__(self, length: int, expects_continue: bool = False) -> None:
        """``length`` in bytes, or CHUNKED."""
        self._reader: BodyReader | None = BodyReader(length)
        self._on_body: Callable[[Body], None] | None = None
        self._on_error: Callable[[Exception], None] | None = None
        self.continue_expected = expects_continue and length != 0
        self.wasted = 0

    @property
    def is_complete(self) -> bool:
        """Whether the whole body has come; False for ever once its end cannot be found any more."""
        return self._reader is not None and self._reader.complete

    def ask(self, limit: int, on_body: Callable[[Body], None], on_error: Callable[[Exception], None]) -> None:
        """Somebody waits for it from now on. Raises BodyTooLarge where more than ``limit`` bytes are announced."""
        self._on_body, self._on_error = on_body, on_error
        if self._reader is not None:
            self._reader.keep(limit)

    def receive(self, data: bytes) -> bytes:
        """Bytes of the body; the result is what came behind its end.

        Raises BodyTooLarge, and BodyMalformed where the chunked coding is broken.
        """
        assert self._reader is not None
        try:
            return self._reader.feed(data)
        except FramingError as error:
            self._reader = None
            raise BodyMalformed(str(error)) from None

    def waste(self, data: bytes) -> bytes:
        """Throw bytes of the body away, and all that comes once its end cannot be found; the result is what came behind
        its end."""
        if self._reader is None:
            self.wasted += len(data)
            return b""
        self._reader.discard()
        try:
            rest = self._reader.feed(data)
        except FramingError:
            self._reader = None
            return b""
        self.wasted = self._reader.discarded
        return rest

    def received(self) -> Callable[[], None] | None:
        """What tells the handler that waits that all is there; None where none does. The second time: None."""
        on_body, reader = self._on_body, self._reader
        self.forget()
        if on_body is None or reader is None:
            return None
        body = Body(reader.chunks)
        return lambda: on_body(body)

    def failed(self, error: Exception) -> Callable[[], None] | None:
        """The same for the news that the body does not come."""
        on_error = self._on_error
        self.forget()
        return None if on_error is None else lambda: on_error(error)

    def forget(self) -> None:
        """Nobody waits any more."""
        self._on_body = self._on_error = None


def no_body() -> BodyIntake:
    """An intake for what follows something that never became a request: all of it is thrown away."""
    intake = BodyIntake(0)
    intake._reader = None
    return intake
