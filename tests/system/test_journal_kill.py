"""Processes that are killed while they keep a journal: what they had appended is found, once (spec 9.2)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

from twisted.logger import Logger
from twisted.python.runtime import platform
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.usage_record import UsageRecord
from ccmproxy.store.entries import EntryKind
from ccmproxy.store.orphans import Orphan, orphans
from tests.source import ROOT
from tests.system.journaling import answer

#: How many processes are killed. More by hand: ``CCMPROXY_KILLS=1000 make test-system``.
KILLS = int(os.environ.get("CCMPROXY_KILLS", "50"))
#: A process is killed within this time after it was forked (seconds).
LONGEST_LIFE = 0.12
log = Logger()


@dataclass
class Report:
    """What a process told before it was killed. ``opened``, ``closed``: number of an answer → position of the entry;
    ``released``: up to where entries may be gone."""

    name: str = ""
    opened: dict[int, int] = field(default_factory=dict)
    closed: dict[int, int] = field(default_factory=dict)
    released: int = 0

    @classmethod
    def read(cls, path: Path) -> Report:
        """The report in a file, whose last line may have been cut off."""
        report = cls()
        for line in path.read_text().split("\n")[:-1] if path.exists() else ():
            match line.split():
                case ["name", name]:
                    report.name = name
                case ["opened", number, position]:
                    report.opened[int(number)] = int(position)
                case ["closed", number, position]:
                    report.closed[int(number)] = int(position)
                case ["releasing", position]:
                    report.released = max(report.released, int(position))
        return report

    def needed(self) -> set[int]:
        """The answers that must be found."""
        return {
            number for number, position in (self.opened | self.closed).items() if position > self.released
        }


class JournalKillTests(SynchronousTestCase):
    """Processes that end at any moment."""

    if platform.isWindows():
        skip = "signals"

    def setUp(self) -> None:
        seed = random.randrange(1_000_000)
        self.random = random.Random(seed)
        self.seed = f"seed {seed}"
        root = Path(os.path.realpath(self.mktemp()))
        self.directory, self.reports = root / "journal", root / "reports"
        for each in (root, self.reports):
            each.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.journaling", self.directory, self.reports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.addCleanup(self.process.communicate)

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill_one(self, name: str) -> Report:
        """Let a process keep a journal until it is killed, and return its report."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        pid = int(self.line())
        Event().wait(self.random.uniform(0, LONGEST_LIFE))
        meanwhile = orphans(str(self.directory))
        for orphan in meanwhile.journals:
            orphan.close()
        os.kill(pid, signal.SIGKILL)
        self.assertEqual(self.line(), "ended")
        report = Report.read(self.reports / name)
        if report.name:
            self.assertNotIn(report.name, [each.name for each in meanwhile.journals], self.seed)
        return report

    def check(self, orphan: Orphan, report: Report) -> int:
        """Compare what is found with what was told. Returns how many answers were found."""
        found: dict[int, UsageRecord] = {}
        for record in orphan.records():
            number = int(record.started_at)
            self.assertNotIn(number, found, self.seed)
            found[number] = record
            told = f"answer {number} of {report.name}, {self.seed}"
            if number in report.closed or not record.is_incomplete:
                self.assertEqual(record, answer(number, report.name, EntryKind.CLOSED), told)
            else:
                opened = answer(number, report.name, EntryKind.OPENED)
                self.assertEqual(record, replace(opened, is_incomplete=True, result="incomplete"), told)
        self.assertEqual(report.needed() - found.keys(), set(), f"{report.name}, {self.seed}")
        # One entry was perhaps appended and not yet told.
        self.assertLessEqual(len(found.keys() - report.opened.keys()), 1, self.seed)
        return len(found)

    def test_whatever_the_moment(self) -> None:
        """Journals are found by the next one that looks, or by one after it; those of living processes never are."""
        reports: dict[str, Report] = {}
        found = rolled = cut = 0
        for number in range(KILLS):
            report = self.kill_one(str(number))
            reports[report.name] = report
            rolled += report.released > 1 << 33
            if self.random.random() < 0.3 and number < KILLS - 1:
                continue
            left = orphans(str(self.directory))
            self.assertEqual(left.problems, (), self.seed)
            for orphan in left.journals:
                # A process may be killed before it has told the name.
                found += self.check(orphan, reports.pop(orphan.name, Report(orphan.name)))
                cut += len(orphan.problems)
                orphan.delete()
            for report in reports.values():
                self.assertEqual(report.needed(), set(), f"{report.name}, {self.seed}")
            reports.clear()
            self.assertEqual(os.listdir(self.directory) if self.directory.exists() else [], [], self.seed)
        self.assertTrue(
            found and rolled > KILLS // 10, f"the kills meet nothing: {found}, {rolled}, {self.seed}"
        )
        log.info(
            "{kills} kills: {found} answers found, {rolled} journals with segments released, {cut} entries cut",
            kills=KILLS,
            found=found,
            rolled=rolled,
            cut=cut,
        )
