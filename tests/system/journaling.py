"""Run by :mod:`tests.system.test_journal_kill`: forks processes that keep a journal each, to be killed.

The arguments are the directory of the journals and one for reports. For each line that comes on standard input, the
name of a report, a process is forked; its id is printed, and ``ended`` when it has ended. In its report it tells what
it has done, a line each:

- ``name N``: the name of its journal;
- ``opened N P`` and ``closed N P``: an entry about the answer number N was appended, at the position P;
- ``releasing P``: entries up to the position P may be gone from now on.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from itertools import count

from ccmproxy.state.usage_record import UsageRecord
from ccmproxy.store.entries import Entry, EntryKind, encode
from ccmproxy.store.journal import Journal

#: Small enough that kills meet all that is done with segments (bytes).
SEGMENT_SIZE = 8 * 1024
#: How many answers go on at the same time.
TOGETHER = 5


def answer(number: int, name: str, kind: EntryKind) -> UsageRecord:
    """The record of an answer, as it is when it begins or ends. There are longer and shorter ones, some over more than
    one page of memory, between which a kill may come."""
    agent = "x" * (number * 37 % 200 if number % 10 else 5000)
    output = number if kind is EntryKind.CLOSED else 0
    return UsageRecord(
        started_at=0.5 + number, request_id=name, agent=agent, output=output, result=kind.value
    )


class Life:
    """What one process does until it is killed."""

    def __init__(self, directory: str, report: str) -> None:
        self._report = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._random = random.Random(report)
        self._journal = Journal(directory, SEGMENT_SIZE, 8)
        self._tell("name", self._journal.name)
        #: The answers that go on, and the positions of the entries that opened them.
        self._opened: dict[int, int] = {}
        self._durable = 0

    def run(self) -> None:
        """Let answers begin and end, while another thread does the writer's part."""
        threading.Thread(target=self._write, daemon=True).start()
        for number in count():
            self._append(number, EntryKind.OPENED)
            while len(self._opened) > TOGETHER:
                self._append(self._random.choice([*self._opened]), EntryKind.CLOSED)

    def _append(self, number: int, kind: EntryKind) -> None:
        position = None
        while position is None:
            # There is no room as long as the writer has not released any.
            position = self._journal.append(encode(Entry(kind, answer(number, self._journal.name, kind))))
        self._tell(kind.value, number, position)
        if kind is EntryKind.OPENED:
            self._opened[number] = position
        else:
            del self._opened[number]
        self._durable = min([position, *(each - 1 for each in self._opened.values())])

    def _write(self) -> None:
        draw = random.Random(1)
        while True:
            for step in draw.sample((self._journal.prepare, self._journal.sync, self._release), 2):
                step()

    def _release(self) -> None:
        position = self._durable
        self._tell("releasing", position)
        self._journal.release(position)

    def _tell(self, *words: object) -> None:
        os.write(self._report, " ".join(map(str, words)).encode() + b"\n")


def main() -> None:
    """Fork a process for each line of the standard input."""
    directory, reports = sys.argv[1:]
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                Life(directory, os.path.join(reports, line.strip())).run()
            finally:
                os._exit(1)
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("ended", flush=True)


if __name__ == "__main__":
    main()
