"""The meaning of an upstream's responses, as far as it is the same in all dialects (spec 4.4, 4.6). Pure."""

from __future__ import annotations

import re

from ccmproxy.dialects.logins import token_rejected
from ccmproxy.http.message import Headers, lower_names
from ccmproxy.policy.answers import AnswerKind, Verdict


def verdict_by_status(status: int, body: bytes | None) -> Verdict:
    """The meaning of a status other than 429.

    ``body`` None: not read yet; the verdict asks for it where only the body tells a revoked token from any other 403.
    """
    if status < 400:
        return Verdict(AnswerKind.OK)
    if status == 403 and body is None:
        return Verdict(AnswerKind.NEEDS_BODY)
    if token_rejected(status, body or b""):
        return Verdict(AnswerKind.AUTH_FAILED)
    return Verdict(AnswerKind.CLIENT_ERROR if status == 400 else AnswerKind.OTHER)


def busy(wait: float | None = None) -> Verdict:
    """A 429 that no window explains (spec 12.2, F5); ``wait``: seconds of its Retry-After, None = not said."""
    return Verdict(AnswerKind.BUSY, wait=wait)


def used_up_resets(headers: Headers, field: re.Pattern[bytes]) -> list[str]:
    """The resets of those limits of an API key that have nothing left, in the upstream's own format.

    ``field`` matches whole names in lower case, with the groups ``limit`` (its name) and ``fact`` (``reset`` or
    ``remaining``).
    """
    said = {
        (match["limit"], match["fact"]): pair[1].decode("latin-1").strip()
        for pair, name in zip(headers, lower_names(headers), strict=True)
        if (match := field.fullmatch(name))
    }
    return [
        value
        for (limit, fact), value in said.items()
        if fact == b"reset" and said.get((limit, b"remaining")) == "0"
    ]
