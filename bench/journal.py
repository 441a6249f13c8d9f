"""``python -m bench.journal``: how long the reactor's thread is kept by an append to the journal (spec 9.2).

Meanwhile another thread does once a second what the writer of the store does: it makes the next segment, syncs and
releases. With ``busy`` it also computes all the time, so that an append has to wait for the interpreter.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import Final

from bench import machine
from ccmproxy.state.usage_record import UsageRecord
from ccmproxy.store.entries import Entry, EntryKind, EntryReader, encode
from ccmproxy.store.journal import Journal
from ccmproxy.store.segment import HEADER

#: Appends per second (0: as many as there can be), and whether the other thread computes all the time.
SCENARIOS: Mapping[str, tuple[int, bool]] = {
    "paced": (1_000, False),
    "flat-out": (0, False),
    "busy": (1_000, True),
}
#: Seconds between two syncs.
SYNC_INTERVAL: Final = 1.0
RECORD: Final = UsageRecord(
    started_at=1_800_000_000.123,
    request_id="req_011CSHoEeqs5C35K2UUqR7Fy",
    service="claude",
    credential="subscription-2",
    user="alice",
    session="0198f0a4-6c1e-7d3a-9a56-2f0d1c9b7e42",
    agent="claude-cli/2.1.20 (external, cli)",
    model="claude-opus-4-1-20250805",
    service_tier="standard",
    input=12,
    output=1_532,
    cache_read=151_200,
    cache_creation=2_048,
    cache_creation_1h=2_048,
    messages=87,
    week_started_at=1_799_900_000.0,
    result="ok",
    first_byte=1.23,
    duration=31.7,
)


@dataclass(frozen=True, slots=True)
class Figures:
    """Times in microseconds: percentiles and the longest; ``over``: how many took longer than a millisecond.

    ``number``: of appends.
    """

    number: int
    p50: float
    p99: float
    p999: float
    longest: float
    over: int


def figures(nanoseconds: Sequence[int]) -> Figures:
    """The figures of these times, of which there must be at least one."""
    ordered = sorted(nanoseconds)

    def at(share: float) -> float:
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] / 1000

    over = sum(1 for each in nanoseconds if each > 1_000_000)
    return Figures(len(ordered), at(0.5), at(0.99), at(0.999), ordered[-1] / 1000, over)


def table(results: Mapping[str, Figures]) -> str:
    """A Markdown table."""
    lines = [
        "| scenario | appends | p50 µs | p99 µs | p99.9 µs | longest µs | over 1 ms |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, each in results.items():
        lines.append(
            f"| {name} | {each.number:,} | {each.p50:,.1f} | {each.p99:,.1f} | {each.p999:,.1f}"
            f" | {each.longest:,.1f} | {each.over} |"
        )
    return "\n".join(lines)


class _Writer(threading.Thread):
    """The thread of the store. ``position``: up to where it may release."""

    def __init__(self, journal: Journal, is_busy: bool) -> None:
        super().__init__()
        self.position = 0
        self.ended = threading.Event()
        self._journal = journal
        self._is_busy = is_busy

    def run(self) -> None:
        """Do it until it is ended."""
        due = perf_counter_ns()
        while not self.ended.is_set():
            if self._is_busy:
                sum(range(1_000))
            else:
                self.ended.wait(SYNC_INTERVAL)
            if perf_counter_ns() >= due:
                due += int(SYNC_INTERVAL * 1e9)
                self._journal.sync()
                self._journal.release(self.position)
                self._journal.prepare()


def measure(directory: str, rate: int, is_busy: bool, seconds: float) -> Figures:
    """Append ``rate`` entries per second for so many seconds, and return how long each took."""
    journal = Journal(directory)
    writer = _Writer(journal, is_busy)
    pause = threading.Event()
    taken = array("Q")
    frame = encode(Entry(EntryKind.CLOSED, RECORD))
    writer.start()
    begin = perf_counter_ns()
    last = begin + int(seconds * 1e9)
    try:
        while (before := perf_counter_ns()) < last:
            position = journal.append(frame)
            taken.append(perf_counter_ns() - before)
            writer.position = position or writer.position
            if rate:
                ahead = begin + len(taken) * 1_000_000_000 // rate - perf_counter_ns()
                if ahead > 0:
                    pause.wait(ahead / 1e9)
    finally:
        writer.ended.set()
        writer.join()
        journal.close()
    if journal.lost:
        print(f"{journal.lost} entries lost: {journal.problem}", file=sys.stderr)
    return figures(taken)


def replay_rates(number: int = 100_000) -> tuple[float, float]:
    """How long one entry takes to encode, and to read again (microseconds)."""
    records = [replace(RECORD, turn=turn) for turn in range(number)]
    before = perf_counter_ns()
    frames = [encode(Entry(EntryKind.CLOSED, record)) for record in records]
    between = perf_counter_ns()
    assert sum(1 for _ in EntryReader(HEADER + b"".join(frames), len(HEADER))) == number
    return (between - before) / number / 1000, (perf_counter_ns() - between) / number / 1000


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks that the arguments select. Exit status: 0."""
    parser = argparse.ArgumentParser("python -m bench.journal", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each scenario (10)")
    parser.add_argument("--directory", default=".", help="on the disk that is to be measured (.)")
    parser.add_argument(
        "--scenario", action="append", choices=[*SCENARIOS], help="only this; may be repeated"
    )
    options = parser.parse_args(arguments)
    print(machine.describe(), file=sys.stderr)
    results = {}
    for name in options.scenario or SCENARIOS:
        directory = tempfile.mkdtemp(prefix="ccmproxy-bench-", dir=options.directory)
        try:
            rate, is_busy = SCENARIOS[name]
            results[name] = measure(os.path.join(directory, "journal"), rate, is_busy, options.seconds)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    print(table(results))
    encoding, reading = replay_rates()
    size = len(encode(Entry(EntryKind.CLOSED, RECORD)))
    print(f"An entry has {size} bytes; {encoding:.1f} µs to encode it, {reading:.1f} µs to read it again.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
