"""A directory of journals, for tests."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.state.usage_record import UsageRecord
from ccmproxy.store.journal import Journal
from ccmproxy.store.orphans import orphans
from tests.store.records import CLOSED, frame

KIB = 1024


class FolderCase(SynchronousTestCase):
    """Tests in a directory that is not there yet. ``folder``: its path."""

    def setUp(self) -> None:
        self.folder = os.path.join(os.path.realpath(self.mktemp()), "journal")

    def journal(self, segment_size: int = 4 * KIB, max_segments: int = 16) -> Journal:
        """A new journal, which is closed at the end."""
        journal = Journal(self.folder, segment_size, max_segments)
        self.addCleanup(journal.close)
        return journal

    def files(self, ending: str = "") -> list[str]:
        """The names of the files that end with ``ending``."""
        return sorted(each for each in os.listdir(self.folder) if each.endswith(ending))

    def write(self, name: str, content: bytes) -> str:
        """Make a file, and return its path."""
        os.makedirs(self.folder, 0o700, exist_ok=True)
        path = os.path.join(self.folder, name)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def left_behind(self, delete: bool = False) -> list[UsageRecord]:
        """The records of all journals that nobody holds, which have no problems."""
        found = orphans(self.folder)
        self.assertEqual(found.problems, ())
        records: list[UsageRecord] = []
        for orphan in found.journals:
            records += orphan.records()
            self.assertEqual(orphan.problems, [])
            if delete:
                orphan.delete()
            orphan.close()
        return records

    def fill(self, journal: Journal, numbers: Iterator[int]) -> list[int]:
        """Append closed entries until one is not taken, and return the numbers of those that were."""
        taken: list[int] = []
        for number in numbers:
            if journal.append(frame(CLOSED, number)) is None:
                return taken
            taken.append(number)
        return taken


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size`` bytes: a disk that is full, to those who write. (Python ignores SIGXFSZ.)"""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
