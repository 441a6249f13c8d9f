"""How streams end otherwise than in good order. Kinds of Twisted's own errors, so that protocols need not know them."""

from __future__ import annotations

from twisted.internet.error import ConnectError, ConnectionAborted

from ccmproxy.transports.carried import CarrierConnectionLost


class SessionLost(CarrierConnectionLost):
    """The session that carried the stream is over: what came is not all that the peer wanted to say."""

    def __str__(self) -> str:
        """What it was made with; Twisted's own would put the sentence above before it."""
        return " ".join(map(str, self.args))


class StreamAborted(ConnectionAborted):
    """The stream was reset, by the peer or because of a limit of ours; ``str()`` says which."""

    def __str__(self) -> str:
        return " ".join(map(str, self.args))


class StreamNotOpened(ConnectError):
    """No stream can be opened on this session: it is over, or the peer takes no more. Nothing has been sent."""

    def __init__(self, message: str) -> None:
        super().__init__(string=message)  # type: ignore[no-untyped-call]

    def __str__(self) -> str:
        return " ".join(map(str, self.args))
