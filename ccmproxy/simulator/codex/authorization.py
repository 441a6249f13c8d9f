"""Who asks: a ChatGPT login or a key of the API, and the refusals of those who are neither. Pure."""

from __future__ import annotations

from ccmproxy.simulator.codex.error_answers import EXPIRED, REVOKED, UNPARSEABLE, Refusals
from ccmproxy.simulator.codex.simulated_account import CodexAccount, OpenAIKey
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import Refused

Authenticated = CodexAccount | OpenAIKey

#: What a ChatGPT login lacks for the OpenAI API, by the reports of those who tried.
NO_SCOPE = "You have insufficient permissions for this operation. Missing scopes: api.responses.write."


class Authenticator:
    """Finds the account or key of a request."""

    def __init__(self, accounts: list[CodexAccount], keys: list[OpenAIKey], refusals: Refusals) -> None:
        self._accounts = accounts
        self._keys = keys
        self._refusals = refusals

    def account(self, request: ReceivedRequest) -> CodexAccount:
        """The account whose access token came, for ChatGPT's backend; noted in ``request``. Raises Refused.

        ``ChatGPT-Account-Id`` may be missing, but not be another workspace's.
        """
        token = self._token(request)
        for account in self._accounts:
            if (state := account.token_state(token)) is None:
                continue
            request.account = account.name
            if state == "expired":
                raise self._unauthenticated("token_expired", EXPIRED, None)
            if state == "revoked":
                raise self._unauthenticated("token_invalidated", REVOKED, None)
            workspace = request.header(b"chatgpt-account-id")
            if workspace is not None and workspace.decode("latin-1") != account.account_id:
                message = "The token does not belong to this ChatGPT account"
                raise Refused(self._refusals.error(403, "invalid_request_error", "account_mismatch", message))
            return account
        raise self._unauthenticated("invalid_token", UNPARSEABLE)

    def key(self, request: ReceivedRequest) -> OpenAIKey:
        """The key that came, for the OpenAI API; noted in ``request``. Raises Refused."""
        token = self._token(request)
        for key in self._keys:
            if key.key == token:
                request.account = key.name
                return key
        for account in self._accounts:
            if account.token_state(token) is not None:
                request.account = account.name
                raise self._unauthenticated("missing_scope", NO_SCOPE)
        raise self._unauthenticated("invalid_api_key", "Incorrect API key provided.")

    def knows(self, request: ReceivedRequest) -> bool:
        """Whether the bearer token, good or not, is one of this provider's."""
        token = _bearer(request)
        if token is None:
            return False
        return any(key.key == token for key in self._keys) or any(
            account.token_state(token) is not None for account in self._accounts
        )

    def _token(self, request: ReceivedRequest) -> str:
        token = _bearer(request)
        if token is None:
            raise self._unauthenticated(None, "You didn't provide an API key.")
        return token

    def _unauthenticated(
        self, code: str | None, message: str, kind: str | None = "invalid_request_error"
    ) -> Refused:
        return Refused(self._refusals.error(401, kind, code, message))


def _bearer(request: ReceivedRequest) -> str | None:
    scheme, _, token = (request.header(b"authorization") or b"").decode("latin-1").partition(" ")
    return token if scheme.lower() == "bearer" and token else None
