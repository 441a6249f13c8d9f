"""Which models a rate-limit window is for: the family that it is called after is found in a model's name.

What the words of a provider's models mean is the dialects' to say: they name no family that is in all of them.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"[a-z]+|[0-9]+")


def name_words(name: str) -> list[str]:
    """The words and numbers of a model's or family's name, in lower case: ``claude-opus-4-5`` → claude, opus, 4, 5."""
    return _WORD.findall(name.lower())


def is_of_family(model_words: list[str], family: str) -> bool:
    """``opus`` is the family of ``claude-opus-4-5``: its words stand in the model's name, side by side.

    ``model_words``: of the model's name. A family that is in no model's name has none, and a number alone names none.
    """
    words = name_words(family)
    if all(word.isdigit() for word in words):
        return False
    return any(model_words[at : at + len(words)] == words for at in range(len(model_words)))
