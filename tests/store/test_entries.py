"""Frames are read as they were written, however much of them is left, and entries amount to records."""

from __future__ import annotations

import dataclasses
from typing import Any
from zlib import crc32

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.usage_record import UsageRecord
from ccmproxy.store.entries import (
    HEAD_SIZE,
    LONGEST_PAYLOAD,
    LONGEST_TEXT,
    Entry,
    EntryKind,
    EntryReader,
    encode,
    settled,
)
from tests.profiles import examples
from tests.store.records import CLOSED, OPENED, entries, frame, record

#: The fields of a frame as another program may have written them.
WRITTEN = {"kind": "closed", "record": {"started_at": 1.5, "request_id": "req_1"}}


def framed(payload: bytes) -> bytes:
    """The frame of a payload, as the module describes it."""
    return len(payload).to_bytes(4, "big") + crc32(payload).to_bytes(4, "big") + payload


def read(data: bytes, start: int = 0) -> tuple[list[Entry], EntryReader]:
    """The entries in ``data``, and what the reader says of them."""
    reader = EntryReader(data, start)
    return list(reader), reader


class EncodeTests(SynchronousTestCase):
    """What is written."""

    def test_the_frame(self) -> None:
        written = frame(OPENED, 7, model="m", is_extra=True)
        payload = written[HEAD_SIZE:]
        self.assertEqual(written, framed(payload))
        fields = msgspec.msgpack.decode(payload)
        self.assertEqual(fields["kind"], "opened")
        self.assertEqual(fields["record"], dataclasses.asdict(record(7, model="m", is_extra=True)))

    @examples(30)
    @given(entries())
    def test_it_is_read_as_it_was(self, entry: Entry) -> None:
        self.assertEqual(read(encode(entry))[0], [entry])

    def test_what_does_not_fit_is_cut(self) -> None:
        for field, value, expected in (
            ("user", "\ud800x", "?x"),
            ("user", "x" * LONGEST_PAYLOAD, "x" * LONGEST_TEXT),
            ("agent", "\U0001f600" * LONGEST_PAYLOAD, "\U0001f600" * LONGEST_TEXT),
            ("input", 2**70, 2**63 - 1),
            ("output", -(2**70), -(2**63) + 1),
        ):
            whole: Any = record(1, is_extra=True, duration=2.5, **{field: value})
            cut: Any = record(1, is_extra=True, duration=2.5, **{field: expected})
            self.assertEqual(read(encode(Entry(CLOSED, whole)))[0], [Entry(CLOSED, cut)])

    def test_everything_too_long_at_once(self) -> None:
        texts: Any = {
            each.name: "\U0001f600" * 1_000_000
            for each in dataclasses.fields(UsageRecord)
            if each.type == "str"
        }
        written = encode(Entry(CLOSED, UsageRecord(started_at=1.5, **texts)))
        self.assertLess(len(written), LONGEST_PAYLOAD)
        self.assertEqual(len(read(written)[0]), 1)

    def test_long_ids_are_cut_alike(self) -> None:
        """The entry that opens fits, the one that closes does not; they have one key all the same."""
        name = "x" * 300
        opened = encode(Entry(OPENED, UsageRecord(started_at=1.5, request_id=name)))
        closed = encode(Entry(CLOSED, UsageRecord(started_at=1.5, request_id=name, agent="y" * 100_000)))
        found, _ = read(opened + closed)
        self.assertEqual(len({each.record.key for each in found}), 1)


class ReaderTests(SynchronousTestCase):
    """What is read again, of whatever is left."""

    @examples(10)
    @given(st.lists(entries(), max_size=3), st.integers(0, 20))
    def test_cut_at_every_place(self, written: list[Entry], zeros: int) -> None:
        """What is whole before the cut is read, and nothing else."""
        frames = [encode(entry) for entry in written]
        data = b"".join(frames) + bytes(zeros)
        ends = [sum(map(len, frames[: at + 1])) for at in range(len(frames))]
        for cut in range(len(data) + 1):
            found, reader = read(data[:cut])
            whole = sum(end <= cut for end in ends)
            self.assertEqual(found, written[:whole])
            self.assertEqual(reader.good, ends[whole - 1] if whole else 0)
            self.assertEqual(reader.is_damaged, any(data[reader.good : cut]))

    @examples(300)
    @given(st.binary(max_size=200), st.integers(0, 20))
    def test_garbage(self, garbage: bytes, start: int) -> None:
        found, reader = read(garbage, start)
        self.assertEqual(found, [])
        self.assertGreaterEqual(reader.good, start)

    @examples(60)
    @given(st.lists(st.one_of(st.binary(min_size=1, max_size=50), entries().map(encode)), max_size=5))
    def test_payloads_of_garbage(self, payloads: list[bytes]) -> None:
        """A payload that is nonsense ends nothing: its frame is whole."""
        good = frame(CLOSED, 9)
        data = b"".join(framed(each) for each in payloads) + good
        found, reader = read(data)
        self.assertEqual(found[-1], Entry(CLOSED, record(9)))
        self.assertEqual((reader.good, reader.is_damaged), (len(data), False))
        self.assertEqual(len(found) + reader.unreadable, len(payloads) + 1)

    @examples(60)
    @given(st.lists(entries(), min_size=1, max_size=4), st.data())
    def test_a_flipped_bit(self, written: list[Entry], data: st.DataObject) -> None:
        """What comes before the damaged frame is kept, and nothing of what was not written appears."""
        frames = [encode(entry) for entry in written]
        bits = bytearray(b"".join(frames) + bytes(20))
        place = data.draw(st.integers(0, len(bits) - 21))
        bits[place] ^= 1 << data.draw(st.integers(0, 7))
        damaged = next(at for at in range(len(frames)) if place < sum(map(len, frames[: at + 1])))
        found, reader = read(bytes(bits))
        self.assertEqual(found, written[:damaged])
        self.assertEqual(reader.good, sum(map(len, frames[:damaged])))
        self.assertTrue(reader.is_damaged)

    def test_lengths(self) -> None:
        for payload, is_whole in ((bytes(LONGEST_PAYLOAD), True), (bytes(LONGEST_PAYLOAD + 1), False)):
            _, reader = read(framed(payload) + frame(CLOSED))
            self.assertEqual(reader.unreadable, is_whole)
            self.assertEqual(reader.good > 0, is_whole)
        _, reader = read(b"\xff" * 100)
        self.assertEqual((reader.good, reader.is_damaged), (0, True))

    def test_start(self) -> None:
        data = b"header" + frame(CLOSED, 3)
        found, reader = read(data, 6)
        self.assertEqual(found, [Entry(CLOSED, record(3))])
        self.assertEqual(reader.good, len(data))

    def test_other_programs(self) -> None:
        """What they add is ignored, what they leave out has its default; without a key it is no record."""
        simple = [Entry(CLOSED, UsageRecord(started_at=1.5, request_id="req_1"))]
        named: dict[str, Any] = {"started_at": 1.5, "request_id": "req_1"}
        deep = b"\x91" * 20_000 + b"\x90"
        table: list[tuple[bytes, list[Entry]]] = [
            (msgspec.msgpack.encode(fields), expected)
            for fields, expected in (
                (WRITTEN, simple),
                ({**WRITTEN, "later": [1, {"a": None}]}, simple),
                ({"kind": "closed", "record": {**named, "later": {"a": 1}}}, simple),
                ({"kind": "closed", "record": {"started_at": 1.5}}, []),
                ({"kind": "closed", "record": {**named, "status": "?"}}, []),
                ({"kind": "reopened", "record": named}, []),
                ({"record": named}, []),
                (["closed", named], []),
            )
        ]
        table.append((b"\x81\xa5later" + deep, []))
        table.append((b"\x81\xa4kind\xa2\xff\xff", []))
        for payload, expected in table:
            found, reader = read(framed(payload) + frame(OPENED, 5))
            self.assertEqual(found, [*expected, Entry(OPENED, record(5))], payload[:80])
            self.assertEqual(reader.unreadable, not expected)


class SettledTests(SynchronousTestCase):
    """What entries amount to."""

    def incomplete(self, number: int, **others: Any) -> UsageRecord:
        """A record that nobody closed."""
        return record(number, result="incomplete", is_incomplete=True, **others)

    def test_table(self) -> None:
        opened, closed = Entry(OPENED, record(1, input=5)), Entry(CLOSED, record(1, output=7, result="ok"))
        other = Entry(CLOSED, record(2))
        turn = Entry(OPENED, record(1, turn=1, result="?"))
        for given_entries, expected in (
            ([], []),
            ([closed], [closed.record]),
            ([opened, closed], [closed.record]),
            ([closed, opened], [closed.record]),
            ([opened], [self.incomplete(1, input=5)]),
            ([opened, Entry(OPENED, record(1, input=6))], [self.incomplete(1, input=6)]),
            ([closed, closed, opened, opened], [closed.record]),
            ([closed, Entry(CLOSED, record(1, output=9))], [closed.record]),
            ([opened, other, closed], [other.record, closed.record]),
            ([opened, turn, closed], [closed.record, self.incomplete(1, turn=1)]),
        ):
            self.assertEqual(list(settled(given_entries)), expected)

    @examples(200)
    @given(st.lists(st.tuples(st.sampled_from(EntryKind), st.integers(0, 4), st.integers(0, 3)), max_size=20))
    def test_each_key_once(self, drawn: list[tuple[EntryKind, int, int]]) -> None:
        found = list(settled(Entry(kind, record(number, output=output)) for kind, number, output in drawn))
        self.assertEqual(sorted(each.key for each in found), sorted({record(key).key for _, key, _ in drawn}))
        closed = {record(key).key for kind, key, _ in drawn if kind is CLOSED}
        for each in found:
            self.assertEqual(each.is_incomplete, each.key not in closed)
            self.assertEqual(each.result == "incomplete", each.key not in closed)
