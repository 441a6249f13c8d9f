"""Claude's accounts: the official CLI's credential file, token refresh, usage, profile (spec 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import msgspec
from zope.interface import implementer

from ccmproxy.dialects.logins import (
    DECODE_ERRORS,
    REFRESH_MARGIN,
    dump_document,
    error_code,
    is_header_safe,
    load_document,
    load_for_merge,
    number,
    refresh_post,
    refuse_if_rate_limited,
    text,
    token_rejected,
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
from ccmproxy.state.limits import SHORT_WINDOW, WEEKLY_WINDOW, LimitsUpdate, Window, make_window

#: The public client id of the official CLI: the login in the file was issued to it (spec 2).
CLIENT_ID = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"
OAUTH_BETA = "oauth-2025-04-20"
INFERENCE_SCOPE = "user:inference"
#: What the official CLI asks for at a refresh (spec 3.2 point 5).
REFRESH_SCOPES = "user:profile user:inference user:sessions:claude_code user:mcp_servers user:file_upload"

#: No token lives longer (seconds): what is said beyond is not known.
LONGEST_LIFETIME = 10 * 366 * 86400.0

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

    def parse(self, document: bytes) -> OAuthToken | ApiKey:
        """Read ``claudeAiOauth`` of the official CLI's ``.credentials.json`` (spec 3.1)."""
        login = load_document(document).get(_KEY)
        if login is None:
            raise CredentialFileError("claudeAiOauth field not found")
        if not isinstance(login, dict):
            raise CredentialFileError("claudeAiOauth is not a JSON object")
        access_token = text(login.get("accessToken"))
        if access_token is None:
            raise CredentialFileError("claudeAiOauth holds no accessToken")
        if not is_header_safe(access_token):
            raise CredentialFileError("claudeAiOauth.accessToken holds characters that no token has")
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
        """Put ``token`` into the document; other keys, also those within ``claudeAiOauth``, survive."""
        loaded = load_for_merge(document)
        login = loaded.get(_KEY)
        login = dict(login) if isinstance(login, dict) else {}
        login.update(
            accessToken=token.access_token,
            refreshToken=token.refresh_token,
            expiresAt=int(token.expires_at * 1000) if token.expires_at else 0,
            scopes=list(token.scopes),
            subscriptionType=token.plan,
            rateLimitTier=token.tier,
        )
        loaded[_KEY] = login
        return dump_document(loaded)

    def can_refresh(self, token: OAuthToken) -> bool:
        """A refresh needs a refresh token, and is only made for logins that may be used for inference."""
        return token.refresh_token is not None and (not token.scopes or INFERENCE_SCOPE in token.scopes)

    def refresh_due(self, token: OAuthToken, now: float) -> bool:
        """Spec 3.2: 300 s before the expiry, if scopes and refresh token allow it."""
        return (
            token.expires_at is not None
            and now >= token.expires_at - REFRESH_MARGIN
            and self.can_refresh(token)
        )

    def refresh_request(self, token: OAuthToken, urls: UpstreamURLs) -> ControlRequest:
        """POST to the token URL (spec 3.2 point 5)."""
        scope = REFRESH_SCOPES
        if token.scopes and INFERENCE_SCOPE not in token.scopes:
            scope = " ".join(token.scopes)
        body = {
            "grant_type": "refresh_token",
            "refresh_token": token.refresh_token,
            "client_id": CLIENT_ID,
            "scope": scope,
        }
        return refresh_post(body, urls)

    def refresh_answer(
        self, status: int, headers: Mapping[str, str], body: bytes, token: OAuthToken, now: float
    ) -> OAuthToken:
        """The new login; a missing ``refresh_token`` means that the old one goes on being valid.

        A lifetime or scope that cannot be understood counts as not said. Raises RefreshRefused.
        """
        refuse_if_rate_limited(status, headers, now)
        if status != 200:
            permanent = status in (400, 401, 403) and error_code(body) in ("invalid_grant", "invalid_client")
            raise RefreshRefused(f"token endpoint answered {status}", permanent=permanent)
        try:
            answer = msgspec.json.decode(body, type=_RefreshAnswer)
        except DECODE_ERRORS:
            raise RefreshRefused("token endpoint answered something that is not a token") from None
        if not answer.access_token or not is_header_safe(answer.access_token):
            raise RefreshRefused("token endpoint answered without an access token")
        # The old refresh token is used up: a new login is not thrown away for an odd value beside it.
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
        """GET the usage of both windows (spec 3.5)."""
        return ControlRequest("GET", urls.usage_url, _own_headers(token, urls))

    def usage_answer(self, body: bytes, now: float) -> LimitsUpdate:
        """``{five_hour: {utilization, resets_at}, seven_day: …, seven_day_opus: …}``; windows may be null."""
        try:
            answer = msgspec.json.decode(body)
        except DECODE_ERRORS:
            raise AnswerMalformed("usage endpoint answered something that is not JSON") from None
        if not isinstance(answer, dict):
            raise AnswerMalformed("usage endpoint answered no JSON object")
        if "five_hour" not in answer and "seven_day" not in answer:
            raise AnswerMalformed("usage endpoint answered without any window")
        models = {
            key.removeprefix("seven_day_"): window
            for key, value in answer.items()
            if key.startswith("seven_day_") and (window := _usage_window(value, WEEKLY_WINDOW)) is not None
        }
        return LimitsUpdate(
            short=_usage_window(answer.get("five_hour"), SHORT_WINDOW),
            weekly=_usage_window(answer.get("seven_day"), WEEKLY_WINDOW),
            models=models,
        )

    def profile_request(self, token: OAuthToken, urls: UpstreamURLs) -> ControlRequest | None:
        """Needed only where the file does not say what plan the account has."""
        if token.plan and token.tier:
            return None
        return ControlRequest("GET", urls.profile_url, _own_headers(token, urls))

    def profile_answer(self, body: bytes, token: OAuthToken) -> OAuthToken:
        """Fill in plan and tier from ``organization`` (spec 3.2)."""
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
        """How big the plan is, in units of a Pro plan (spec 5.2)."""
        if isinstance(token, ApiKey):
            return 1.0
        if token.plan == "max":
            return 10.0 if token.tier == "default_claude_max_20x" else 5.0
        if token.plan == "team" and token.tier == "default_claude_max_5x":
            return 5.0
        return 1.0

    def token_rejected(self, status: int, body: bytes) -> bool:
        """401, or a 403 that names the revocation (spec 3.4)."""
        return token_rejected(status, body)

    def default_path(self, environ: Mapping[str, str], home: str) -> str:
        """``$CLAUDE_CONFIG_DIR/.credentials.json``, else ``~/.claude/.credentials.json``."""
        directory = environ.get("CLAUDE_CONFIG_DIR") or f"{home}/.claude"
        return f"{directory.rstrip('/')}/.credentials.json"


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


def _organization_id(value: object) -> str | None:
    return text(value.get("uuid")) if isinstance(value, dict) else None


def _own_headers(token: OAuthToken, urls: UpstreamURLs) -> tuple[tuple[str, str], ...]:
    return (
        ("Authorization", f"Bearer {token.access_token}"),
        ("anthropic-beta", OAUTH_BETA),
        ("Accept", "application/json"),
        ("User-Agent", urls.user_agent),
    )


def _usage_window(value: object, length: float) -> Window | None:
    if not isinstance(value, dict):
        return None
    resets_at = 0.0
    stamp = value.get("resets_at")
    if isinstance(stamp, str):
        try:
            moment = datetime.fromisoformat(stamp)
            # Without an offset the text would be read in the machine's own zone.
            resets_at = moment.timestamp() if moment.tzinfo else 0.0
        except (ValueError, OverflowError):
            resets_at = 0.0
    return make_window(number(value.get("utilization")), resets_at, length)
