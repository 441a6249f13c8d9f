"""Records, stores and children that the tests of the store share."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.interfaces.store import CostedRecord, Grouping, UsageQuestion, UsageReport
from ccmproxy.state.usage_record import UsageRecord
from ccmproxy.store.sqlite import SQLiteStore
from ccmproxy.store.sqlite_reports import SQLiteReader
from tests.source import ROOT

#: A quarter of an hour begins then (Unix seconds): 2026-07-27 08:00 UTC, a Monday.
START = 1_785_139_200.0
QUARTER = 900


def record(
    request_id: str = "r", started_at: float = START, cost: Decimal | None = Decimal("0.5"), **more: Any
) -> CostedRecord:
    """A record that used something of everything."""
    values: dict[str, Any] = {
        "service": "claude",
        "credential": "work",
        "user": "ann",
        "model": "opus",
        "input": 10,
        "output": 20,
        "session": "s1",
    }
    return CostedRecord(
        UsageRecord(started_at=started_at, request_id=request_id, **values | more), cost, "2026-07"
    )


def records(count: int, first: int = 0, apart: float = 1.0, **more: Any) -> list[CostedRecord]:
    """That many of them, one after the other."""
    return [record(f"r{first + each}", START + (first + each) * apart, **more) for each in range(count)]


#: Records of which many share a key, a quarter of an hour, or what is summed by.
RECORDS = st.builds(
    record,
    request_id=st.sampled_from(["a", "b", "c"]),
    started_at=st.sampled_from([START + each * 300 + 0.25 for each in range(12)] + [START + QUARTER]),
    cost=st.none() | st.decimals(0, 100, allow_nan=False, allow_infinity=False),
    turn=st.integers(0, 2),
    user=st.sampled_from(["ann", "bob", ""]),
    model=st.sampled_from(["opus", "gpt"]),
    session=st.sampled_from(["s1", "s2"]),
    input=st.integers(0, 1000),
    output=st.integers(0, 2**70),
    reasoning=st.integers(-5, 5),
    is_extra=st.booleans(),
    is_incomplete=st.booleans(),
    is_estimated=st.booleans(),
)


def question(by: Grouping, **more: Any) -> UsageQuestion:
    """A question about all that there is."""
    values: dict[str, Any] = {"since": 0.0, "until": 1e11, "by": by, "zone": UTC}
    return UsageQuestion(**values | more)


class StoreTestCase(SynchronousTestCase):
    """A test that has a folder for stores."""

    def setUp(self) -> None:
        self.folder = os.path.abspath(self.mktemp())
        os.mkdir(self.folder)
        self.path = os.path.join(self.folder, "store.db")

    def store(self, path: str | None = None, **more: Any) -> SQLiteStore:
        """An open store."""
        store = SQLiteStore(path or self.path, **more)
        self.addCleanup(store.close)
        store.open()
        return store

    def reader(self, path: str | None = None, **more: Any) -> SQLiteReader:
        """An open reader."""
        reader = SQLiteReader(path or self.path, **more)
        self.addCleanup(reader.close)
        return reader

    def usage(self, by: Grouping = Grouping.MODEL, **more: Any) -> UsageReport:
        """What a new reader says."""
        reader = SQLiteReader(self.path)
        try:
            return reader.usage(question(by, **more))
        finally:
            reader.close()

    def check(self) -> tuple[str, ...]:
        """The problems that a new reader finds."""
        reader = SQLiteReader(self.path)
        try:
            return reader.check()
        finally:
            reader.close()

    def fill(self, count: int = 3) -> None:
        """Make a store with records in it, and close it."""
        store = self.store()
        store.insert(records(count))
        store.close()

    def child(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a Python program that gets ``arguments``, and whose output is read."""
        started = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(self._end, started)
        return started

    def output(self, program: str, *arguments: str) -> str:
        """What such a program prints until it ends, which it must do without an error."""
        started = self.child(program, *arguments)
        printed, _ = started.communicate(timeout=60)
        self.assertEqual(started.returncode, 0)
        return printed.strip()

    @staticmethod
    def _end(started: subprocess.Popen[str]) -> None:
        started.kill()
        started.wait()
        assert started.stdout is not None
        started.stdout.close()
