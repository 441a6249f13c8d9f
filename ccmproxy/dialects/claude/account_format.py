"""The formats of Claude accounts: the official CLI's credential file, token refresh, usage, profile (spec 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import msgspec
from zope.interface import implementer

from ccmproxy.dialects.claude.usage_shapes import usual_shape
from ccmproxy.dialects.claude.windows import read_usage
from ccmproxy.dialects.json_values import DECODE_ERRORS, number, text
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
    AnswerMalformed,
    ApiKey,
    ControlRequest,
    OAuthToken,
    RefreshRefused,
    UpstreamURLs,
)
from ccmproxy.interfaces.facets import IAccountFormat
from ccmproxy.state.limits import LimitsUpdate

#: The public client id of the official CLI, to which the login in the file was issued (spec 2).
CLIENT_ID = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"
OAUTH_BETA = "oauth-2025-04-20"
INFERENCE_SCOPE = "user:inference"
#: The scopes that the official CLI requests at a refresh (spec 3.2 point 5).
REFRESH_SCOPES = "user:profile user:inference user:sessions:claude_code user:mcp_servers user:file_upload"

#: Longest lifetime of a token (seconds); a longer one counts as unknown.
LONGEST_LIFETIME = 10 * 366 * 86400.0

_BETA = ("anthropic-beta", OAUTH_BETA)
_KEY = "claudeAiOauth"
_PLANS = {
    "claude_pro": "pro",
    "claude_max": "max",
    "claude_team": "team",
    "claude_enterprise": "enterprise",
}


@implementer(IAccountFormat)
class ClaudeAccountFormat:
    """Account facet of the Claude dialect. Stateless."""

    how_to_log_in = "run `claude` and enter /login"

    def parse(self, document: bytes) -> OAuthToken | ApiKey:
        """Read ``claudeAiOauth`` of the official CLI's ``.credentials.json`` (spec 3.1).

        Raises CredentialFileError where there is no access token, or one that is not allowed in a header field.
        """
        login = login_of(load_document(document), _KEY)
        access_token = access_token_of(login, _KEY, "accessToken")
        expires_ms = number(login.get("expiresAt"))
        scopes = login.get("scopes")
        return OAuthToken(
            access_token=access_token,
            refresh_token=text(login.get("refreshToken")),
            expires_at=expires_ms / 1000 if expires_ms else None,
            scopes=tuple(s for s in scopes if isinstance(s, str)) if isinstance(scopes, list) else (),
            plan=text(login.get("subscriptionType")),
            tier=text(login.get("rateLimitTier")),
        )

    def merge(self, document: bytes, token: OAuthToken) -> bytes:
        """Put ``token`` into the document; keep all other keys, also those within ``claudeAiOauth``."""
        loaded = load_for_merge(document)
        said = {
            "accessToken": token.access_token,
            "refreshToken": token.refresh_token,
            "expiresAt": int(token.expires_at * 1000) if token.expires_at else 0,
            "scopes": list(token.scopes),
            "subscriptionType": token.plan,
            "rateLimitTier": token.tier,
        }
        put_login(loaded, _KEY, said)
        return dump_document(loaded)

    def can_refresh(self, token: OAuthToken) -> bool:
        """Whether a refresh is possible: needs a refresh token, and scopes that allow inference."""
        return token.refresh_token is not None and (not token.scopes or INFERENCE_SCOPE in token.scopes)

    def refresh_due(self, token: OAuthToken, now: float) -> bool:
        """Whether the token expires within 300 s and can be refreshed (spec 3.2)."""
        return (
            token.expires_at is not None
            and now >= token.expires_at - REFRESH_MARGIN
            and self.can_refresh(token)
        )

    def refresh_request(self, token: OAuthToken, urls: UpstreamURLs) -> ControlRequest:
        """The POST to the token URL (spec 3.2 point 5)."""
        scope = REFRESH_SCOPES
        if token.scopes and INFERENCE_SCOPE not in token.scopes:
            scope = " ".join(token.scopes)
        return _refresh_request(token, urls, scope)

    def narrower_refresh_request(self, token: OAuthToken, urls: UpstreamURLs) -> ControlRequest | None:
        """The refresh with the scopes that the file holds; without any if it names none, which asks for those that the
        login was granted (RFC 6749 section 6). None where the usual refresh asks for the same."""
        if token.scopes and (INFERENCE_SCOPE not in token.scopes or set(token.scopes) == _USUAL_SCOPES):
            return None
        return _refresh_request(token, urls, " ".join(token.scopes))

    def refresh_answer(
        self, status: int, headers: Mapping[str, str], body: bytes, token: OAuthToken, now: float
    ) -> OAuthToken:
        """The new login; without a ``refresh_token`` in the answer, the old refresh token remains valid.

        A malformed lifetime or scope counts as missing. Raises RefreshRefused for any status but 200, and for an answer
        without an access token.
        """
        refuse_unless_granted(status, headers, body, now, _is_permanent)
        try:
            answer = msgspec.json.decode(body, type=_RefreshAnswer)
        except DECODE_ERRORS:
            raise RefreshRefused("token endpoint answered something that is not a token") from None
        if not answer.access_token or not is_header_safe(answer.access_token):
            raise RefreshRefused("token endpoint answered without an access token")
        # The old refresh token is used up by now: a malformed value beside the new login must not discard the login.
        lifetime, scope = number(answer.expires_in) or 0.0, text(answer.scope)
        return replace(
            token,
            access_token=answer.access_token,
            refresh_token=answer.refresh_token or token.refresh_token,
            expires_at=now + lifetime if 0 < lifetime <= LONGEST_LIFETIME else None,
            scopes=tuple(scope.split()) if scope else token.scopes,
            account_id=_organization_id(answer.organization) or token.account_id,
        )

    def usage_request(self, token: OAuthToken, urls: UpstreamURLs) -> ControlRequest:
        """The GET of the usage of both windows (spec 3.5)."""
        return control_get(urls.usage_url, token, urls, _BETA)

    def usage_answer(self, body: bytes, now: float) -> LimitsUpdate:
        """What ``GET /api/oauth/usage`` answered; nothing where that has no window. Raises AnswerMalformed where it is
        no JSON object."""
        return read_usage(usual_shape(usage_object(body)))

    def usage_plan(self, body: bytes, token: OAuthToken) -> OAuthToken:
        """Return ``token``: the usage endpoint does not name the plan."""
        return token

    def profile_request(self, token: OAuthToken, urls: UpstreamURLs) -> ControlRequest | None:
        """Needed where the file does not say what plan the account has, and whose account it is is not known: the file
        never names that (spec 12.5)."""
        if token.plan and token.tier and token.account_id:
            return None
        return control_get(urls.profile_url, token, urls, _BETA)

    def profile_answer(self, body: bytes, token: OAuthToken) -> OAuthToken:
        """Fill in plan and tier from ``organization`` (spec 3.2). Raises AnswerMalformed where that is missing."""
        try:
            answer = msgspec.json.decode(body, type=_ProfileAnswer)
        except DECODE_ERRORS:
            raise AnswerMalformed("profile endpoint answered something else than a profile") from None
        organization = answer.organization
        return replace(
            token,
            plan=token.plan or _PLANS.get(text(organization.organization_type) or ""),
            tier=token.tier or text(organization.rate_limit_tier),
            account_id=text(organization.uuid) or token.account_id,
        )

    def plan_weight(self, token: OAuthToken | ApiKey) -> float:
        """The size of the plan, in units of a Pro plan (spec 5.2)."""
        if isinstance(token, ApiKey):
            return 1.0
        if token.plan == "max":
            return 10.0 if token.tier == "default_claude_max_20x" else 5.0
        if token.plan == "team" and token.tier == "default_claude_max_5x":
            return 5.0
        return 1.0

    def token_rejected(self, status: int, body: bytes) -> bool:
        """True for a 401, and for a 403 that names the revocation (spec 3.4)."""
        return token_rejected(status, body)

    def default_path(self, environ: Mapping[str, str], home: str) -> str:
        """``$CLAUDE_CONFIG_DIR/.credentials.json``, or else ``~/.claude/.credentials.json``."""
        return client_path(environ.get("CLAUDE_CONFIG_DIR"), f"{home}/.claude", ".credentials.json")


class _RefreshAnswer(msgspec.Struct):
    access_token: str
    refresh_token: str | None = None
    expires_in: object = None
    scope: object = None
    organization: object = None


class _Organization(msgspec.Struct):
    uuid: object = None
    organization_type: object = None
    rate_limit_tier: object = None


class _ProfileAnswer(msgspec.Struct):
    organization: _Organization


#: The scopes that a refresh usually asks for.
_USUAL_SCOPES = frozenset(REFRESH_SCOPES.split())


def _refresh_request(token: OAuthToken, urls: UpstreamURLs, scope: str) -> ControlRequest:
    """The refresh that asks for ``scope``; empty = for no scopes in particular."""
    body = {
        "grant_type": "refresh_token",
        "refresh_token": token.refresh_token,
        "client_id": CLIENT_ID,
    }
    return refresh_post({**body, "scope": scope} if scope else body, urls)


def _organization_id(value: object) -> str | None:
    return text(value.get("uuid")) if isinstance(value, dict) else None


def _is_permanent(status: int, code: str) -> bool:
    """Whether a refusal means that this refresh token will never be accepted again (spec 3.3, 12.4)."""
    return status in (400, 401, 403) and code in FINAL_CODES
