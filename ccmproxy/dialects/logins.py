"""What the credential files and token endpoints of all dialects have in common (spec 3.1 to 3.4). Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ccmproxy.dialects.json_values import DECODE_ERRORS, any_decoder, json_object, text
from ccmproxy.dialects.oauth import (
    AnswerMalformed,
    ControlRequest,
    CredentialFileError,
    OAuthToken,
    RefreshRefused,
    UpstreamURLs,
)
from ccmproxy.http.retry_after import parse_retry_after

#: A token is refreshed this long before it expires (seconds).
REFRESH_MARGIN = 300.0
#: Error codes after which a refresh token is never accepted again (spec 3.3, 12.4). ``invalid_grant``: RFC 6749 section
#: 5.2. The three in the middle line: the ones that ``openai/codex`` handles so since its pull request 27351.
FINAL_CODES = frozenset(
    {
        *("refresh_token_expired", "refresh_token_reused", "refresh_token_invalidated", "invalid_grant"),
        *("app_session_expired", "invalid_refresh_token", "app_session_terminated"),
    }
)
#: The error code for a refresh that asks for more scopes than the login was granted (RFC 6749 section 5.2).
INVALID_SCOPE = "invalid_scope"
#: What a 403 says whose cause is the token.
REVOKED = b"OAuth token has been revoked"


def load_document(document: bytes) -> dict[str, Any]:
    """The JSON object in a credential file. Raises CredentialFileError, which quotes nothing of the file."""
    if not document.strip():
        raise CredentialFileError("credential file is empty")
    try:
        loaded = json.loads(document)
    except (ValueError, RecursionError):
        # Chaining the cause would quote the document.
        raise CredentialFileError("credential file is not valid JSON") from None
    if not isinstance(loaded, dict):
        raise CredentialFileError("credential file is not a JSON object")
    return loaded


def load_for_merge(document: bytes) -> dict[str, Any]:
    """The object of a credential file into which a new login is to be merged; empty where the file is broken.

    The new login is worth more than a file that broke after it was read.
    """
    try:
        return load_document(document)
    except CredentialFileError:
        return {}


def dump_document(loaded: dict[str, Any]) -> bytes:
    """The bytes of a credential file that holds ``loaded``, in the layout of the official clients."""
    try:
        return json.dumps(loaded, indent=2, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        # Other programs' values may hold half a surrogate pair, which JSON can escape but UTF-8 cannot encode.
        return json.dumps(loaded, indent=2).encode("ascii")


def login_of(loaded: dict[str, Any], key: str) -> dict[str, Any]:
    """The object ``key`` of a credential file, which holds the login.

    Raises CredentialFileError where it is missing or not an object.
    """
    login = loaded.get(key)
    if login is None:
        raise CredentialFileError(f"{key} field not found")
    if not isinstance(login, dict):
        raise CredentialFileError(f"{key} is not a JSON object")
    return login


def access_token_of(login: dict[str, Any], key: str, name: str) -> str:
    """The access token, called ``name``, in ``login``, which is the object ``key`` of a credential file.

    Raises CredentialFileError where there is none, or one that is not allowed in a header field.
    """
    access_token = text(login.get(name))
    if access_token is None:
        raise CredentialFileError(f"{key} holds no {name}")
    if not is_header_safe(access_token):
        raise CredentialFileError(f"{key}.{name} holds characters that no token has")
    return access_token


def put_login(loaded: dict[str, Any], key: str, said: Mapping[str, object]) -> None:
    """Update the object ``key`` of a credential file with ``said``; its other members stay."""
    login = loaded.get(key)
    loaded[key] = {**(login if isinstance(login, dict) else {}), **said}


def client_path(directory: str | None, usual: str, name: str) -> str:
    """Path of the official client's file ``name``: in ``directory`` if that is set, else in the ``usual`` one."""
    return f"{(directory or usual).rstrip('/')}/{name}"


def is_header_safe(secret: str) -> bool:
    """Whether a token or key is allowed in a header field: visible ASCII only (RFC 6750 section 2.1)."""
    return secret.isascii() and secret.isprintable() and " " not in secret


def token_rejected(status: int, body: bytes) -> bool:
    """True for a 401, and for a 403 that names the revocation (spec 3.4)."""
    return status == 401 or (status == 403 and REVOKED in body)


def refresh_post(body: Mapping[str, object], urls: UpstreamURLs) -> ControlRequest:
    """A refresh request: ``body`` as JSON to the token URL, with our own User-Agent."""
    headers = (
        ("Content-Type", "application/json"),
        ("Accept", "application/json"),
        ("User-Agent", urls.user_agent),
    )
    return ControlRequest("POST", urls.token_url, headers, json.dumps(body).encode())


def control_get(url: str, token: OAuthToken, urls: UpstreamURLs, *extra: tuple[str, str]) -> ControlRequest:
    """A GET about the account of ``token``, with our own User-Agent; ``extra``: further header fields."""
    headers = (
        ("Authorization", f"Bearer {token.access_token}"),
        ("Accept", "application/json"),
        ("User-Agent", urls.user_agent),
        *extra,
    )
    return ControlRequest("GET", url, headers)


def refuse_unless_granted(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    is_permanent: Callable[[int, str], bool],
) -> None:
    """Raise RefreshRefused for any response of the token endpoint but a 200 (spec 3.2 point 8).

    ``headers`` with names in lower case. ``is_permanent``: of a status and an error code, whether this refresh token
    will never be accepted again; a 429 never says that.
    """
    if status != 200:
        code, limited = error_code(body), status == 429
        raise RefreshRefused(
            f"token endpoint answered {status}",
            permanent=not limited and is_permanent(status, code),
            rate_limited=limited,
            retry_after=parse_retry_after(headers.get("retry-after"), now),
            code=code,
        )


def usage_object(body: bytes) -> dict[str, Any]:
    """The JSON object from a usage endpoint. Raises AnswerMalformed where the body is anything else."""
    try:
        answer = any_decoder.decode(body)
    except DECODE_ERRORS:
        raise AnswerMalformed("usage endpoint answered something that is not JSON") from None
    if not isinstance(answer, dict):
        raise AnswerMalformed("usage endpoint answered no JSON object")
    return answer


def error_code(body: bytes) -> str:
    """``error`` or ``error.code``/``error.type`` of an OAuth error (RFC 6749 section 5.2); empty if unclear."""
    error = (json_object(body) or {}).get("error")
    if isinstance(error, dict):
        error = error.get("code") or error.get("type")
    return error if isinstance(error, str) else ""
