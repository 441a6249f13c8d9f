"""``python -m bench.store``: how fast the store takes records, answers questions and forgets.

Writes as many records as three months of a large team have, in batches as the daemon's writer does, each of which is on
the disk before the next one begins. Then asks each question, checks the store, and deletes in steps.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from decimal import Decimal
from itertools import islice
from zoneinfo import ZoneInfo

from bench.report import figure, table
from ccmproxy.interfaces.store import CostedRecord, Grouping, UsageQuestion, UsageReport
from ccmproxy.state.usage_record import UsageRecord
from ccmproxy.store.sqlite import SQLiteStore
from ccmproxy.store.sqlite_reports import SQLiteReader

#: A Monday (Unix seconds), and the seconds that the records are spread over.
_START = 1_775_433_600.0
_SPAN = 90 * 86_400.0
_WORKING_DAYS = 64
_USERS = 20
#: Records of one conversation.
_TURNS = 40
_MODELS = ("claude-opus-4-8", "claude-sonnet-5", "gpt-5.5-codex", "gpt-5.5")
_SMALL_MODEL = "claude-haiku-4-5"
#: Most milliseconds of a report (spec 9.4).
_BOUND = 200.0


def _records(rows: int) -> Iterator[CostedRecord]:
    """Records in order of time: several people at once on working days, each in one conversation after the other, with
    one of the accounts and one model each, and now and then a small one."""
    draw = random.Random(9)
    sessions = [0] * _USERS
    left = [0] * _USERS
    models = [_MODELS[0]] * _USERS
    for number in range(rows):
        user = min(int(draw.expovariate(0.25)), _USERS - 1)
        if not left[user]:
            sessions[user] += 1
            left[user] = draw.randrange(1, 2 * _TURNS)
            models[user] = draw.choice(_MODELS)
        left[user] -= 1
        model = models[user] if draw.random() < 0.9 else _SMALL_MODEL
        day, hour = divmod(number * _WORKING_DAYS / rows, 1.0)
        week, weekday = divmod(int(day), 5)
        record = UsageRecord(
            started_at=_START + (week * 7 + weekday) * 86_400 + (7 + hour * 11) * 3_600,
            request_id=f"req_{draw.getrandbits(80):020x}",
            service="codex" if model.startswith("gpt") else "claude",
            credential=f"account-{(user + sessions[user]) % 6}",
            user=f"user-{user}",
            session=f"{user:08x}-1111-4111-8111-{sessions[user]:012x}",
            agent="claude-cli/2.1.170 (external, cli)",
            model=model,
            service_tier="standard",
            input=draw.randrange(1, 5_000),
            output=draw.randrange(1, 3_000),
            cache_read=draw.randrange(0, 150_000),
            cache_creation=draw.randrange(0, 20_000),
            messages=draw.randrange(1, 300),
            week_started_at=_START,
            result="ok",
            first_byte=draw.random() * 3,
            duration=draw.random() * 60,
        )
        yield CostedRecord(record, Decimal(draw.randrange(10**7)).scaleb(-7), "2026-07-27")


def _timed(work: Callable[[], object], times: int = 5) -> float:
    """The median of its milliseconds."""
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        found.append((time.perf_counter() - begin) * 1000)
    return statistics.median(found)


def _insert(store: SQLiteStore, rows: int, batch: int) -> None:
    spent = longest = 0.0
    waiting: list[CostedRecord] = []
    records = _records(rows)
    done = 0
    while done < rows:
        waiting = list(islice(records, batch))
        begin = time.perf_counter()
        added = store.insert(waiting)
        took = time.perf_counter() - begin
        if added != len(waiting):
            raise AssertionError(f"{added} of {len(waiting)} records were new")
        done += len(waiting)
        spent += took
        longest = max(longest, took)
        if done % 100_000 < batch:
            print(f"  {done:,} rows, {done / spent:,.0f} rows/s", file=sys.stderr)
    print(
        f"{rows:,} records in batches of {batch}: {rows / spent:,.0f} rows/s, slowest batch {longest * 1000:.0f} ms"
    )
    begin = time.perf_counter()
    store.insert(waiting)
    print(f"the last batch again (all known): {(time.perf_counter() - begin) * 1000:.1f} ms")


def _ask(reader: SQLiteReader) -> bool:
    """Print how long each report takes; return whether all keep the bound."""
    lines, slowest = [], 0.0
    for by in Grouping:
        for name, days, user in (
            ("90 days", 90, None),
            ("7 days", 7, None),
            ("90 days, one user", 90, "user-3"),
        ):
            question = UsageQuestion(
                since=_START + _SPAN - days * 86_400,
                until=_START + _SPAN,
                by=by,
                zone=ZoneInfo("Europe/Berlin"),
                user=user,
            )
            answers: list[UsageReport] = []
            took = _timed(lambda question=question, answers=answers: answers.append(reader.usage(question)))  # type: ignore[misc]
            slowest = max(slowest, took)
            cut = " (cut)" if answers[0].is_cut else ""
            lines.append([by.value, figure(took), f"{len(answers[0].rows):,}{cut}", name])
    print(table(["by", "ms", "rows", "of"], lines))
    print(f"slowest report: {slowest:.0f} ms (at most {_BOUND:.0f})")
    return slowest <= _BOUND


def _forget(store: SQLiteStore, step: int) -> None:
    before = _START + _SPAN / 30
    found, rows = [], 0
    while True:
        begin = time.perf_counter()
        deleted = store.forget(before, step)
        found.append((time.perf_counter() - begin) * 1000)
        rows += deleted
        if not deleted:
            break
    print(
        f"forgetting {rows:,} rows in steps of {step}: median {statistics.median(found):.1f} ms a step,"
        f" slowest {max(found):.1f} ms"
    )


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark. Returns 1 if a report takes too long."""
    parser = argparse.ArgumentParser("python -m bench.store", description="Measure the SQLite store.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="records (1000000)")
    parser.add_argument("--batch", type=int, default=500, help="records of one transaction (500)")
    parser.add_argument("--step", type=int, default=500, help="rows that are deleted at once (500)")
    parser.add_argument(
        "--folder", help="where the database is made, and deleted (the folder for temporary files)"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = os.path.join(folder, "store.db")
        with closing(SQLiteStore(path)) as store:
            store.open()
            _insert(store, options.rows, options.batch)
            print(f"size: {os.path.getsize(path) / 1e6:,.0f} MB")
            with closing(SQLiteReader(path)) as reader:
                kept = _ask(reader)
                begin = time.perf_counter()
                problems = reader.check()
                print(f"check: {time.perf_counter() - begin:.1f} s, {len(problems)} problems")
                begin = time.perf_counter()
                reader.backup(os.path.join(folder, "copy.db"))
                print(f"backup: {time.perf_counter() - begin:.1f} s")
            _forget(store, options.step)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
