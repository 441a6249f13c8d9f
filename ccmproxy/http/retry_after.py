"""Reading the Retry-After field (RFC 9110 section 10.2.3), whose value is not trusted blindly."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

from ccmproxy.http.message import Headers, first_value

#: Longest delay that is believed (seconds). It exceeds the longest weekly window of the providers.
LONGEST = 8 * 86400.0


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds to wait from ``now`` (Unix seconds); ``value`` is delay-seconds or an HTTP date.

    Returns None if the field is missing, malformed, or larger than :data:`LONGEST`, and 0 for a date in the past.
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
        # An HTTP date is always in GMT; without a zone, Python would use the machine's local time zone.
        seconds = max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now)
    return seconds if seconds <= LONGEST else None


def retry_after(headers: Headers, now: float) -> float | None:
    """Apply :func:`parse_retry_after` to the header fields of a response."""
    value = first_value(headers, b"retry-after")
    return parse_retry_after(value.decode("latin-1"), now) if value is not None else None
