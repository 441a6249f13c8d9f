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
from urllib.parse import unquote_plus

from ccmproxy.http.message import RequestHead
from ccmproxy.state.printable import printable

#: Stands in a sentence for what varies: a model, a date, an organization.
WILDCARD = "*"
#: The most characters that a wildcard stands for, and the most wildcards of one sentence: they bound the work that a
#: value can cause, as each wildcard multiplies it by the characters that it may stand for.
_LONGEST_VARIABLE = 200
_MOST_VARIABLES = 2
#: A longer value is no sentence of any table (characters).
_LONGEST_VALUE = 2000
#: The most characters of a provider's sentence that are kept for people.
LONGEST_SENTENCE = 200
#: Only these are set equal to each other: of all other letters and spaces, what a client sends and what a provider
#: sends back may differ in bytes and yet be equal to Python.
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_SPACES = re.compile(r"[ \t\r\n\f\v]+")


class Meaning(Enum):
    """What known words say a refusal is about."""

    #: The account itself: closed, suspended, without entitlement. It is not used until the provider serves it again.
    ACCOUNT_REFUSED = auto()
    #: One model on this account.
    MODEL_REFUSED = auto()
    #: This request alone: its size, a feature that costs extra. Nothing is ever charged for it, and waiting does not
    #: help.
    REQUEST = auto()
    #: Waiting does not help; whom the refusal is about, the words do not say.
    FINAL = auto()
    #: The token was revoked or has ended; a refresh may help.
    LOGIN_REVOKED = auto()


@dataclass(frozen=True, slots=True)
class KnownWords:
    """One row of a table.

    ``statuses``: HTTP statuses at which it counts. ``fields``: dotted paths of the body's fields in which the sentence
    may stand. ``sentence``: the whole value, apart from case, white space and final full stops; ``*`` for what varies.
    ``source``: where the fact comes from. Raises ValueError when the sentence has more than two wildcards, or no words.
    """

    statuses: frozenset[int]
    fields: tuple[str, ...]
    sentence: str
    meaning: Meaning
    source: str
    #: The words by which the sentence is known, in lower case: its runs of several words that do not vary or, where it
    #: has none, all that does not vary.
    telling: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = _normal(self.sentence).split(WILDCARD)
        words = [stripped for part in parts if (stripped := part.strip())]
        if not words or len(parts) - 1 > _MOST_VARIABLES:
            raise ValueError(
                f"a sentence needs words and at most {_MOST_VARIABLES} wildcards: {self.sentence!r}"
            )
        object.__setattr__(self, "telling", tuple([part for part in words if " " in part] or words))
        variable = f".{{0,{_LONGEST_VARIABLE}}}?"
        pattern = variable.join(re.escape(part) for part in parts)
        object.__setattr__(self, "_pattern", re.compile(pattern, re.DOTALL))

    def fits(self, value: str) -> bool:
        """Return whether a field's value is this sentence."""
        return len(value) <= _LONGEST_VALUE and self._pattern.fullmatch(_normal(value)) is not None


@dataclass(frozen=True, slots=True)
class Found:
    """Words that count. ``sentence``: the provider's own, shortened for people."""

    meaning: Meaning
    sentence: str


def find_words(table: Iterable[KnownWords], status: int, document: object, echo: str = "") -> Found | None:
    """Return the first row of ``table`` that fits an answer with ``status`` and the decoded JSON ``document``, or None.

    ``echo``: what of the client's request a provider might repeat (:func:`echo_of`). A row counts only if none of its
    words occur there: a client must not be able to have an account refused by a word of its own. Never raises.
    """
    if not isinstance(document, Mapping):
        return None
    for known in table:
        if status not in known.statuses:
            continue
        for path in known.fields:
            value = _at(document, path)
            if value is not None and known.fits(value) and not any(words in echo for words in known.telling):
                return Found(known.meaning, shortened(sentence_of(document) or value))
    return None


def echo_of(head: RequestHead, model: str) -> str:
    """Return what a provider may repeat of a request: its target, its header fields and its ``model``, a line each.

    As they came and percent-decoded once and twice, in lower case, with white space as in :func:`find_words`.
    """
    fields = [f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in head.headers]
    said = [head.target.decode("latin-1"), *fields, model]
    once = [unquote_plus(line) for line in said]
    twice = [unquote_plus(line) for line in once]
    return "\n".join(_plain(line) for line in (*said, *once, *twice))


#: Where a sentence for people stands in an error's body, in all the shapes that providers use; then the codes, which
#: say more than nothing.
_SENTENCES = (
    "error.message",
    "message",
    "detail.message",
    "detail",
    "error_description",
    "error",
    "error.code",
    "detail.code",
    "error.type",
)


def sentence_of(document: object) -> str:
    """Return the sentence for people in an error's decoded body; empty where there is none."""
    if isinstance(document, Mapping):
        for path in _SENTENCES:
            value = _at(document, path)
            if value:
                return value
    return ""


def shortened(sentence: str) -> str:
    """Return at most 200 characters of ``sentence`` for logs and terminals: what is not printable (control and
    bidirectional characters, lone surrogates) is escaped."""
    shown = printable(sentence[: LONGEST_SENTENCE + 1])
    return shown if len(shown) <= LONGEST_SENTENCE else shown[: LONGEST_SENTENCE - 1] + "…"


def _at(document: Mapping[Any, Any], path: str) -> str | None:
    value: object = document
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value if isinstance(value, str) else None


def _plain(text: str) -> str:
    return _SPACES.sub(" ", text.translate(_LOWER))


def _normal(text: str) -> str:
    return _plain(text).strip(" ").rstrip(".")


def row(
    statuses: Sequence[int], fields: Sequence[str], sentence: str, meaning: Meaning, source: str
) -> KnownWords:
    """Return a row of a table. See :class:`KnownWords` for the parameters."""
    return KnownWords(frozenset(statuses), tuple(fields), sentence, meaning, source)
