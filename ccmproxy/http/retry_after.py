"""The Retry-After field (RFC 9110 section 10.2.3), which every party here sends and all are wary of."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

from ccmproxy.http.message import Headers, first_value

#: Longer than any window of either provider: whatever lies beyond is nonsense (seconds).
LONGEST = 8 * 86400.0


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait from ``now`` (Unix seconds), for delay-seconds or an HTTP date.

    None where the field is missing, malformed, or beyond what a window can be. A date in the past gives 0.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        seconds = float(value) if len(value) < 12 else LONGEST + 1
    else:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
        # An HTTP date is always GMT; without a zone Python would take the machine's own.
        seconds = max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now)
    return seconds if seconds <= LONGEST else None


def retry_after(headers: Headers, now: float) -> float | None:
    """:func:`parse_retry_after` of an answer's header fields."""
    value = first_value(headers, b"retry-after")
    return parse_retry_after(value.decode("latin-1"), now) if value is not None else None
