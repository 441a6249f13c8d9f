"""What refusals are known to mean, by the words that a provider puts into them (spec 12.1). Pure.

Each dialect has a table of :class:`KnownWords`; a row counts only at its status and in its field, as a whole sentence,
and only if its words cannot have come from the client's own request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any
from urllib.parse import unquote

from ccmproxy.http.message import RequestHead

#: Stands in a sentence for what varies: a model, a date, an organization.
WILDCARD = "*"
#: The most characters that a wildcard stands for.
_LONGEST_VARIABLE = 200
#: A longer value is no sentence of any table (characters).
_LONGEST_VALUE = 2000
#: The most characters of a provider's sentence that are kept for people.
LONGEST_SENTENCE = 200


class Meaning(Enum):
    """What known words say a refusal is about."""

    #: The account itself: closed, suspended, without entitlement. It is not used until the provider serves it again.
    ACCOUNT_REFUSED = auto()
    #: One model on this account.
    MODEL_REFUSED = auto()
    #: This request alone: its size, a feature that costs extra. Nothing is ever charged for it.
    REQUEST = auto()
    #: The login was revoked; a refresh may help.
    LOGIN_REVOKED = auto()
    #: The refresh token is dead: only a person can log in again.
    LOGIN_DEAD = auto()
    #: The scopes of a refresh were refused, not the refresh token.
    INVALID_SCOPE = auto()


@dataclass(frozen=True, slots=True)
class KnownWords:
    """One row. ``statuses``: HTTP statuses at which it counts. ``fields``: dotted paths of the body's fields in which
    it may stand. ``sentence``: the whole value, case and a final full stop apart; ``*`` for what varies. ``source``:
    where the fact comes from.
    """

    statuses: frozenset[int]
    fields: tuple[str, ...]
    sentence: str
    meaning: Meaning
    source: str
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        variable = f".{{0,{_LONGEST_VARIABLE}}}?"
        pattern = variable.join(re.escape(part) for part in _normal(self.sentence).split(WILDCARD))
        object.__setattr__(self, "_pattern", re.compile(pattern, re.DOTALL))

    @property
    def telling(self) -> list[str]:
        """The words by which the sentence is known, in lower case: its runs of several words that do not vary, or where
        it has none, all that does not vary."""
        parts = [part.strip() for part in _normal(self.sentence).split(WILDCARD) if part.strip()]
        return [part for part in parts if " " in part] or parts

    def fits(self, value: str) -> bool:
        """Whether a field's value is this sentence."""
        return len(value) <= _LONGEST_VALUE and self._pattern.fullmatch(_normal(value)) is not None


@dataclass(frozen=True, slots=True)
class Found:
    """Words that count. ``sentence``: the provider's own, shortened for people."""

    meaning: Meaning
    sentence: str


def find_words(table: Iterable[KnownWords], status: int, document: object, echo: str = "") -> Found | None:
    """Return the first row of ``table`` that an answer with ``status`` and the decoded JSON ``document`` fits.

    ``echo``: what of the client's request a provider might repeat (:func:`echo_of`); a row any of whose words stand in
    there does not count: a client must not be able to have an account refused by a word of its own.
    """
    if not isinstance(document, Mapping):
        return None
    for row in table:
        if status not in row.statuses:
            continue
        for path in row.fields:
            value = _at(document, path)
            if value is not None and row.fits(value) and not any(words in echo for words in row.telling):
                return Found(row.meaning, shortened(sentence_of(document) or value))
    return None


def echo_of(head: RequestHead, model: str | None) -> str:
    """What a provider may repeat of a request, in lower case: its target, also decoded, its header fields, its model."""
    target = head.target.decode("latin-1")
    fields = [f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in head.headers]
    return "\n".join([target, unquote(target), *fields, model or ""]).lower()


def sentence_of(document: object) -> str:
    """The sentence for people in an error's body, in any of the shapes that providers use; empty: there is none."""
    if isinstance(document, Mapping):
        for path in ("error.message", "message", "detail", "error_description", "error"):
            value = _at(document, path)
            if value:
                return value
    return ""


def shortened(sentence: str) -> str:
    """At most 200 characters, with control and bidirectional characters escaped: it goes to logs and terminals."""
    shown = sentence if len(sentence) <= LONGEST_SENTENCE else sentence[: LONGEST_SENTENCE - 1] + "…"
    return "".join(character if _is_plain(character) else f"\\u{ord(character):04x}" for character in shown)


def _is_plain(character: str) -> bool:
    code = ord(character)
    if code < 0x20 or 0x7F <= code < 0xA0:
        return False
    return not (0x200E <= code <= 0x200F or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069)


def _at(document: Mapping[Any, Any], path: str) -> str | None:
    value: object = document
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value if isinstance(value, str) else None


def _normal(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")


def rows(
    statuses: Sequence[int], fields: Sequence[str], sentence: str, meaning: Meaning, source: str
) -> KnownWords:
    """A row of a table, written shortly."""
    return KnownWords(frozenset(statuses), tuple(fields), sentence, meaning, source)
