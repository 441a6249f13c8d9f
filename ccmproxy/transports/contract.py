"""The interface of transports that can carry HTTP, WebSockets and multiplexed sessions."""

from __future__ import annotations

from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport


class IByteStream(ITransport, IConsumer, IPushProducer):
    """A reliable stream of bytes in both directions, with back-pressure in both.

    Twisted's TCP and TLS transports provide it, and so do our TLS transport and the streams of a multiplexed session.

    A registered push producer is paused while the transport's buffer is full. ``pauseProducing`` stops the delivery of
    received data, and in the end makes the peer stop sending. ``loseConnection`` first sends what was written, and
    waits for the producer to unregister.
    """

    def abortConnection() -> None:
        """Drop the connection at once, in a way that the peer can tell from an orderly close.

        Data that was written but not sent yet is lost.
        """


def nowhere(data: bytes) -> None:
    """Discard ``data``: stands in for a transport's ``write`` while there is no transport yet."""
