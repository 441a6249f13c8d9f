"""What readers are told."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from ccmproxy.interfaces.store import MOST_ROWS, Grouping, IStoreReader, StoreUnusable, UsageReport
from ccmproxy.store.sqlite import SQLiteStore
from ccmproxy.store.sqlite_reports import SQLiteReader
from tests.profiles import examples
from tests.store.samples import QUARTER, START, StoreTestCase, question, record, records

ZONES = ["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe", "Africa/Cairo"]


def shown(report: UsageReport, zone: str = "UTC") -> list[tuple[str, int]]:
    """Periods by their beginning in local time, others by name, with their requests."""
    return [
        (
            row.name
            if row.starts_at is None
            else datetime.fromtimestamp(row.starts_at, ZoneInfo(zone)).strftime("%m-%d %H:%M"),
            row.requests,
        )
        for row in report.rows
    ]


class NamedTests(StoreTestCase):
    """By what records have in common."""

    def setUp(self) -> None:
        super().setUp()
        self.store().insert(
            [
                record("1", user="ann", model="opus", session="x", cost=Decimal("0.25")),
                record("2", user="ann", model="gpt", session="y", cost=Decimal(1), service="codex"),
                record("3", user="bob", model="opus", session="x", cost=None, credential="spare"),
                record("4", START + QUARTER, user="bob", model="opus", session="x", cost=Decimal("0.5")),
            ]
        )

    def test_interface(self) -> None:
        verifyObject(IStoreReader, self.reader())

    def test_the_dearest_first(self) -> None:
        for by, expected in (
            (Grouping.USER, [("ann", 2), ("bob", 2)]),
            (Grouping.MODEL, [("gpt", 1), ("opus", 3)]),
            (Grouping.CREDENTIAL, [("work", 3), ("spare", 1)]),
            (Grouping.SESSION, [("y", 1), ("x", 3)]),
        ):
            self.assertEqual(shown(self.usage(by)), expected)

    def test_sums(self) -> None:
        row = self.usage(Grouping.MODEL).rows[1]
        self.assertEqual((row.requests, row.input, row.output, row.unpriced), (3, 30, 60, 1))
        self.assertEqual((row.cost, row.starts_at), (Decimal("0.75"), None))

    def test_filters(self) -> None:
        for filters, expected in (
            ({"user": "ann"}, [("gpt", 1), ("opus", 1)]),
            ({"user": "ann", "model": "opus"}, [("opus", 1)]),
            ({"service": "codex"}, [("gpt", 1)]),
            ({"credential": "spare"}, [("opus", 1)]),
            ({"user": ""}, []),
        ):
            self.assertEqual(shown(self.usage(Grouping.MODEL, **filters)), expected)
        self.assertEqual(shown(self.usage(Grouping.SESSION, user="bob")), [("x", 2)])
        self.assertEqual(shown(self.usage(Grouping.DAY, user="bob")), [("07-27 00:00", 2)])

    def test_whole_quarters_count(self) -> None:
        for since, until, expected in (
            (START, START + QUARTER, 3),
            (START + 1, START + QUARTER, 3),
            (START, START + QUARTER + 0.1, 4),
            (START + QUARTER, START + 2 * QUARTER, 1),
            (START + 2 * QUARTER, START, 0),
            (float("-inf"), float("inf"), 4),
        ):
            for by in (Grouping.USER, Grouping.DAY, Grouping.SESSION):
                rows = self.usage(by, since=since, until=until).rows
                self.assertEqual(sum(row.requests for row in rows), expected)

    @given(st.lists(st.integers(0, 400), max_size=25, unique=True), st.integers(-5, 405), st.integers(0, 405))
    @examples(60)
    def test_any_part_of_the_time(self, quarters: list[int], first: int, length: int) -> None:
        """Whole days or not: exactly what lies within counts."""
        path = self.mktemp()
        with closing(SQLiteStore(path)) as store:
            store.open()
            store.insert([record(str(each), START + each * QUARTER) for each in quarters])
        within = {"since": START + first * QUARTER, "until": START + (first + length) * QUARTER}
        with closing(SQLiteReader(path)) as reader:
            for by in (Grouping.USER, Grouping.SESSION, Grouping.WEEK):
                rows = reader.usage(question(by, **within)).rows
                expected = sum(first <= each < first + length for each in quarters)
                self.assertEqual(sum(row.requests for row in rows), expected)

    def test_too_many_rows(self) -> None:
        with closing(SQLiteStore(self.path + "2")) as store:
            store.open()
            store.insert(
                [record(f"{n}", model=f"m{n}", cost=Decimal(n + 1)) for n in range(MOST_ROWS - 1000)]
            )
            store.insert([record(f"{n}", model=f"m{n}") for n in range(MOST_ROWS - 1000, MOST_ROWS)])
            with closing(SQLiteReader(self.path + "2")) as reader:
                report = reader.usage(question(Grouping.MODEL))
                self.assertEqual((len(report.rows), report.is_cut), (MOST_ROWS, False))
                store.insert([record("free", model="free", cost=None)])
                report = reader.usage(question(Grouping.MODEL))
                self.assertEqual((len(report.rows), report.is_cut), (MOST_ROWS, True))
                self.assertFalse([row for row in report.rows if row.name == "free"])


class PeriodTests(StoreTestCase):
    """By the calendar of a time zone."""

    def test_days_of_different_zones(self) -> None:
        store = self.store()
        midnight = datetime(2026, 7, 29, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
        store.insert([record("1", midnight - 1), record("2", midnight), record("3", midnight + 7200)])
        report = self.usage(Grouping.DAY, zone=ZoneInfo("Europe/Berlin"))
        self.assertEqual(shown(report, "Europe/Berlin"), [("07-28 00:00", 1), ("07-29 00:00", 2)])
        self.assertEqual(shown(self.usage(Grouping.DAY)), [("07-28 00:00", 2), ("07-29 00:00", 1)])

    def test_each_period(self) -> None:
        store = self.store()
        for number, moment in enumerate(
            (
                "2026-07-26T23:50",
                "2026-07-27T08:10",
                "2026-07-27T08:59",
                "2026-08-02T10:00",
                "2026-08-03T10:00",
            )
        ):
            store.insert([record(str(number), datetime.fromisoformat(moment + "+00:00").timestamp())])
        for by, expected in (
            (
                Grouping.HOUR,
                [
                    ("07-26 23:00", 1),
                    ("07-27 08:00", 2),
                    ("08-02 10:00", 1),
                    ("08-03 10:00", 1),
                ],
            ),
            (Grouping.WEEK, [("07-20 00:00", 1), ("07-27 00:00", 3), ("08-03 00:00", 1)]),
            (Grouping.MONTH, [("07-01 00:00", 3), ("08-01 00:00", 2)]),
        ):
            self.assertEqual(shown(self.usage(by)), expected)

    def test_the_first_period_begins_where_the_question_does(self) -> None:
        self.store().insert(records(3, apart=3600))
        report = self.usage(Grouping.DAY, since=START + 3600)
        self.assertEqual(shown(report), [("07-27 09:00", 2)])

    def test_too_many_periods(self) -> None:
        self.store().insert(records(MOST_ROWS + 5, apart=3600))
        report = self.usage(Grouping.HOUR)
        self.assertEqual((len(report.rows), report.is_cut), (MOST_ROWS, True))
        self.assertEqual(report.rows[0].starts_at, START + 5 * 3600)

    @given(
        st.lists(st.integers(0, 400 * 24 * 4), max_size=30, unique=True),
        st.sampled_from(ZONES),
        st.sampled_from([each for each in Grouping if each.is_period]),
    )
    @examples(60)
    def test_any_zone(self, quarters: list[int], name: str, by: Grouping) -> None:
        """Every record is in the period of its local time, and none is lost or counted twice."""
        zone = ZoneInfo(name)
        path = self.mktemp()
        moments = [START + each * QUARTER for each in quarters]
        with closing(SQLiteStore(path)) as store:
            store.open()
            store.insert([record(str(each), each) for each in moments])
        with closing(SQLiteReader(path)) as reader:
            report = reader.usage(question(by, zone=zone))
        self.assertEqual(sum(row.requests for row in report.rows), len(moments))

        def label(moment: float) -> object:
            local = datetime.fromtimestamp(moment, zone)
            if by is Grouping.HOUR:
                return local.date(), local.hour
            if by is Grouping.WEEK:
                return local.isocalendar()[:2]
            return local.date() if by is Grouping.DAY else (local.year, local.month)

        expected = Counter(map(label, moments))
        found: Counter[object] = Counter()
        for row in report.rows:
            assert row.starts_at is not None
            found[label(row.starts_at)] += row.requests  # an hour that comes twice has two rows
        self.assertEqual(found, expected)


class LifeTests(StoreTestCase):
    """Opening and closing."""

    def test_closed(self) -> None:
        self.fill()
        reader = self.reader()
        reader.close()
        reader.close()
        self.assertRaises(StoreUnusable, reader.usage, question(Grouping.DAY))
        self.assertRaises(StoreUnusable, reader.check)

    def test_a_reader_leaves_nothing_behind(self) -> None:
        self.fill()
        before = sorted(os.listdir(self.folder))
        self.usage()
        self.assertEqual(sorted(os.listdir(self.folder)), before)
