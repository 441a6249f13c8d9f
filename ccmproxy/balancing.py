"""Which credential serves a request: pure decisions over frozen snapshots (spec 6)."""

from __future__ import annotations

from dataclasses import dataclass

from ccmproxy.availability import Availability


@dataclass(frozen=True, slots=True)
class Selection:
    """What a provider is asked: a credential for this session and model, none of ``excluded`` (tags already tried)."""

    session: str | None = None
    model: str | None = None
    allow_external: bool = False
    excluded: frozenset[str] = frozenset()


class NoCredential(Exception):
    """No credential can take the request now. ``availability`` is that of the whole provider (spec 8.1)."""

    def __init__(self, availability: Availability) -> None:
        super().__init__(availability.message or availability.reason)
        self.availability = availability
