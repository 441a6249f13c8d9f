"""The handshake between a client and a proxy, without I/O: the types that all kinds of proxy share.

:mod:`.socks` and :mod:`.connect` implement it; :mod:`.tunnel` runs it on a connection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.error import ConnectError


class ProxyError(ConnectError):
    """The proxy cannot be reached, refuses the tunnel, does not answer, or violates its protocol.

    ``str()`` is a message of our own, which quotes neither text from the proxy nor the login.
    """

    def __init__(self, message: str) -> None:
        super().__init__(string=message)  # type: ignore[no-untyped-call]

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Login:
    """Our user name and password at a proxy. The repr does not show the password."""

    username: str
    password: str = field(repr=False)


class Handshake(Protocol):
    """The client's side of one handshake with a proxy: bytes in, bytes out.

    ``rest``: None until the proxy has established the tunnel; then the bytes received after the proxy's last message,
    which come from the destination. ``receive`` must not be called after that.
    """

    rest: bytes | None

    def start(self) -> bytes:
        """Return the first message to the proxy."""

    def receive(self, data: bytes) -> bytes:
        """Take ``data`` from the proxy, in pieces of any size; return the bytes to send to it, which may be empty.

        Raises ProxyError when the proxy refuses the tunnel or violates its protocol.
        """
