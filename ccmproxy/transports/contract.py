"""What a transport must be to carry HTTP, WebSockets and sessions of streams."""

from __future__ import annotations

from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport


class IByteStream(ITransport, IConsumer, IPushProducer):
    """A reliable stream of bytes in both directions, with back-pressure in both.

    Twisted's transports for TCP and TLS are such streams, and so are our TLS and the streams of a multiplexed session.

    A registered push producer is paused while the transport takes nothing more. ``pauseProducing`` stops what comes,
    and in the end the peer. ``loseConnection`` sends first what was written, and waits for the producer to unregister.
    """

    def abortConnection() -> None:
        """Drop the connection at once: the other side can tell that from an end in good order.

        What was written and is not sent is lost.
        """


def nowhere(data: bytes) -> None:
    """Stands for a transport's ``write`` until there is a transport: what is written is lost."""
