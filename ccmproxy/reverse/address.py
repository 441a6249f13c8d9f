"""Addresses of the two ends of a stream."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.interfaces import IAddress
from zope.interface import implementer


@implementer(IAddress)
@dataclass(frozen=True, slots=True)
class StreamAddress:
    """One end of a stream. ``carrier``: address of this end of the carrier; ``stream_id``: the same at both ends."""

    carrier: IAddress
    stream_id: int

    @property
    def host(self) -> str:
        """The host of the carrier, by which clients are told apart; empty if the carrier has no host."""
        return str(getattr(self.carrier, "host", ""))

    def __str__(self) -> str:
        return f"stream {self.stream_id} of {self.carrier}"
