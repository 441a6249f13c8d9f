"""OpenAI's token endpoint: refresh tokens that can be used once, and errors with the reason of a refusal. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ccmproxy.simulator.codex.error_answers import ErrorAnswers
from ccmproxy.simulator.codex.simulated_account import CLIENT_ID, CodexAccount
from ccmproxy.simulator.replies import json_reply
from ccmproxy.simulator.steps import Reply
from ccmproxy.simulator.token_request import RefreshProblem, refresh_problem

#: Codes that clients treat as final.
_CODES: dict[RefreshProblem, str] = {
    "unknown": "refresh_token_invalidated",
    "expired": "refresh_token_expired",
    "reused": "refresh_token_reused",
}


def refresh(parameters: Mapping[str, str], account: CodexAccount | None, errors: ErrorAnswers) -> Reply:
    """The response of the token endpoint; a success rotates the account's tokens.

    Refusals have the codes that clients treat as final: ``refresh_token_reused`` (which logs the account out),
    ``refresh_token_expired``, ``refresh_token_invalidated`` (logged out, or unknown).
    """
    problem = refresh_problem(parameters, account, CLIENT_ID)
    if problem == "grant_type":
        message = "Only refresh_token is simulated"
        return errors.error(400, "invalid_request_error", "unsupported_grant_type", message)
    if problem == "client":
        return errors.error(401, "invalid_request_error", "invalid_client", "Unknown client")
    if problem is not None or account is None:
        return errors.refresh_refused(_CODES[problem or "unknown"])
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
