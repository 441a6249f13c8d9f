"""OpenAI's token endpoint: refresh tokens that can be used once, and errors that tell why one is refused. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ccmproxy.simulator.accounts import RefreshTokenReused
from ccmproxy.simulator.codex.error_answers import Refusals
from ccmproxy.simulator.codex.simulated_account import CLIENT_ID, CodexAccount
from ccmproxy.simulator.replies import json_reply
from ccmproxy.simulator.steps import Reply


def refreshing_account(parameters: dict[str, str], accounts: Iterable[CodexAccount]) -> CodexAccount | None:
    """The account whose refresh token, present or past, was sent."""
    token = parameters.get("refresh_token", "")
    return next((account for account in accounts if account.knows_refresh_token(token)), None)


def refresh(parameters: dict[str, str], account: CodexAccount | None, refusals: Refusals) -> Reply:
    """The answer of the token endpoint; a success rotates the account's tokens.

    Refusals have the codes that clients know as final: ``refresh_token_reused`` (which logs the account out),
    ``refresh_token_expired``, ``refresh_token_invalidated`` (logged out, or nobody's).
    """
    if parameters.get("grant_type") != "refresh_token":
        message = "Only refresh_token is simulated"
        return refusals.error(400, "invalid_request_error", "unsupported_grant_type", message)
    if parameters.get("client_id") != CLIENT_ID:
        return refusals.error(401, "invalid_request_error", "invalid_client", "Unknown client")
    if account is None:
        return refusals.refresh_refused("refresh_token_invalidated")
    if account.refresh_token_expired and parameters["refresh_token"] == account.refresh_token:
        account.counters.refused_refreshes += 1
        return refusals.refresh_refused("refresh_token_expired")
    try:
        account.redeem(parameters["refresh_token"])
    except RefreshTokenReused:
        return refusals.refresh_refused("refresh_token_reused")
    except KeyError:
        return refusals.refresh_refused("refresh_token_invalidated")
    return json_reply(
        200,
        {
            "access_token": account.access_token,
            "expires_in": int(account.token_lifetime),
            "id_token": account.id_token,
            "refresh_token": account.refresh_token,
            "scope": "openid profile email offline_access",
            "token_type": "bearer",
        },
        [(b"cache-control", b"no-store")],
    )
