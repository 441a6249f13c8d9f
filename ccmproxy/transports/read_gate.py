"""Pausing and resuming a transport, without redundant calls."""

from __future__ import annotations

from twisted.internet.interfaces import IPushProducer


class ReadGate:
    """Pauses and resumes reading from one transport; both calls are idempotent."""

    __slots__ = ("_transport", "is_open")

    def __init__(self, transport: IPushProducer) -> None:
        self._transport = transport
        self.is_open = True

    def close(self) -> None:
        """Stop reading from the transport."""
        if self.is_open:
            self.is_open = False
            self._transport.pauseProducing()

    def open(self) -> None:
        """Continue reading from the transport."""
        if not self.is_open:
            self.is_open = True
            self._transport.resumeProducing()
