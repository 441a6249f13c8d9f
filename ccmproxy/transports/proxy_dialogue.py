"""What a client and a proxy say to each other before the proxy passes bytes on: the part without sockets.

:mod:`.socks` and :mod:`.connect` speak it, :mod:`.tunnel` carries it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.error import ConnectError


class ProxyError(ConnectError):
    """A proxy cannot be reached, refuses, is mute, or does not speak its protocol.

    ``str()`` is a sentence of ours: it repeats nothing that the proxy said in words, and no login.
    """

    def __init__(self, message: str) -> None:
        super().__init__(string=message)  # type: ignore[no-untyped-call]

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Login:
    """Who we are for a proxy. No repr shows the password."""

    username: str
    password: str = field(repr=False)


class Handshake(Protocol):
    """One conversation with a proxy: bytes in, bytes out.

    ``rest``: None until the proxy has agreed; then what it sent behind its last word, which belongs to the
    destination. Nothing may be received after that.
    """

    rest: bytes | None

    def start(self) -> bytes:
        """What we say first."""

    def receive(self, data: bytes) -> bytes:
        """Take what the proxy said, in pieces of any size; what we say to it, if anything. Raises ProxyError."""
