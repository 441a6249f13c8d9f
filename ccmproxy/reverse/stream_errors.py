"""Errors of streams. They are subclasses of Twisted's own errors, so that protocols need not know them."""

from __future__ import annotations

from twisted.internet.error import ConnectError, ConnectionAborted

from ccmproxy.transports.carried import CarrierConnectionLost


class SessionLost(CarrierConnectionLost):
    """The session that carried the stream is over, so the data received may be incomplete."""

    def __str__(self) -> str:
        """Return the message alone; Twisted's implementation would put the docstring of the class before it."""
        return " ".join(map(str, self.args))


class StreamAborted(ConnectionAborted):
    """The stream was reset by the peer, or by us because of a limit; ``str()`` says which."""

    def __str__(self) -> str:
        return " ".join(map(str, self.args))


class StreamNotOpened(ConnectError):
    """No stream can be opened on this session: it is over, or the peer accepts no more. Nothing has been sent."""

    def __init__(self, message: str) -> None:
        super().__init__(string=message)  # type: ignore[no-untyped-call]

    def __str__(self) -> str:
        return " ".join(map(str, self.args))
