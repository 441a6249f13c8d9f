"""Claude's token endpoint: refresh tokens that can be used once. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ccmproxy.simulator.claude.error_answers import ErrorAnswers
from ccmproxy.simulator.claude.simulated_account import ClaudeAccount
from ccmproxy.simulator.replies import json_reply
from ccmproxy.simulator.steps import Reply
from ccmproxy.simulator.token_request import refresh_problem

#: Client id of the official client (spec 2).
CLIENT_ID = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"


def refresh(parameters: Mapping[str, str], account: ClaudeAccount | None, errors: ErrorAnswers) -> Reply:
    """The response of the token endpoint; a success rotates the account's tokens."""
    problem = refresh_problem(parameters, account, CLIENT_ID)
    if problem == "grant_type":
        return errors.oauth_error("unsupported_grant_type", "Only refresh_token is simulated")
    if problem == "client":
        return errors.oauth_error("invalid_client", "Unknown client")
    if problem is not None or account is None:
        return errors.invalid_grant()
    wanted = parameters.get("scope", "").split()
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
