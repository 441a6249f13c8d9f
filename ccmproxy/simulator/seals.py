"""A stand-in for signatures and encryption: only the organization that made a seal accepts it back. Pure."""

from __future__ import annotations

import hashlib
import hmac

_SIZE = 16


def seal(owner: str, text: str) -> bytes:
    """Bytes whose first half identifies the owner, and whose second half depends on the text."""
    return _digest(owner) + _digest(text)


def is_sealed_by(owner: str, sealed: bytes) -> bool:
    """Whether ``owner`` made ``sealed`` (F12)."""
    return hmac.compare_digest(sealed[:_SIZE], _digest(owner))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:_SIZE]
