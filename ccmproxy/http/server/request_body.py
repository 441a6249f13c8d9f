"""Receiving the body of one request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ccmproxy.http.failures import BodyMalformed, BodyTooLarge
from ccmproxy.http.framing import ChunkedDecoder, FramingError
from ccmproxy.http.message import Body
from ccmproxy.http.server.request_head import CHUNKED

#: So much of an announced length is reserved at once, so that a body of usual size comes whole or not at all; of more,
#: what has come: who only announces a body holds nothing (bytes).
RESERVED_AT_ONCE: Final = 1024 * 1024
#: Called with the body, with the error because of which there is none, and with a number of bytes before they are kept.
OnBody = Callable[[Body], None]
OnError = Callable[[Exception], None]
Reserve = Callable[[int], None]

#: Pieces below the first size are put together until they have the second (bytes).
SMALL_PIECE: Final = 4 * 1024
_LARGE_PIECE: Final = 64 * 1024


class BodyReader:
    """Finds the end of a body, and keeps its bytes if :meth:`keep` was called.

    ``complete``: whether the whole body was fed. ``chunks``: the kept bytes of a complete body, in pieces of any size.
    ``discarded``: number of bytes that were not kept.
    """

    __slots__ = (
        "_decoder",
        "_left",
        "_limit",
        "_reserve",
        "_reserved",
        "_size",
        "_small",
        "chunks",
        "complete",
        "discarded",
    )

    def __init__(self, length: int) -> None:
        """``length`` in bytes, or CHUNKED."""
        self._decoder = ChunkedDecoder() if length == CHUNKED else None
        self._left = length
        self._limit: int | None = None
        self._reserve: Reserve | None = None
        self._reserved = 0
        self._size = 0
        #: Bytes kept that came in small pieces, behind the last of ``chunks``.
        self._small = bytearray()
        self.complete = length == 0
        self.chunks: list[bytes] = []
        self.discarded = 0

    def keep(self, limit: int, reserve: Reserve | None = None) -> None:
        """Keep the bytes from now on, at most ``limit``. Raises BodyTooLarge when a longer body is announced.

        ``reserve``: called before so many bytes are kept, the first RESERVED_AT_ONCE of an announced length at once.
        What it raises, NoRoomForBody, comes from here or from :meth:`feed`.
        """
        if self._left > limit:
            raise BodyTooLarge(limit)
        if reserve is not None:
            if self._left > RESERVED_AT_ONCE or self._decoder is not None:
                self._reserve = reserve
            if self._left > 0:
                self._reserved = min(self._left, RESERVED_AT_ONCE)
                reserve(self._reserved)
        self._limit = limit

    def discard(self) -> None:
        """Drop the kept bytes, and keep nothing from now on."""
        self._limit = None
        self.chunks = []
        self._small = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Consume the bytes that belong to the body, and return the bytes after its end.

        Raises BodyTooLarge when more bytes than the limit arrive, NoRoomForBody when they cannot be reserved, and
        FramingError when the chunked coding is broken.
        """
        if self._decoder is not None:
            pieces = self._decoder.feed(data)
            self.complete = self._decoder.finished
            if pieces:
                # Joined, because the overhead of one object per tiny chunk would be many times the body itself.
                self._take(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            if self.complete:
                self._keep_small()
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
        if self._reserve is not None and self._size > self._reserved:
            self._reserve(self._size - self._reserved)
            self._reserved = self._size
        if len(data) >= SMALL_PIECE or (self.complete and not self._small):
            self._keep_small()
            self.chunks.append(data)
            return
        # An object for each small piece would take many times the memory of the body itself.
        self._small += data
        if self.complete or len(self._small) >= _LARGE_PIECE:
            self._keep_small()

    def _keep_small(self) -> None:
        if self._small:
            self.chunks.append(bytes(self._small))
            self._small = bytearray()


class BodyIntake:
    """The body of the current request, and the callbacks of the handler that waits for it.

    Until :meth:`ask` or :meth:`waste` is called, no bytes may be fed. After :meth:`ask` the body is received; once the
    request was answered, or its body cannot be received, the body is discarded.

    ``continue_expected``: the client waits for "100 Continue" before it sends the body. ``wasted``: number of discarded
    bytes.
    """

    __slots__ = ("_on_body", "_on_error", "_reader", "continue_expected", "wasted")

    def __init__(self, length: int, expects_continue: bool = False) -> None:
        """``length`` in bytes, or CHUNKED."""
        self._reader: BodyReader | None = BodyReader(length)
        self._on_body: OnBody | None = None
        self._on_error: OnError | None = None
        self.continue_expected = expects_continue and length != 0
        self.wasted = 0

    @property
    def is_complete(self) -> bool:
        """Whether the whole body has arrived. Stays False once the framing is broken, as the end cannot be found."""
        return self._reader is not None and self._reader.complete

    def ask(self, limit: int, on_body: OnBody, on_error: OnError, reserve: Reserve | None = None) -> None:
        """Set the handler's callbacks and keep the body. Raises BodyTooLarge when more than ``limit`` bytes are
        announced, NoRoomForBody when they cannot be reserved."""
        self._on_body, self._on_error = on_body, on_error
        if self._reader is not None:
            self._reader.keep(limit, reserve)

    def receive(self, data: bytes) -> bytes:
        """Consume bytes of the body, and return the bytes after its end.

        Raises BodyTooLarge when more bytes than the limit arrive, NoRoomForBody when they cannot be reserved, and
        BodyMalformed when the chunked coding is broken.
        """
        assert self._reader is not None
        try:
            return self._reader.feed(data)
        except FramingError as error:
            self._reader = None
            raise BodyMalformed(str(error)) from None

    def waste(self, data: bytes) -> bytes:
        """Discard bytes of the body, and return the bytes after its end. All bytes are discarded if the framing is
        broken, as the end cannot be found."""
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
        """Return a function that passes the complete body to the waiting handler, or None if no handler waits.

        The handler does not wait any more after this.
        """
        on_body, reader = self._on_body, self._reader
        self.forget()
        if on_body is None or reader is None:
            return None
        body = Body(reader.chunks)
        return lambda: on_body(body)

    def failed(self, error: Exception) -> Callable[[], None] | None:
        """Return a function that passes ``error`` to the waiting handler, or None; otherwise like :meth:`received`."""
        on_error = self._on_error
        self.forget()
        return None if on_error is None else lambda: on_error(error)

    def forget(self) -> None:
        """Drop the handler's callbacks."""
        self._on_body = self._on_error = None


def no_body() -> BodyIntake:
    """Return an intake that discards everything, for the bytes after a malformed request."""
    intake = BodyIntake(0)
    intake._reader = None
    return intake
