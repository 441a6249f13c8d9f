"""Claude's token endpoint: refresh tokens that can be used once. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ccmproxy.simulator.accounts import RefreshTokenReused
from ccmproxy.simulator.claude.error_answers import Refusals
from ccmproxy.simulator.claude.simulated_account import ClaudeAccount
from ccmproxy.simulator.replies import json_reply
from ccmproxy.simulator.steps import Reply

#: Client id of the official client (spec 2).
CLIENT_ID = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"


def refreshing_account(parameters: dict[str, str], accounts: Iterable[ClaudeAccount]) -> ClaudeAccount | None:
    """The account whose refresh token, present or past, was sent."""
    token = parameters.get("refresh_token", "")
    return next((account for account in accounts if account.knows_refresh_token(token)), None)


def refresh(parameters: dict[str, str], account: ClaudeAccount | None, refusals: Refusals) -> Reply:
    """The answer of the token endpoint; a success rotates the account's tokens."""
    if parameters.get("grant_type") != "refresh_token":
        return refusals.oauth_error("unsupported_grant_type", "Only refresh_token is simulated")
    if parameters.get("client_id") != CLIENT_ID:
        return refusals.oauth_error("invalid_client", "Unknown client")
    if account is None:
        return refusals.invalid_grant()
    wanted = parameters.get("scope", "").split()
    try:
        account.redeem(parameters["refresh_token"])
    except (RefreshTokenReused, KeyError):
        return refusals.invalid_grant()
    scopes = tuple(scope for scope in wanted if scope in account.scopes) or account.scopes
    return json_reply(
        200,
        {
            "token_type": "Bearer",
            "access_token": account.access_token,
            "expires_in": int(account.token_lifetime),
            "refresh_token": account.refresh_token,
            "scope": " ".join(scopes),
            "account": {"uuid": account.uuid, "email_address": account.email},
            "organization": {"uuid": account.organization_uuid, "name": f"{account.email}'s Organization"},
        },
        [(b"cache-control", b"no-store")],
    )
