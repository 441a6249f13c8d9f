"""Authentication: a ChatGPT login or a key of the API, and the refusals of everything else. Pure."""

from __future__ import annotations

from ccmproxy.simulator.accounts import find_key, find_login
from ccmproxy.simulator.codex.error_answers import EXPIRED, REVOKED, UNPARSEABLE, ErrorAnswers
from ccmproxy.simulator.codex.simulated_account import CodexAccount, OpenAIKey
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import RequestRefused

Authenticated = CodexAccount | OpenAIKey

#: The scope that a ChatGPT login lacks for the OpenAI API, as users reported.
NO_SCOPE = "You have insufficient permissions for this operation. Missing scopes: api.responses.write."


class Authenticator:
    """Finds the account or key of a request."""

    def __init__(self, accounts: list[CodexAccount], keys: list[OpenAIKey], errors: ErrorAnswers) -> None:
        self._accounts = accounts
        self._keys = keys
        self._errors = errors

    def account(self, request: ReceivedRequest) -> CodexAccount:
        """The account of the access token, for ChatGPT's backend; noted in ``request``. Raises RequestRefused.

        ``ChatGPT-Account-Id`` may be missing, but must not name another workspace.
        """
        account, state = find_login(self._accounts, self._token(request))
        if account is None:
            raise self._unauthenticated("invalid_token", UNPARSEABLE)
        request.account = account.name
        if state == "expired":
            raise self._unauthenticated("token_expired", EXPIRED, None)
        if state == "revoked":
            raise self._unauthenticated("token_invalidated", REVOKED, None)
        workspace = request.header(b"chatgpt-account-id")
        if workspace is not None and workspace.decode("latin-1") != account.account_id:
            message = "The token does not belong to this ChatGPT account"
            raise RequestRefused(
                self._errors.error(403, "invalid_request_error", "account_mismatch", message)
            )
        return account

    def key(self, request: ReceivedRequest) -> OpenAIKey:
        """The key in the request, for the OpenAI API; noted in ``request``. Raises RequestRefused."""
        token = self._token(request)
        if (key := find_key(self._keys, token)) is not None:
            request.account = key.name
            return key
        account, _ = find_login(self._accounts, token)
        if account is not None:
            request.account = account.name
            raise self._unauthenticated("missing_scope", NO_SCOPE)
        raise self._unauthenticated("invalid_api_key", "Incorrect API key provided.")

    def knows(self, request: ReceivedRequest) -> bool:
        """Whether the bearer token, valid or not, is one of this provider's."""
        token = request.bearer
        if token is None:
            return False
        return find_key(self._keys, token) is not None or find_login(self._accounts, token)[0] is not None

    def _token(self, request: ReceivedRequest) -> str:
        token = request.bearer
        if token is None:
            raise self._unauthenticated(None, "You didn't provide an API key.")
        return token

    def _unauthenticated(
        self, code: str | None, message: str, kind: str | None = "invalid_request_error"
    ) -> RequestRefused:
        return RequestRefused(self._errors.error(401, kind, code, message))
