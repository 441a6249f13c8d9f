"""What a client asks of a token endpoint, as JSON or as a form (RFC 6749 section 3.2). Pure."""

from __future__ import annotations

from urllib.parse import parse_qsl

import msgspec

from ccmproxy.http.message import first_value
from ccmproxy.simulator.record import ReceivedRequest


def token_request(request: ReceivedRequest) -> dict[str, str]:
    """The parameters of a token request, JSON or form; values that are not text are left out. Empty if unreadable."""
    content_type = first_value(request.headers, b"content-type") or b""
    if content_type.startswith(b"application/x-www-form-urlencoded"):
        return dict(parse_qsl(request.body.decode("latin-1")))
    try:
        document = msgspec.json.decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    return {key: value for key, value in document.items() if isinstance(value, str)}
