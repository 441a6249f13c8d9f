"""Authentication: access tokens of accounts, keys, and the real service's refusals of everything else. Pure."""

from __future__ import annotations

from ccmproxy.simulator.accounts import find_key, find_login
from ccmproxy.simulator.claude.error_answers import EXPIRED, NO_OAUTH_FEATURE, REVOKED, ErrorAnswers
from ccmproxy.simulator.claude.simulated_account import ApiKeyAccount, ClaudeAccount
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import RequestRefused

#: The feature that a request with an access token must name in ``anthropic-beta``.
OAUTH_FEATURE = b"oauth-2025-04-20"

Authenticated = ClaudeAccount | ApiKeyAccount


class Authenticator:
    """Knows the accounts and keys of an upstream; the lists may grow."""

    def __init__(
        self, accounts: list[ClaudeAccount], keys: list[ApiKeyAccount], errors: ErrorAnswers
    ) -> None:
        self._accounts = accounts
        self._keys = keys
        self._errors = errors

    def authenticate(self, request: ReceivedRequest) -> Authenticated:
        """The account or key of a request, which is noted in the request. Raises RequestRefused.

        A bearer token takes precedence over a key.
        """
        if request.header(b"authorization") is not None:
            if (token := request.bearer) is None:
                raise self._unauthenticated("Invalid authorization header")
            return self._bearer(request, token)
        key = request.header(b"x-api-key")
        if key is None:
            raise self._unauthenticated("x-api-key header is required")
        if (found := find_key(self._keys, key.decode("latin-1"))) is None:
            raise self._unauthenticated("invalid x-api-key")
        request.account = found.name
        return found

    def subscription(self, request: ReceivedRequest) -> ClaudeAccount:
        """The same, for endpoints that only a login with the profile scope may use. Raises RequestRefused."""
        account = self.authenticate(request)
        if not isinstance(account, ClaudeAccount):
            raise self._unauthenticated("OAuth authentication is required")
        if "user:profile" not in account.scopes:
            message = "OAuth token does not meet scope requirement user:profile"
            raise RequestRefused(self._errors.error(403, "permission_error", message))
        return account

    def _bearer(self, request: ReceivedRequest, token: str) -> Authenticated:
        account, state = find_login(self._accounts, token)
        if account is not None:
            request.account = account.name
            if OAUTH_FEATURE not in request.items(b"anthropic-beta"):
                raise self._unauthenticated(NO_OAUTH_FEATURE)
            if state == "expired":
                raise self._unauthenticated(EXPIRED)
            if state == "revoked":
                raise RequestRefused(self._errors.error(403, "permission_error", REVOKED))
            return account
        # The real service does not accept its keys as bearer tokens, but gateways do, and clients can be configured to
        # send them so.
        if (found := find_key(self._keys, token)) is None:
            raise self._unauthenticated("Invalid bearer token")
        request.account = found.name
        return found

    def _unauthenticated(self, message: str) -> RequestRefused:
        return RequestRefused(self._errors.error(401, "authentication_error", message))
