"""Texts that come from elsewhere, so that they can be shown on terminals, in logs and on pages. Pure."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return ``text`` with everything escaped that is not printable: control and bidirectional characters, lone
    surrogates."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in text)
