"""The formats of Codex accounts: the official CLI's ``auth.json``, token refresh, usage (spec 3)."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from zope.interface import implementer

from ccmproxy.dialects.codex.windows import read_usage
from ccmproxy.dialects.json_values import DECODE_ERRORS, any_decoder, json_object, moment, number, text
from ccmproxy.dialects.logins import (
    FINAL_CODES,
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
#: Kind of a login that is a single token, which never expires and is never refreshed (``codex login
#: --with-access-token``, openai/codex pull request 25731), and the field that holds it.
PERSONAL_TOKEN = "personalAccessToken"
_PERSONAL_TOKEN_FIELD = "personal_access_token"
#: Kinds of logins in the words of ``auth_mode`` whose tokens cannot be sent as they are.
UNSUPPORTED = frozenset({"agentIdentity"})
#: The claim of its tokens in which the provider tells of the account.
CLAIM = "https://api.openai.com/auth"

_KEY = "tokens"
_WEIGHTS = {"pro": 10.0, "prolite": 5.0}


@implementer(IAccountFormat)
class CodexAccountFormat:
    """Account facet of the Codex dialect. Stateless."""

    how_to_log_in = "run `codex login`"

    def parse(self, document: bytes) -> OAuthToken | ApiKey:
        """Read the official CLI's ``auth.json`` (spec 3.1): a key where it is in API-key mode, else its tokens, or its
        personal access token, which never expires.

        ``auth_mode`` decides where it is there; older files are in API-key mode if they hold a key. Raises
        CredentialFileError where there is no key or access token, or none that a header can hold, and for a kind of
        login that is not supported, which the message names.
        """
        loaded = load_document(document)
        mode, key = text(loaded.get("auth_mode")), text(loaded.get("OPENAI_API_KEY"))
        if mode == "apikey" or (mode is None and key is not None):
            if key is None:
                raise CredentialFileError("OPENAI_API_KEY field not found")
            if not is_header_safe(key):
                raise CredentialFileError("OPENAI_API_KEY holds characters that no key has")
            return ApiKey(key)
        if mode == PERSONAL_TOKEN or (loaded.get(_KEY) is None and text(loaded.get(_PERSONAL_TOKEN_FIELD))):
            return _personal_token(loaded)
        if mode is not None and (mode in UNSUPPORTED or (mode != "chatgpt" and loaded.get(_KEY) is None)):
            kind = mode if mode.isascii() and mode.isalnum() and len(mode) <= 40 else "unknown"
            raise CredentialFileError(
                f"the login is of the kind {kind}, which is not supported: {self.how_to_log_in} to get another one"
            )
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

    def narrower_refresh_request(self, token: OAuthToken, urls: UpstreamURLs) -> ControlRequest | None:
        """None: the usual refresh names no scopes."""
        return None

    def refresh_answer(
        self, status: int, headers: Mapping[str, str], body: bytes, token: OAuthToken, now: float
    ) -> OAuthToken:
        """The new login: each token in the answer replaces the known one.

        Raises RefreshRefused for any status but 200, and for an answer without any token.
        """
        refuse_unless_granted(status, headers, body, now, _is_permanent)
        try:
            answer = any_decoder.decode(body)
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
        """What ``GET …/wham/usage`` answered; nothing where that says nothing of limits. Raises AnswerMalformed where
        it is no JSON object."""
        return read_usage({"rate_limit": None, **usage_object(body)}, now)

    def usage_plan(self, body: bytes, token: OAuthToken) -> OAuthToken:
        """``token`` with the plan that the usage endpoint names: an upgrade shows there before it does in the tokens
        (spec 12.5)."""
        plan = text((json_object(body) or {}).get("plan_type"))
        return token if plan is None else replace(token, plan=plan)

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
    """Whether a refusal means that this refresh token will never be accepted again (spec 3.3, 12.4)."""
    return status == 401 or code in FINAL_CODES


def _personal_token(loaded: dict[str, Any]) -> OAuthToken:
    """The login that is a personal access token. Raises CredentialFileError where there is none, or none that a header
    can hold."""
    personal_token = text(loaded.get(_PERSONAL_TOKEN_FIELD))
    if personal_token is None:
        raise CredentialFileError(f"{_PERSONAL_TOKEN_FIELD} field not found")
    if not is_header_safe(personal_token):
        raise CredentialFileError(f"{_PERSONAL_TOKEN_FIELD} holds characters that no token has")
    tokens = loaded.get(_KEY)
    account = tokens.get("account_id") if isinstance(tokens, dict) else loaded.get("account_id")
    return OAuthToken(personal_token, account_id=_safe(account))
