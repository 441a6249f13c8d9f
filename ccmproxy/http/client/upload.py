"""Large requests: written as the transport takes them, so that no buffer grows with the body."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from typing import Final

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from ccmproxy.transports.contract import IByteStream

#: Up to this size (bytes) a body goes to the transport in one piece with its head. A larger one is produced as the
#: transport takes it, because transports join, and TLS encrypts, all that they are given at once.
WHOLE_REQUEST: Final = 256 * 1024
#: What a produced body is cut into, bytes; what Twisted's transports send in one go.
_PIECE: Final = 128 * 1024


class UploadingConnection(typing.Protocol):
    """What an upload tells its connection."""

    def upload_progressed(self) -> None:
        """The transport has taken what was written so far, or begins."""

    def upload_finished(self) -> None:
        """The transport has taken the whole request."""

    def upload_stopped(self) -> None:
        """The transport will take nothing more: the connection is about to be lost."""


@implementer(IPushProducer)
class Upload:
    """Writes a request of more than ``WHOLE_REQUEST`` as the transport takes it."""

    __slots__ = ("_connection", "_paused", "_pieces", "_stopped", "_transport")

    def __init__(
        self, connection: UploadingConnection, transport: IByteStream, head: bytes, body: Sequence[bytes]
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._pieces = _pieces(head, body)
        self._paused = False
        self._stopped = False

    def resumeProducing(self) -> None:
        self._paused = False
        self._connection.upload_progressed()
        while not self._paused and not self._stopped:
            piece = next(self._pieces, None)
            if piece is None:
                self._stopped = True
                self._connection.upload_finished()
                return
            self._transport.write(piece)

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._stopped = True
        self._connection.upload_stopped()


def _pieces(head: bytes, body: Sequence[bytes]) -> Iterator[bytes]:
    """The request in pieces of up to 128 KiB; small chunks are not put together, only large ones cut."""
    yield head
    for chunk in body:
        if len(chunk) <= _PIECE:
            if chunk:
                yield chunk
            continue
        view = memoryview(chunk)
        for start in range(0, len(chunk), _PIECE):
            yield bytes(view[start : start + _PIECE])
