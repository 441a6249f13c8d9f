"""Which models a rate-limit window applies to: those whose names contain the family after which it is named.

The dialects choose the names of families, and never choose a word that occurs in the names of all models.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"[a-z]+|[0-9]+")


def name_words(name: str) -> list[str]:
    """Return the words and numbers in the name of a model or family, in lower case.

    Example: ``claude-opus-4-5`` → claude, opus, 4, 5.
    """
    return _WORD.findall(name.lower())


def is_of_family(model_words: list[str], family: str) -> bool:
    """Return whether the words of ``family`` occur consecutively in the model's name, as ``opus`` in
    ``claude-opus-4-5``.

    ``model_words``: the words of the model's name. A family without letters contains no model.
    """
    words = name_words(family)
    if all(word.isdigit() for word in words):
        return False
    return any(model_words[at : at + len(words)] == words for at in range(len(model_words)))
