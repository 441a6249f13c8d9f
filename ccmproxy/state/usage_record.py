"""What one answer cost, in tokens: the record that is kept of it (spec 9.2). Pure."""

from __future__ import annotations

from dataclasses import dataclass

#: The context windows that are told apart (tokens): the larger one is dearer.
USUAL_WINDOW = 200_000
LONG_WINDOW = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """One answer that reported tokens, or the part of it that is known. Texts are empty and numbers 0 where there is
    nothing to say.

    ``started_at`` (Unix seconds), ``request_id`` and ``turn`` together are its key: a WebSocket is one request with
    many turns, which are counted from 0. ``service``: the tag of its service. ``credential``: of the account, key
    or remote instance that served. ``context_window``: USUAL_WINDOW or LONG_WINDOW. ``input`` excludes what was
    read from and written to the cache; the two parts of ``cache_creation`` (5-minute and 1-hour lifetime) add up to
    it where they are known; ``output`` includes ``reasoning``. ``messages``: of the conversation that was sent.
    ``week_started_at``: when the credential's weekly window began (Unix seconds). ``result``: the log's word for
    the outcome. ``first_byte``, ``duration``: seconds since ``started_at``. ``is_extra``: the provider said that it
    was paid for beside the plan. ``is_incomplete``: the answer broke off, or its client left, before all was known.
    ``is_estimated``: of the output only its text was seen.
    """

    started_at: float
    request_id: str
    turn: int = 0
    service: str = ""
    credential: str = ""
    user: str = ""
    session: str = ""
    agent: str = ""
    model: str = ""
    service_tier: str = ""
    context_window: int = USUAL_WINDOW
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_creation: int = 0
    cache_creation_5m: int = 0
    cache_creation_1h: int = 0
    reasoning: int = 0
    messages: int = 0
    week_started_at: float = 0.0
    status: int = 200
    result: str = ""
    tries: int = 1
    first_byte: float = 0.0
    duration: float = 0.0
    is_extra: bool = False
    is_incomplete: bool = False
    is_estimated: bool = False

    @property
    def key(self) -> tuple[float, str, int]:
        """What tells it from every other record, however often it is replayed."""
        return self.started_at, self.request_id, self.turn

    @property
    def total_input(self) -> int:
        """All tokens that were read, from the cache or not, which determine the context tier."""
        return self.input + self.cache_read + self.cache_creation
