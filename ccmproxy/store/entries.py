"""The entries of a journal, and the frames in which they are written (spec 9.2). Does no I/O.

A frame is the length of its payload and the payload's CRC-32, four bytes each, big-endian, and the payload: an
:class:`Entry` in MessagePack with the names of its fields, so that an older or a newer program can read it. What
follows the last frame of a segment is zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from enum import Enum
from struct import Struct
from typing import Final
from zlib import crc32

import msgspec

from ccmproxy.state.usage_record import UsageRecord

#: Longest payload of a frame (bytes): many times what an entry needs. A longer one is a sign of damage.
LONGEST_PAYLOAD: Final = 64 * 1024
#: Longest text in a record that has to be shortened (characters).
LONGEST_TEXT: Final = 200
#: The result of a record whose end nobody has written down.
INCOMPLETE: Final = "incomplete"

_HEAD = Struct(">II")
#: Bytes of a frame before its payload.
HEAD_SIZE: Final = _HEAD.size
#: Numbers from minus this to this fit a frame.
_LARGEST_NUMBER: Final = 2**63 - 1


class EntryKind(Enum):
    """What an entry says of its record."""

    #: The answer has begun to report tokens. The record is what was known then.
    OPENED = "opened"
    #: The answer is about to end. The record is the whole one.
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a journal. Entries with the same key of their records are about the same answer."""

    kind: EntryKind
    record: UsageRecord


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    """Return the frame of an entry, at most HEAD_SIZE + LONGEST_PAYLOAD bytes. Never fails for a record of the declared
    types: texts that are too long or no Unicode, and numbers that are too large, are cut to what fits."""
    record = entry.record
    if len(record.request_id) > LONGEST_TEXT:
        # Always, and not only where the frame becomes too long: all entries of an answer must have one key.
        entry = Entry(entry.kind, _cut(record))
    try:
        payload = _encoder.encode(entry)
    except (UnicodeEncodeError, OverflowError):
        payload = b""
    if not payload or len(payload) > LONGEST_PAYLOAD:
        payload = _encoder.encode(Entry(entry.kind, _cut(record)))
    return _HEAD.pack(len(payload), crc32(payload)) + payload


def _cut(record: UsageRecord) -> UsageRecord:
    """Return the record with values that fit a frame."""
    cut: dict[str, str | int] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, str):
            cut[field.name] = value[:LONGEST_TEXT].encode("utf-8", "replace").decode("utf-8")
        elif isinstance(value, int):
            cut[field.name] = min(max(value, -_LARGEST_NUMBER), _LARGEST_NUMBER)
    return replace(record, **cut)  # type: ignore[arg-type]  # each field gets a value of its own type


class EntryReader:
    """Iterates over the entries in ``data``, the bytes of a segment from ``start`` on. May be iterated once.

    It ends at zeros, which is the part that was never written, and at the first frame that is not whole, which is what
    a kill left behind. An entry that is whole but cannot be understood is skipped. Nothing in ``data`` makes it raise.

    ``good``: where the first byte after the last whole frame is (bytes from the beginning of ``data``). ``unreadable``:
    how many entries were skipped. ``is_damaged``: after the last whole frame comes something else than zeros. These are
    final when the iteration has ended.
    """

    def __init__(self, data: bytes | bytearray, start: int = 0) -> None:
        self._data = data
        self.good = start
        self.unreadable = 0
        self.is_damaged = False

    def __iter__(self) -> Iterator[Entry]:
        view = memoryview(self._data)
        while (payload := self._payload(view)) is not None:
            self.good += HEAD_SIZE + len(payload)
            try:
                entry = _decoder.decode(payload)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                self.unreadable += 1
                continue
            yield entry
        rest = len(self._data) - self.good
        self.is_damaged = self._data.count(0, self.good) < rest

    def _payload(self, view: memoryview) -> memoryview | None:
        """Return the payload of the next frame, or None if there is no whole one."""
        if len(view) - self.good < HEAD_SIZE:
            return None
        length, checksum = _HEAD.unpack_from(view, self.good)
        begin = self.good + HEAD_SIZE
        if not 0 < length <= min(LONGEST_PAYLOAD, len(view) - begin):
            return None
        payload = view[begin : begin + length]
        return payload if crc32(payload) == checksum else None


def settled(entries: Iterable[Entry]) -> Iterator[UsageRecord]:
    """Return the records that ``entries`` amount to, each key once: as the first entry that closed it has it, or, if
    none did, as it was last opened, marked as incomplete.

    What is closed comes as it is read, so that the entries need not be in memory together; what is not comes at the
    end.
    """
    opened: dict[tuple[float, str, int], UsageRecord] = {}
    closed: set[tuple[float, str, int]] = set()
    for entry in entries:
        key = entry.record.key
        if key in closed:
            continue
        if entry.kind is EntryKind.OPENED:
            opened[key] = entry.record
        else:
            closed.add(key)
            opened.pop(key, None)
            yield entry.record
    for record in opened.values():
        yield replace(record, is_incomplete=True, result=INCOMPLETE)
