"""What a daemon writes."""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Sequence
from contextlib import closing
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from ccmproxy.interfaces.store import CostedRecord, Grouping, IStore, StoreUnusable
from ccmproxy.store.rollups import DAILY_KEY, DAY, KEY, SESSION_KEY, SUMS, roll_up
from ccmproxy.store.sqlite import SQLiteStore
from ccmproxy.store.sqlite_reports import SQLiteReader
from ccmproxy.store.stored_record import stored
from tests.profiles import examples
from tests.store.samples import QUARTER, RECORDS, START, StoreTestCase, question, record, records


def read(path: str, table: str, key: Sequence[str]) -> dict[tuple[int | str, ...], list[int]]:
    """The sums that a table holds."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"SELECT {', '.join((*key, *SUMS))} FROM {table}").fetchall()
    return {row[: len(key)]: list(row[len(key) :]) for row in rows}


def count(path: str, table: str) -> int:
    """How many rows it has."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


class InsertTests(StoreTestCase):
    """Records, once each."""

    def test_interface(self) -> None:
        verifyObject(IStore, self.store())

    def test_new_and_known_ones(self) -> None:
        store = self.store()
        self.assertEqual(store.insert([]), 0)
        self.assertEqual(store.insert(records(3)), 3)
        self.assertEqual(store.insert(records(5)), 2)
        self.assertEqual(store.insert([record("r9"), record("r9"), record("r9", turn=1)]), 2)
        self.assertEqual([row.requests for row in self.usage().rows], [7])

    def test_the_first_one_stays(self) -> None:
        store = self.store()
        store.insert([record(output=1)])
        store.insert([record(output=2)])
        (row,) = self.usage().rows
        self.assertEqual((row.requests, row.output), (1, 1))

    def test_it_is_there_after_a_restart(self) -> None:
        self.fill(3)
        store = self.store()
        self.assertEqual(store.insert(records(4)), 1)
        self.assertEqual(self.check(), ())

    def test_hostile_values(self) -> None:
        hostile = "\0'\";--\u202e\ud800" + "n" * 10_000
        names: dict[str, Any] = dict.fromkeys(
            ("user", "model", "session", "credential", "service", "agent"), hostile
        )
        costed = record(hostile, input=2**80, output=-(2**80), cost=Decimal("1e50"), **names)
        store = self.store()
        self.assertEqual(store.insert([costed, costed]), 1)
        (row,) = self.usage(user=hostile, model=hostile).rows
        self.assertEqual((row.requests, row.output), (1, 0))
        self.assertEqual(len(row.name), 200)
        self.assertTrue(row.name.isprintable())
        self.assertEqual(self.check(), ())

    def test_the_largest_numbers_have_a_sum(self) -> None:
        store = self.store()
        store.insert(records(1000, apart=0.1, input=2**63, cost=Decimal(10**30)))
        (row,) = self.usage().rows
        self.assertEqual((row.input, row.cost), (1000 * 10**9, Decimal(1000 * 10_000)))

    def test_files_are_private(self) -> None:
        store = self.store()
        store.insert(records(1))
        found = sorted(os.listdir(self.folder))
        self.assertEqual(found, [f"store.db{each}" for each in ("", "-shm", "-wal", ".lock")])
        for name in found:
            mode = stat.S_IMODE(os.stat(os.path.join(self.folder, name)).st_mode)
            self.assertEqual(mode, 0o600, name)

    def test_every_commit_is_synchronized(self) -> None:
        store = self.store()
        assert store._connection is not None
        found = [
            store._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("synchronous", "journal_mode", "auto_vacuum")
        ]
        self.assertEqual(found, [2, "wal", 2])


class LifeTests(StoreTestCase):
    """Opening and closing."""

    def test_idempotent(self) -> None:
        store = self.store()
        store.open()
        store.insert(records(1))
        store.close()
        store.close()
        store.open()
        self.assertEqual(store.insert(records(2)), 1)

    def test_not_open(self) -> None:
        store = SQLiteStore(self.path)
        self.assertRaises(StoreUnusable, store.insert, [])
        self.assertRaises(StoreUnusable, store.forget, 0.0, 1)

    def test_a_link(self) -> None:
        self.fill()
        link = os.path.join(self.folder, "link.db")
        os.symlink(self.path, link)
        self.store()
        self.assertRaises(StoreUnusable, self.store, link)  # one store, one lock


class ForgetTests(StoreTestCase):
    """Records are kept for a time, sums for ever."""

    def test_the_oldest_first_in_small_steps(self) -> None:
        store = self.store()
        store.insert(records(10))
        steps = [store.forget(START + 7, 3) for _ in range(4)]
        self.assertEqual(steps, [3, 3, 1, 0])
        with closing(sqlite3.connect(self.path)) as connection:
            kept = [row[0] for row in connection.execute("SELECT started_at FROM records")]
        self.assertEqual(kept, [START + 7, START + 8, START + 9])
        self.assertEqual([row.requests for row in self.usage().rows], [10])
        self.assertEqual(self.check(), ())

    def test_sessions_go_with_their_records(self) -> None:
        store = self.store()
        store.insert(records(4, apart=DAY, session="a"))
        store.insert(records(4, apart=DAY, session="b"))
        store.insert([record("z", START + 2 * DAY, session="z")])
        self.assertEqual([row.requests for row in self.usage(Grouping.SESSION).rows], [4, 1])
        before = (START + 2 * DAY) // DAY * DAY
        steps = [store.forget(before, 1) for _ in range(6)]
        self.assertEqual(steps, [1, 1, 1, 1, 0, 0])  # two records, and two days of session a
        self.assertEqual([row.requests for row in self.usage(Grouping.SESSION).rows], [2, 1])
        self.assertEqual([row.requests for row in self.usage(Grouping.USER).rows], [5])
        self.assertEqual(self.check(), ())

    def test_a_day_that_is_not_over_keeps_its_sessions(self) -> None:
        store = self.store()
        store.insert(records(4, apart=100))
        while store.forget(START + 250, 10):
            pass
        self.assertEqual([row.requests for row in self.usage(Grouping.SESSION, until=1e11).rows], [4])

    def test_what_was_forgotten_is_not_counted_again(self) -> None:
        store = self.store()
        store.insert(records(10))
        store.forget(START + 5, 100)
        self.assertEqual(store.insert(records(10)), 0)
        self.assertEqual(store.insert([record("late", START + 2)]), 0)
        self.assertEqual(store.insert([record("late", START + 4.5)]), 1)
        self.assertEqual([row.requests for row in self.usage().rows], [11])
        self.assertEqual(self.check(), ())
        store.close()
        self.assertEqual(self.store().insert(records(10)), 0)

    def test_nothing_to_forget_bars_nothing(self) -> None:
        store = self.store()
        self.assertEqual(store.forget(START + 100, 100), 0)
        self.assertEqual(store.insert(records(3)), 3)

    def test_bounds(self) -> None:
        store = self.store()
        store.insert(records(3))
        for before, most in ((START + 9, 0), (START + 9, -1), (float("nan"), 10), (float("-inf"), 10)):
            self.assertEqual(store.forget(before, most), 0)
        self.assertEqual(store.forget(float("inf"), 10), 4)

    def test_the_file_gets_smaller(self) -> None:
        store = self.store()
        store.insert(records(15_000, session="x" * 150, agent="y" * 150))
        store.close()
        full = os.path.getsize(self.path)
        store.open()
        while store.forget(START + 1e9, 2000):
            pass
        for _ in range(10):
            store.forget(START + 1e9, 2000)
        store.close()
        self.assertLess(os.path.getsize(self.path), full - 1_000_000)
        self.assertEqual(self.check(), ())


class SumTests(StoreTestCase):
    """Roll-ups equal the sums of records, whatever happens to them."""

    @given(
        st.lists(
            st.one_of(
                st.lists(RECORDS, max_size=8),
                st.tuples(st.integers(0, 14), st.integers(0, 6)),
                st.none(),
            ),
            max_size=12,
        )
    )
    @examples(60)
    def test_any_history(self, history: list[list[CostedRecord] | tuple[int, int] | None]) -> None:
        """A list: a batch. A pair: forget so much. None: a restart."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            path = os.path.join(folder, "store.db")
            store = SQLiteStore(path)
            store.open()
            counted: dict[tuple[float, str, int], CostedRecord] = {}
            kept: set[tuple[float, str, int]] = set()
            horizon = -1.0
            try:
                for step in history:
                    if step is None:
                        store.close()
                        store.open()
                    elif isinstance(step, list):
                        new = {
                            each.record.key: each
                            for each in reversed(step)
                            if each.record.started_at > horizon and each.record.key not in counted
                        }
                        self.assertEqual(store.insert(step), len(new))
                        counted |= new
                        kept |= new.keys()
                    else:
                        before = START + step[0] * 300
                        gone = sorted(each for each in kept if each[0] < before)[: step[1]]
                        self.assertGreaterEqual(store.forget(before, step[1]), len(gone))
                        kept -= set(gone)
                        horizon = max([horizon, *(each[0] for each in gone)])
                    sums = roll_up(map(stored, counted.values()))
                    self.assertEqual(read(path, "rollups", KEY), sums.by_quarter)
                    self.assertEqual(read(path, "daily_rollups", DAILY_KEY), sums.by_day)
                    self.assertEqual(count(path, "records"), len(kept))
                    sessions = read(path, "session_rollups", SESSION_KEY)
                    self.assertLessEqual(sessions.keys(), sums.by_session.keys())
                    for key, values in sessions.items():
                        self.assertEqual(values, sums.by_session[key])
                    with closing(SQLiteReader(path)) as reader:
                        self.assertEqual(reader.check(), ())
            finally:
                store.close()


class ReadingMeanwhileTests(StoreTestCase):
    """Readers and the writer do not keep each other."""

    def test_a_reader_sees_whole_batches(self) -> None:
        store = self.store()
        store.insert(records(50, apart=QUARTER))
        problems: list[object] = []
        done = threading.Event()

        def reading() -> None:
            with closing(SQLiteReader(self.path)) as reader:
                while not done.is_set():
                    rows = reader.usage(question(Grouping.HOUR)).rows
                    total = sum(row.requests for row in rows)
                    if total % 50:
                        problems.append(total)

        thread = threading.Thread(target=reading)
        thread.start()
        try:
            for each in range(1, 40):
                # Each batch touches every hour.
                store.insert([record(f"b{each}-{n}", START + n * QUARTER) for n in range(50)])
        finally:
            done.set()
            thread.join()
        self.assertEqual(problems, [])
        self.assertEqual([row.requests for row in self.usage().rows], [2000])

    def test_a_long_look_does_not_keep_the_writer(self) -> None:
        store = self.store(patience=0.0)
        store.insert(records(5))
        reader = self.reader()
        with reader._snapshot() as connection:
            connection.execute("SELECT count(*) FROM records").fetchone()
            self.assertEqual(store.insert(records(10)), 5)
            self.assertEqual(connection.execute("SELECT count(*) FROM records").fetchone(), (5,))
        self.assertEqual([row.requests for row in self.usage().rows], [10])
