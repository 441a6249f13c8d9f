"""Where a stream comes from and goes to."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.interfaces import IAddress
from zope.interface import implementer


@implementer(IAddress)
@dataclass(frozen=True, slots=True)
class StreamAddress:
    """One end of a stream. ``carrier``: that end of the connection that carries it; ``stream_id``: same on both."""

    carrier: IAddress
    stream_id: int

    @property
    def host(self) -> str:
        """The host of the carrier, empty where that has none: what clients are told apart by."""
        return str(getattr(self.carrier, "host", ""))

    def __str__(self) -> str:
        return f"stream {self.stream_id} of {self.carrier}"
