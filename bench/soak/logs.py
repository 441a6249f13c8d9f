"""Looks through the logs of daemons for what must not stand there: secrets and tracebacks. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile

#: What an error that nobody handled begins with, in the log of a Python program.
_TRACEBACKS = ("Traceback (most recent call last)", "Unhandled error in Deferred", "Unhandled Error")
#: Shorter words are not looked for: they could stand anywhere by chance.
_SHORTEST_SECRET = 8
#: What each entry of a log begins with; lines without it go on with the entry before.
_BEGINNING = re.compile(r"\d{4}-\d\d-\d\d")
#: Longest traceback.
_MOST_LINES = 100


@dataclass(slots=True)
class LogFindings:
    """``secrets`` and ``tracebacks``: for each finding the place, and the line without the secret or a few lines."""

    secrets: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)


def look_through(name: str, text: str, secrets: Iterable[str]) -> LogFindings:
    """Return what stands in a log and must not. ``name``: of the log. ``secrets``: words that may stand nowhere."""
    findings = LogFindings()
    known = sorted({secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}, key=len, reverse=True)
    present = [secret for secret in known if secret in text]
    lines = text.splitlines()
    next_traceback = 0
    for number, line in enumerate(lines, 1):
        found = [secret for secret in present if secret in line]
        if found:
            for secret in found:
                line = line.replace(secret, f"<secret of {len(secret)} characters>")
            findings.secrets.append(f"{name}:{number}: {line[:300]}")
        if number >= next_traceback and any(mark in line for mark in _TRACEBACKS):
            # One error has several such lines, and counts once.
            following = list(
                takewhile(lambda line: not _BEGINNING.match(line), lines[number : number + _MOST_LINES])
            )
            shown = [*lines[max(0, number - 2) : number], *following]
            next_traceback = number + len(following) + 1
            findings.tracebacks.append(f"{name}:{number}: " + "\n    ".join(shown))
    return findings
