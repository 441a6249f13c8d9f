"""Sending large requests at the pace of the transport, so that no buffer grows with the body."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from ccmproxy.transports.contract import IByteStream

#: A body of up to this size (bytes) is given to the transport at once, together with its head. A larger body is written
#: by a producer, because transports join, and TLS encrypts, everything that they are given at once.
WHOLE_REQUEST: Final = 256 * 1024
#: Size of the pieces of a produced body (bytes); Twisted's transports send this much at once.
_PIECE: Final = 128 * 1024
#: Pieces that are written in one turn of the reactor. A transport that takes all of them would keep everybody waiting
#: for the whole of a large body (F63).
_PIECES_AT_ONCE: Final = 8


class UploadingConnection(typing.Protocol):
    """The connection of an upload, as the upload notifies it."""

    def upload_progressed(self) -> None:
        """The transport has taken all bytes written so far, or the upload begins."""

    def upload_finished(self) -> None:
        """The transport has taken the whole request."""

    def upload_stopped(self) -> None:
        """The transport will take nothing more: the connection is about to be lost."""


@implementer(IPushProducer)
class Upload:
    """The push producer that writes a request with a body of more than ``WHOLE_REQUEST`` bytes.

    ``next_turn``: calls a function in the next turn of the reactor.
    """

    __slots__ = ("_connection", "_next_turn", "_paused", "_pieces", "_stopped", "_transport", "_waiting")

    def __init__(
        self,
        connection: UploadingConnection,
        transport: IByteStream,
        next_turn: Callable[[Callable[[], None]], object],
        head: bytes,
        body: Sequence[bytes],
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._pieces = _pieces(head, body)
        self._next_turn = next_turn
        self._paused = False
        self._stopped = False
        #: Whether the next turn is waited for.
        self._waiting = False

    def resumeProducing(self) -> None:
        self._paused = False
        self._connection.upload_progressed()
        if not self._waiting:
            self._write_some()

    def cancel(self) -> None:
        """Write nothing more, because the request is over."""
        self._stopped = True

    def _write_some(self) -> None:
        self._waiting = False
        for _ in range(_PIECES_AT_ONCE):
            if self._paused or self._stopped:
                return
            piece = next(self._pieces, None)
            if piece is None:
                self._stopped = True
                self._connection.upload_finished()
                return
            self._transport.write(piece)
        if not self._paused and not self._stopped:
            self._connection.upload_progressed()
            self._waiting = True
            self._next_turn(self._write_some)

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._stopped = True
        self._connection.upload_stopped()


def _pieces(head: bytes, body: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the request in pieces: the head, then pieces of the body of up to 128 KiB. Small chunks are not joined."""
    yield head
    for chunk in body:
        if len(chunk) <= _PIECE:
            if chunk:
                yield chunk
            continue
        view = memoryview(chunk)
        for start in range(0, len(chunk), _PIECE):
            yield bytes(view[start : start + _PIECE])
