"""What all commands share: where they print, what they take from outside, and how they fail."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TextIO, TypeAlias

#: The collection of parsers to which each command adds its own.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class CommandError(Exception):
    """A command cannot do what it was asked. ``str()`` is a sentence for the operator, without secrets."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """Everything a command uses of its surroundings, so that tests can replace it.

    ``now``: Unix seconds. ``make_token``: bytes of randomness → a URL-safe text. ``handlers``: urllib handlers to open
    URLs with, besides the default ones.
    """

    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    now: Callable[[], float] = lambda: datetime.now(UTC).timestamp()
    make_token: Callable[[int], str] = secrets.token_urlsafe
    handlers: Sequence[urllib.request.BaseHandler] = ()

    def say(self, line: str) -> None:
        """Print a line of the result and flush it."""
        print(line, file=self.out, flush=True)

    def complain(self, line: str) -> None:
        """Print a line about an error."""
        print(line, file=self.err, flush=True)
