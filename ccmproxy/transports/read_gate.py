"""Whether a transport is read from, told only when it changes."""

from __future__ import annotations

from twisted.internet.interfaces import IPushProducer


class ReadGate:
    """Pauses and resumes one transport; asking for what is already so does nothing."""

    __slots__ = ("_transport", "is_open")

    def __init__(self, transport: IPushProducer) -> None:
        self._transport = transport
        self.is_open = True

    def close(self) -> None:
        """Read no further."""
        if self.is_open:
            self.is_open = False
            self._transport.pauseProducing()

    def open(self) -> None:
        """Read on."""
        if not self.is_open:
            self.is_open = True
            self._transport.resumeProducing()
