"""Globs of model names, as regular expressions. Pure.

``*`` stands for any characters, ``?`` for one; brackets are themselves, because names have them (``…[1m]``).
"""

from __future__ import annotations

import re


def glob_expression(glob: str) -> str:
    """Return a regular expression, for ``re.DOTALL``, that matches as a whole what ``glob`` does.

    Each part between stars is taken where it occurs first and never sought again, so that a long name that a client has
    made up cannot make many stars expensive.
    """
    first, *others = (re.escape(part).replace(r"\?", ".") for part in re.split(r"\*+", glob))
    if not others:
        return first
    *middle, last = others
    return first + "".join(f"(?>.*?{part})" for part in middle) + ".*" + last
