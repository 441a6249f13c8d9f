"""Run by tests in a separate mount namespace: keeps a journal on a small file system until that is full.

Prints one line of JSON, the facts, or else a line of text that says why there is no result. The facts: ``first``, the
size of the first segment (bytes); ``taken``, how many entries were taken until there was no room, and ``problem``, what
was said then; ``again``, whether one was taken when some were released, and ``problem_again``, what was said then;
``lost``; ``left``, for each entry that was left behind whether it is that last one.
"""

from __future__ import annotations

import json
import os
import sys

from ccmproxy.store.entries import Entry, EntryKind, encode
from ccmproxy.store.journal import Journal
from ccmproxy.store.orphans import orphans
from ccmproxy.store.segment import MIB, WHOLE
from tests.store.records import record
from tests.system.full_disk import mount


def append(journal: Journal, number: int) -> int | None:
    """Append an entry."""
    return journal.append(encode(Entry(EntryKind.CLOSED, record(number))))


def main(folder: str) -> None:
    """Let it happen in ``folder``."""
    problem = mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)
    if problem:
        print(f"mount: {problem}")
        return
    with open(os.path.join(folder, "junk"), "wb") as file:
        file.write(bytes(100_000))
    directory = os.path.join(folder, "journal")
    journal = Journal(directory, 64 * MIB)
    (first,) = (entry.stat().st_size for entry in os.scandir(directory) if entry.name.endswith(WHOLE))
    positions: list[int] = []
    while position := append(journal, len(positions)):
        positions.append(position)
        journal.prepare()
    facts: dict[str, object] = {"first": first, "taken": len(positions), "problem": journal.problem}
    journal.release(positions[-1])
    journal.prepare()
    again = append(journal, len(positions)) is not None
    facts |= {"again": again, "problem_again": journal.problem, "lost": journal.lost}
    journal.close()
    facts["left"] = [
        each.key == record(len(positions)).key
        for orphan in orphans(directory).journals
        for each in orphan.records()
    ]
    print(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1])
