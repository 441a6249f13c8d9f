"""A record of usage with everything within bounds, as all databases keep it."""

from __future__ import annotations

import hashlib
from decimal import ROUND_HALF_EVEN, Context, Decimal
from math import isfinite
from typing import TYPE_CHECKING, Final, NamedTuple

from ccmproxy.state.printable import printable

if TYPE_CHECKING:
    from ccmproxy.interfaces.store import CostedRecord

#: Most characters of a text.
LONGEST_TEXT: Final = 200
#: Largest number that is kept: a thousand times the tokens of the largest context. Databases count in 64 bits; nine
#: thousand million records of this size still have a sum.
LARGEST_NUMBER: Final = 10**9
#: Largest cost of one answer (USD), far beyond any. Almost a million records of it still have a sum.
LARGEST_COST: Final = Decimal(10_000)
NANO_PER_USD: Final = 10**9

#: So that the digits do not depend on what a thread has set.
_CONTEXT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_DIGEST_BYTES = 8


class StoredRecord(NamedTuple):
    """The columns of a record, in their order. See UsageRecord for what they mean.

    ``cost_nano_usd``: the cost in nano-USD, a whole number, so that sums are exact in whatever order they are made, and
    databases can make them. A price of 1 nano-USD per token is 0.001 USD per million of them; what is below is rounded
    once, here, by half a nano-USD at most.
    """

    started_at: float
    request_id: str
    turn: int
    service: str
    credential: str
    user_name: str
    session: str
    agent: str
    model: str
    service_tier: str
    context_window: int
    input: int
    output: int
    cache_read: int
    cache_creation: int
    cache_creation_5m: int
    cache_creation_1h: int
    reasoning: int
    messages: int
    week_started_at: float
    status: int
    result: str
    tries: int
    first_byte: float
    duration: float
    is_extra: int
    is_incomplete: int
    is_estimated: int
    cost_nano_usd: int | None
    price_list: str


def stored(costed: CostedRecord) -> StoredRecord:
    """Return ``costed`` as it is kept. What is already within bounds is kept as it is."""
    record = costed.record
    return StoredRecord(
        started_at=float(record.started_at),
        request_id=kept_text(record.request_id),
        turn=_number(record.turn),
        service=kept_text(record.service),
        credential=kept_text(record.credential),
        user_name=kept_text(record.user),
        session=kept_text(record.session),
        agent=kept_text(record.agent),
        model=kept_text(record.model),
        service_tier=kept_text(record.service_tier),
        context_window=_number(record.context_window),
        input=_number(record.input),
        output=_number(record.output),
        cache_read=_number(record.cache_read),
        cache_creation=_number(record.cache_creation),
        cache_creation_5m=_number(record.cache_creation_5m),
        cache_creation_1h=_number(record.cache_creation_1h),
        reasoning=_number(record.reasoning),
        messages=_number(record.messages),
        week_started_at=_seconds(record.week_started_at),
        status=_number(record.status),
        result=kept_text(record.result),
        tries=_number(record.tries),
        first_byte=_seconds(record.first_byte),
        duration=_seconds(record.duration),
        is_extra=int(record.is_extra),
        is_incomplete=int(record.is_incomplete),
        is_estimated=int(record.is_estimated),
        cost_nano_usd=None if costed.cost is None else _nano_usd(costed.cost),
        price_list=kept_text(costed.price_list),
    )


def kept_text(text: str) -> str:
    """Return ``text`` as it is kept: what is not printable is escaped, and what is longer than LONGEST_TEXT is cut.

    A digest takes the place of what was cut off, so that two long names, or two long ids of requests, stay two.
    """
    if len(text) <= LONGEST_TEXT:
        shown = printable(text)
        if len(shown) <= LONGEST_TEXT:
            return shown
    else:
        shown = printable(text[:LONGEST_TEXT])
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()
    return f"{shown[: LONGEST_TEXT - len(digest) - 1]}…{digest}"


def usd(nano_usd: int) -> Decimal:
    """Return an amount of nano-USD in USD, exactly."""
    return Decimal(nano_usd).scaleb(-9, _CONTEXT)


def _nano_usd(cost: Decimal) -> int:
    return int(min(cost, LARGEST_COST).scaleb(9, _CONTEXT).to_integral_value(context=_CONTEXT))


def _number(value: int) -> int:
    return min(max(int(value), 0), LARGEST_NUMBER)


def _seconds(value: float) -> float:
    return float(value) if isfinite(value) else 0.0
