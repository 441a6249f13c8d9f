"""Values in answers that clients send back, and that mean something only to the credential that issued them."""

from __future__ import annotations

from collections.abc import Callable

from ccmproxy.http.message import Headers, first_value
from ccmproxy.policy.sessions import IssuedValues


class BoundValues:
    """Remembers who issued what a dialect's ``bound_header`` holds (spec 3.6)."""

    def __init__(self, header: bytes, now: Callable[[], float]) -> None:
        """``header``: name of the field in lower case; empty where the dialect has none. ``now``: Unix seconds."""
        self._header = header
        self._now = now
        self._issued = IssuedValues()

    def is_bound(self, headers: Headers, session: str | None, tag: str) -> bool:
        """Does a request with ``headers`` carry a value that the credential ``tag`` has issued to this session?"""
        value = first_value(headers, self._header) if self._header else None
        return value is not None and self._issued.is_from(session, value, tag, self._now())

    def bind(self, headers: Headers, session: str | None, tag: str) -> None:
        """Remember the value that an answer of ``tag`` with ``headers`` holds, if there is one."""
        value = first_value(headers, self._header) if self._header else None
        if value is not None:
            self._issued.issued(session, value, tag, self._now())
