"""What the credential files and token endpoints of all dialects have in common (spec 3.1 to 3.4). Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from ccmproxy.dialects.oauth import ControlRequest, CredentialFileError, RefreshRefused, UpstreamURLs
from ccmproxy.http.retry_after import parse_retry_after

#: A token is refreshed this long before it expires (seconds).
REFRESH_MARGIN = 300.0
#: What a 403 says whose cause is the token.
REVOKED = b"OAuth token has been revoked"
#: Everything that decoding foreign JSON raises.
DECODE_ERRORS = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


def load_document(document: bytes) -> dict[str, Any]:
    """The JSON object of a credential file. Raises CredentialFileError, which quotes nothing of it."""
    if not document.strip():
        raise CredentialFileError("credential file is empty")
    try:
        loaded = json.loads(document)
    except (ValueError, RecursionError):
        # The cause would quote the document.
        raise CredentialFileError("credential file is not valid JSON") from None
    if not isinstance(loaded, dict):
        raise CredentialFileError("credential file is not a JSON object")
    return loaded


def load_for_merge(document: bytes) -> dict[str, Any]:
    """The same for a login that is to be put in: what broke after it had been read is worth less than that."""
    try:
        return load_document(document)
    except CredentialFileError:
        return {}


def dump_document(loaded: dict[str, Any]) -> bytes:
    """The credential file that holds ``loaded``, laid out as the official clients do."""
    try:
        return json.dumps(loaded, indent=2, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        # Half a surrogate pair in what belongs to others: JSON can escape it, UTF-8 cannot hold it.
        return json.dumps(loaded, indent=2).encode("ascii")


def text(value: object) -> str | None:
    """``value`` if it is a string that is not empty."""
    return value if isinstance(value, str) and value else None


def number(value: object) -> float | None:
    """``value`` as a finite float; None for anything that is no number, booleans included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def is_header_safe(secret: str) -> bool:
    """Tokens and keys go into a header line: visible ASCII only (RFC 6750 section 2.1)."""
    return secret.isascii() and secret.isprintable() and " " not in secret


def token_rejected(status: int, body: bytes) -> bool:
    """401, or a 403 that names the revocation (spec 3.4)."""
    return status == 401 or (status == 403 and REVOKED in body)


def refresh_post(body: Mapping[str, object], urls: UpstreamURLs) -> ControlRequest:
    """A refresh: ``body`` as JSON to the token URL, in our own name."""
    headers = (
        ("Content-Type", "application/json"),
        ("Accept", "application/json"),
        ("User-Agent", urls.user_agent),
    )
    return ControlRequest("POST", urls.token_url, headers, json.dumps(body).encode())


def refuse_if_rate_limited(status: int, headers: Mapping[str, str], now: float) -> None:
    """Raise RefreshRefused for a 429 of the token endpoint (spec 3.2 point 8)."""
    if status == 429:
        raise RefreshRefused(
            "token endpoint answered 429",
            rate_limited=True,
            retry_after=parse_retry_after(headers.get("retry-after"), now),
        )


def error_code(body: bytes) -> str:
    """``error`` or ``error.code``/``error.type`` of an OAuth error answer (RFC 6749 section 5.2); empty if unclear."""
    try:
        answer = msgspec.json.decode(body)
    except DECODE_ERRORS:
        return ""
    error = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(error, dict):
        error = error.get("code") or error.get("type")
    return error if isinstance(error, str) else ""
