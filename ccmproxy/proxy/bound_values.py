"""Values in responses that clients send back later, and that are valid only for the credential that issued them."""

from __future__ import annotations

from collections.abc import Callable

from ccmproxy.http.message import Headers, first_value
from ccmproxy.policy.sessions import IssuedValues


class BoundValues:
    """Remembers which credential issued which value of a dialect's ``bound_header`` (spec 3.6)."""

    def __init__(self, header: bytes, seconds: Callable[[], float]) -> None:
        """``header``: name of the field in lower case, empty if the dialect has none. ``seconds``: monotonic clock."""
        self._header = header
        self._seconds = seconds
        self._issued = IssuedValues()

    def is_bound(self, headers: Headers, session: str | None, tag: str) -> bool:
        """Return whether ``headers`` of a request carry a value that credential ``tag`` has issued to this session."""
        value = first_value(headers, self._header) if self._header else None
        return value is not None and self._issued.is_from(session, value, tag, self._seconds())

    def bind(self, headers: Headers, session: str | None, tag: str) -> None:
        """Remember the value in ``headers`` of a response of credential ``tag``, if there is one."""
        value = first_value(headers, self._header) if self._header else None
        if value is not None:
            self._issued.issued(session, value, tag, self._seconds())
