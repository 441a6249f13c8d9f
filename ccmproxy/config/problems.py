"""The problems of a configuration: each with its path and position, and never with a secret in it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

#: Location of a value: option names and list indices from the top of the document.
Path = tuple[str | int, ...]

#: Text from the file that may be repeated: it looks like a name, not like a token. Hence only few digits.
_NAME = re.compile(r"[A-Za-z_$][\w.@-]{0,39}")
_MOST_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the file. Both numbers count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    ``path``: as an operator writes it, ``services[0].credentials[2].reserve_5h``; empty for the whole file.
    ``message``: a phrase to be read after the path. ``line`` and ``column`` count from 1; None where the problem has no
    position. ``str()`` is one line, ``FILE:LINE: PATH: MESSAGE``.
    """

    path: str
    message: str
    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigurationError(Exception):
    """A configuration cannot be used. ``problems``: all that were found; ``str()`` has one line for each.

    Holds no secret: tokens, keys, passwords and header values of the file are never repeated.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class Report:
    """Collects the problems of one file.

    ``positions``: the position of each path. ``secrets``: values that must not be repeated, whatever they look like;
    more can be added while the file is being checked.
    """

    def __init__(self, file: str, positions: Mapping[Path, Position], secrets: Iterable[str] = ()) -> None:
        self._file = file
        self._positions = positions
        self._problems: dict[tuple[Path, str], Position | None] = {}
        self.secrets = set(secrets)

    def add(self, path: Path, message: str, position: Position | None = None) -> None:
        """Add a problem. ``position``: by default that of ``path``, or of the closest value around it."""
        self._problems.setdefault((path, message), position or self._locate(path))

    def shown(self, text: object) -> str:
        """``text`` from the file, quoted for a message; only an ellipsis if it might be a secret."""
        return f'"{text}"' if isinstance(text, str) and self._is_harmless(text) else "…"

    def nearest(self, text: object, known: Collection[str]) -> str:
        """``; did you mean "X"?`` with the known name that is most similar to ``text``; empty if none is similar."""
        if not isinstance(text, str):
            return ""
        close = difflib.get_close_matches(text[:80], list(known), n=3)
        if not close:
            return ""
        # Of equally similar names, take the first known one, not the last in the alphabet.
        ratios = {name: difflib.SequenceMatcher(None, name, text).ratio() for name in known if name in close}
        return f'; did you mean "{max(ratios, key=ratios.__getitem__)}"?'

    def problems(self) -> tuple[Problem, ...]:
        """All problems so far, in the order of the file."""
        found = [
            Problem(
                self._format(path), message, self._file, at.line if at else None, at.column if at else None
            )
            for (path, message), at in self._problems.items()
        ]
        return tuple(sorted(found, key=lambda p: (p.line or 0, p.column or 0, p.path)))

    def _locate(self, path: Path) -> Position | None:
        for length in range(len(path), -1, -1):
            if path[:length] in self._positions:
                return self._positions[path[:length]]
        return None

    def _format(self, path: Path) -> str:
        text = ""
        for element in path:
            if isinstance(element, int):
                text += f"[{element}]"
            else:
                text += f"{'.' if text else ''}{element if self._is_harmless(element) else '…'}"
        return text

    def _is_harmless(self, text: str) -> bool:
        if not _NAME.fullmatch(text) or sum(map(str.isdigit, text)) > _MOST_DIGITS:
            return False
        # A very short secret occurs in harmless words as well: then only an exact match counts.
        return not any(text == secret or (len(secret) >= 4 and secret in text) for secret in self.secrets)
