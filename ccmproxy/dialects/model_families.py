"""Which models a window is for, by what it is called: a dialect knows the words that are in all of them. Pure."""

from __future__ import annotations

from collections.abc import Set

from ccmproxy.state.model_names import name_words


def names_models(name: str, vendor_words: Set[str]) -> bool:
    """Whether ``name`` (of a window, of a limit) tells some models of a vendor from the others.

    ``vendor_words``: words in lower case that stand in the names of many models. A window that is called so, and
    nothing else, would close all of them.
    """
    words = name_words(name)
    return bool(words) and not (len(words) == 1 and words[0] in vendor_words)
