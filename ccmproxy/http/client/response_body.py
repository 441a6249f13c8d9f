"""Bodies of responses, by how their end is told (RFC 9112 section 6.3). Sans I/O."""

from __future__ import annotations

import typing
from typing import Final

from httptools import HttpParserError, HttpResponseParser

#: Makes llhttp expect chunks, and refuse anything behind the last one.
_CHUNKED_HEAD: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


class ResponseBody(typing.Protocol):
    """What the bytes of a connection are given to while a body comes.

    ``ends_with_connection``: nothing but the end of the connection ends it.
    """

    ends_with_connection: bool

    def receive(self, data: bytes, reader: BodyReader) -> None:
        """Take the next bytes, and tell ``reader`` what they bring."""


class BodyReader(typing.Protocol):
    """What a body tells whoever reads it.

    A reader that has turned away from a body ignores what that still tells with the last two methods.
    """

    def body_data(self, data: bytes) -> None:
        """Some of it."""

    def body_ended(self, body: ResponseBody, is_clean: bool) -> None:
        """It is complete. Not ``is_clean``: more came behind it."""

    def body_malformed(self, body: ResponseBody, problem: str) -> None:
        """It cannot be read on, and why."""


class FirstRead:
    """Reads what came of a body in the same read as its head, so that both can be passed on together.

    ``data``: all of it. :meth:`pass_end` tells another reader how the body ended, if it did.
    """

    __slots__ = ("_end", "data")

    def __init__(self) -> None:
        self.data = b""
        self._end: bool | str | None = None

    def body_data(self, data: bytes) -> None:
        """Keep it: there is one piece, because there was one read."""
        self.data = data

    def body_ended(self, body: ResponseBody, is_clean: bool) -> None:
        """Keep it."""
        self._end = is_clean

    def body_malformed(self, body: ResponseBody, problem: str) -> None:
        """Keep it."""
        self._end = problem

    def pass_end(self, body: ResponseBody, reader: BodyReader) -> None:
        """Tell ``reader`` the end of ``body``, if it has come."""
        if isinstance(self._end, str):
            reader.body_malformed(body, self._end)
        elif self._end is not None:
            reader.body_ended(body, self._end)


class SizedBody:
    """A body of ``size`` bytes, more than none."""

    __slots__ = ("_remaining",)
    ends_with_connection = False

    def __init__(self, size: int) -> None:
        self._remaining = size

    def receive(self, data: bytes, reader: BodyReader) -> None:
        extra = len(data) - self._remaining
        if extra < 0:
            self._remaining = -extra
            reader.body_data(data)
            return
        if extra:
            data = data[: self._remaining]
        reader.body_data(data)
        reader.body_ended(self, not extra)


class BodyUntilClose:
    """A body that goes on until the connection ends."""

    __slots__ = ()
    ends_with_connection = True

    def receive(self, data: bytes, reader: BodyReader) -> None:
        reader.body_data(data)


class ChunkedBody:
    """A body in the chunked coding, which llhttp takes off.

    ``overhead_limit``: bytes that may come between two pieces of the body, and in its trailers.
    """

    __slots__ = ("_chunks", "_overhead", "_overhead_limit", "_parser")
    ends_with_connection = False

    def __init__(self, overhead_limit: int) -> None:
        self._overhead_limit = overhead_limit
        self._overhead = 0
        self._chunks = _Chunks()
        self._parser = HttpResponseParser(self._chunks)
        self._parser.feed_data(_CHUNKED_HEAD)

    def receive(self, data: bytes, reader: BodyReader) -> None:
        problem: HttpParserError | None = None
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            problem = error
        chunks = self._chunks
        pieces = chunks.pieces
        if pieces:
            self._overhead = 0
            # Passed on together, still in this turn: a burst of small chunks costs one write, not one each.
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            reader.body_data(data)
        else:
            self._overhead += len(data)
        if chunks.is_complete:
            reader.body_ended(self, problem is None)
        elif problem is not None:
            reader.body_malformed(self, f"malformed body from the upstream: {problem}")
        elif self._overhead > self._overhead_limit:
            reader.body_malformed(self, "too much between the chunks of the upstream's response")


class _Chunks:
    """What llhttp calls while it is fed: it must not be fed again from within, nor the connection be used again.

    An object of its own, so that body and parser do not hold each other and wait for the garbage collector.
    """

    __slots__ = ("is_complete", "on_body", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.on_body = self.pieces.append
        self.is_complete = False

    def on_message_complete(self) -> None:
        """The last chunk and the trailers have been read."""
        self.is_complete = True
