"""The formats of Codex accounts: the official CLI's ``auth.json``, token refresh, usage (spec 3)."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
from zope.interface import implementer

from ccmproxy.dialects.codex.windows import read_usage
from ccmproxy.dialects.json_values import DECODE_ERRORS, json_object, moment, number, text
from ccmproxy.dialects.logins import (
    REFRESH_MARGIN,
    access_token_of,
    client_path,
    control_get,
    dump_document,
    is_header_safe,
    load_document,
    load_for_merge,
    login_of,
    put_login,
    refresh_post,
    refuse_unless_granted,
    token_rejected,
    usage_object,
)
from ccmproxy.dialects.oauth import (
    AnswerMalformed,
    ApiKey,
    ControlRequest,
    CredentialFileError,
    OAuthToken,
    RefreshRefused,
    UpstreamURLs,
)
from ccmproxy.interfaces.facets import IAccountFormat
from ccmproxy.state.limits import LATEST_TIME, LimitsUpdate

#: The public client id of the official CLI, to which the login in the file was issued (spec 2).
CLIENT_ID = "app_EMoamEEZ73f0CkXaXp7hrann"
#: Age of the last refresh at which a token without a known expiry is refreshed (seconds).
REFRESH_INTERVAL = 8 * 86400.0
#: Error codes which mean that this refresh token will never be accepted again (spec 3.3).
PERMANENT = frozenset(
    {"refresh_token_expired", "refresh_token_reused", "refresh_token_invalidated", "invalid_grant"}
)
#: The JWT claim in which the provider describes the account.
CLAIM = "https://api.openai.com/auth"

_KEY = "tokens"
_WEIGHTS = {"pro": 10.0, "prolite": 5.0}


@implementer(IAccountFormat)
class CodexAccountFormat:
    """Account facet of the Codex dialect. Stateless."""

    def parse(self, document: bytes) -> OAuthToken | ApiKey:
        """Read the official CLI's ``auth.json`` (spec 3.1): its key if it is in API-key mode, else its tokens.

        ``auth_mode`` decides where it is present; older files are in API-key mode if they hold a key. Raises
        CredentialFileError where there is no key or access token, or one that is not allowed in a header field.
        """
        loaded = load_document(document)
        mode, key = text(loaded.get("auth_mode")), text(loaded.get("OPENAI_API_KEY"))
        if mode == "apikey" or (mode is None and key is not None):
            if key is None:
                raise CredentialFileError("OPENAI_API_KEY field not found")
            if not is_header_safe(key):
                raise CredentialFileError("OPENAI_API_KEY holds characters that no key has")
            return ApiKey(key)
        tokens = login_of(loaded, _KEY)
        access_token = access_token_of(tokens, _KEY, "access_token")
        return _with_claims(
            OAuthToken(
                access_token=access_token,
                refresh_token=text(tokens.get("refresh_token")),
                account_id=_safe(tokens.get("account_id")),
                id_token=text(tokens.get("id_token")),
                last_refresh=moment(loaded.get("last_refresh")),
            )
        )

    def merge(self, document: bytes, token: OAuthToken) -> bytes:
        """Put ``token`` into the document; keep all other keys, also those within ``tokens``."""
        loaded = load_for_merge(document) or {"OPENAI_API_KEY": None}
        said = {
            "id_token": token.id_token,
            "access_token": token.access_token,
            "refresh_token": token.refresh_token,
            "account_id": token.account_id,
        }
        # Unknown values are left out, because the CLI cannot read a null in their place.
        put_login(loaded, _KEY, {name: value for name, value in said.items() if value is not None})
        if token.last_refresh is not None:
            refreshed = datetime.fromtimestamp(token.last_refresh, UTC)
            loaded["last_refresh"] = refreshed.isoformat(timespec="microseconds").replace("+00:00", "Z")
        return dump_document(loaded)

    def can_refresh(self, token: OAuthToken) -> bool:
        """Whether there is a refresh token."""
        return token.refresh_token is not None

    def refresh_due(self, token: OAuthToken, now: float) -> bool:
        """Whether the token expires within 300 s or, without an expiry, was refreshed 8 days ago (spec 3.3)."""
        if not self.can_refresh(token):
            return False
        if token.expires_at is not None:
            return now >= token.expires_at - REFRESH_MARGIN
        return token.last_refresh is None or now - token.last_refresh >= REFRESH_INTERVAL

    def refresh_request(self, token: OAuthToken, urls: UpstreamURLs) -> ControlRequest:
        """The POST to the token URL (spec 3.3)."""
        body = {
            "client_id": CLIENT_ID,
            "grant_type": "refresh_token",
            "refresh_token": token.refresh_token,
        }
        return refresh_post(body, urls)

    def refresh_answer(
        self, status: int, headers: Mapping[str, str], body: bytes, token: OAuthToken, now: float
    ) -> OAuthToken:
        """The new login: each token in the answer replaces the known one.

        Raises RefreshRefused for any status but 200, and for an answer without any token.
        """
        refuse_unless_granted(status, headers, body, now, _is_permanent)
        try:
            answer = msgspec.json.decode(body)
        except DECODE_ERRORS:
            raise RefreshRefused("token endpoint answered something that is not JSON") from None
        # Each token is checked by itself: a malformed one must not discard a new refresh token beside it.
        said = answer if isinstance(answer, dict) else {}
        access_token, refresh_token = _safe(said.get("access_token")), text(said.get("refresh_token"))
        id_token = text(said.get("id_token"))
        if not (access_token or refresh_token or id_token):
            raise RefreshRefused("token endpoint answered without any token")
        return _with_claims(
            replace(
                token,
                access_token=access_token or token.access_token,
                refresh_token=refresh_token or token.refresh_token,
                id_token=id_token or token.id_token,
                last_refresh=now,
            )
        )

    def usage_request(self, token: OAuthToken, urls: UpstreamURLs) -> ControlRequest:
        """The GET of the usage of all windows (spec 3.5)."""
        extra = () if token.account_id is None else (("ChatGPT-Account-Id", token.account_id),)
        return control_get(urls.usage_url, token, urls, *extra)

    def usage_answer(self, body: bytes, now: float) -> LimitsUpdate:
        """The limits in an answer to ``GET …/wham/usage``. Raises AnswerMalformed where it holds no limits."""
        answer = usage_object(body)
        if "rate_limit" not in answer:
            raise AnswerMalformed("usage endpoint answered without rate_limit")
        return read_usage(answer, now)

    def profile_request(self, token: OAuthToken, urls: UpstreamURLs) -> ControlRequest | None:
        """None: the tokens of the login name the plan."""
        return None

    def profile_answer(self, body: bytes, token: OAuthToken) -> OAuthToken:
        """Return ``token`` as it is: no profile is ever requested."""
        return token

    def plan_weight(self, token: OAuthToken | ApiKey) -> float:
        """The size of the plan, in units of a Plus plan (spec 5.2)."""
        return 1.0 if isinstance(token, ApiKey) else _WEIGHTS.get(token.plan or "", 1.0)

    def token_rejected(self, status: int, body: bytes) -> bool:
        """True for a 401, and for a 403 that names the revocation (spec 3.4)."""
        return token_rejected(status, body)

    def default_path(self, environ: Mapping[str, str], home: str) -> str:
        """``$CODEX_HOME/auth.json``, or else ``~/.codex/auth.json``."""
        return client_path(environ.get("CODEX_HOME"), f"{home}/.codex", "auth.json")


def claims(token: str | None) -> dict[str, Any]:
    """The claims of a JWT (RFC 7519 section 3), not verified, as it is the account's own; empty if it is not a JWT."""
    parts = token.split(".") if token else []
    if len(parts) != 3:
        return {}
    try:
        payload = urlsafe_b64decode(parts[1].encode("ascii") + b"=" * (-len(parts[1]) % 4))
    except (UnicodeEncodeError, binascii.Error, ValueError):
        return {}
    return json_object(payload) or {}


def _with_claims(token: OAuthToken) -> OAuthToken:
    """``token`` with what its JWTs say: expiry, plan, account."""
    access, identity = claims(token.access_token), claims(token.id_token)
    expires_at = number(access.get("exp"))
    account: dict[str, Any] = {}
    for said in (access.get(CLAIM), identity.get(CLAIM)):  # the id token takes precedence
        if isinstance(said, dict):
            account.update({name: value for name, value in said.items() if text(value)})
    return replace(
        token,
        expires_at=expires_at if expires_at is not None and 0 < expires_at <= LATEST_TIME else None,
        plan=text(account.get("chatgpt_plan_type")),
        account_id=token.account_id or _safe(account.get("chatgpt_account_id")),
    )


def _safe(value: object) -> str | None:
    """A string that is allowed in a header field (an account id, an access token), else None."""
    found = text(value)
    return found if found is not None and is_header_safe(found) else None


def _is_permanent(status: int, code: str) -> bool:
    """Whether a refusal means that this refresh token will never be accepted again (spec 3.3)."""
    return status == 401 or code in PERMANENT
