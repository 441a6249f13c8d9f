"""Whether the name of a window or limit identifies a model family. Pure.

Each dialect supplies the words that occur in the names of all its models.
"""

from __future__ import annotations

from collections.abc import Set

from ccmproxy.state.model_names import name_words


def names_models(name: str, vendor_words: Set[str]) -> bool:
    """Whether ``name`` (of a window, of a limit) distinguishes some models of a vendor from the others.

    ``vendor_words``: words in lower case that occur in the names of many models. A window named by such words alone
    would close all models.
    """
    words = name_words(name)
    return bool(words) and not (len(words) == 1 and words[0] in vendor_words)
