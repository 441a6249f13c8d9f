"""What every command has in common: where it prints, what it takes from outside, and how it fails."""

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

#: Where each command puts its parser.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class CommandError(Exception):
    """A command cannot do what it was asked. ``str()`` is a sentence for the operator, without secrets."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """What a command uses of the outside, so that it can be run without.

    ``now``: Unix seconds. ``make_token``: bytes of randomness → a URL-safe text. ``handlers``: what urllib opens URLs
    with besides its own.
    """

    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    now: Callable[[], float] = lambda: datetime.now(UTC).timestamp()
    make_token: Callable[[int], str] = secrets.token_urlsafe
    handlers: Sequence[urllib.request.BaseHandler] = ()

    def say(self, line: str) -> None:
        """A line of what was asked for, out at once."""
        print(line, file=self.out, flush=True)

    def complain(self, line: str) -> None:
        """A line about what is wrong."""
        print(line, file=self.err, flush=True)
