"""Records and entries, for the tests of the store."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import strategies as st

from ccmproxy.state.usage_record import UsageRecord
from ccmproxy.store.entries import Entry, EntryKind, encode

OPENED = EntryKind.OPENED
CLOSED = EntryKind.CLOSED

#: Values of each type of field, as far as they survive a journal unchanged.
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "float": st.floats(allow_nan=False),
    "int": st.integers(-(2**63) + 1, 2**63 - 1),
    "str": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    "bool": st.booleans(),
}


def record(number: int = 0, **others: Any) -> UsageRecord:
    """A record with a key that ``number`` stands for; the keys of all numbers are equally long."""
    return UsageRecord(started_at=1000.5 + number, request_id=f"req_{number:06}", **others)


def frame(kind: EntryKind, number: int = 0, **others: Any) -> bytes:
    """The frame of an entry."""
    return encode(Entry(kind, record(number, **others)))


def records() -> st.SearchStrategy[UsageRecord]:
    """Records with any values."""
    return st.builds(
        UsageRecord, **{field.name: _VALUES[str(field.type)] for field in dataclasses.fields(UsageRecord)}
    )


def entries() -> st.SearchStrategy[Entry]:
    """Entries with such records."""
    return st.builds(Entry, st.sampled_from(EntryKind), records())
