"""Token counts: what a single response reported, as a whole message or in the events of a stream (spec 9).

Pure. The dialects decode; the arithmetic and the notion of a complete response are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ccmproxy.policy.answers import Verdict


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one response, as the provider counts them.

    ``input`` excludes cache reads and cache writes: a provider that counts them as part of the input (OpenAI) has them
    subtracted, so that nothing is counted or priced twice (F21). The two parts of ``cache_creation`` (5-minute and
    1-hour lifetime) add up to it where they are known. ``output`` includes ``reasoning``.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_creation: int = 0
    cache_creation_5m: int = 0
    cache_creation_1h: int = 0
    reasoning: int = 0

    def __str__(self) -> str:
        return f"{self.total_input} in ({self.cache_read} from cache), {self.output} out"

    @property
    def total_input(self) -> int:
        """All tokens that were read, from the cache or not, which determine the context tier."""
        return self.input + self.cache_read + self.cache_creation


@dataclass(frozen=True, slots=True)
class MeterReading:
    """What is known of a response so far.

    ``complete``: its own end was seen (``message_stop``, a whole JSON message). ``error``: type of an error event that
    came inside a 200 (F13), empty where none did. ``reported``: any usage was reported at all. ``refusal``: what that
    error means for the credential, as an answer with its words would; None where it means nothing for it (F51).
    """

    tokens: Tokens
    model: str | None
    service_tier: str | None
    complete: bool
    error: str
    reported: bool
    refusal: Verdict | None = None


class UsageMeter(Protocol):
    """Observes one response body as it passes; never changes, keeps or delays it."""

    @property
    def at_boundary(self) -> bool:
        """Whether the bytes so far end between two events, so that a keep-alive may be written (F44)."""

    def feed(self, data: bytes) -> None:
        """Read the next bytes of the body. Never raises: what cannot be parsed is not counted."""

    def end(self) -> None:
        """Note that the body has ended, according to its framing."""

    def reading(self) -> MeterReading:
        """What is known now; valid at any moment, also after the stream broke off."""
