"""Who asks: access tokens of accounts, keys, and how the real service refuses everything else. Pure."""

from __future__ import annotations

from ccmproxy.simulator.claude.error_answers import EXPIRED, NO_OAUTH_FEATURE, REVOKED, Refusals
from ccmproxy.simulator.claude.simulated_account import ApiKeyAccount, ClaudeAccount
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import Refused

#: The feature that a request with an access token must name in ``anthropic-beta``.
OAUTH_FEATURE = b"oauth-2025-04-20"

Authenticated = ClaudeAccount | ApiKeyAccount


class Authenticator:
    """Knows the accounts and keys of an upstream; the lists may grow."""

    def __init__(self, accounts: list[ClaudeAccount], keys: list[ApiKeyAccount], refusals: Refusals) -> None:
        self._accounts = accounts
        self._keys = keys
        self._refusals = refusals

    def authenticate(self, request: ReceivedRequest) -> Authenticated:
        """Whose request it is; noted in it. A bearer token comes before a key. Raises Refused."""
        authorization = request.header(b"authorization")
        if authorization is not None:
            scheme, _, token = authorization.decode("latin-1").partition(" ")
            if scheme.lower() != "bearer" or not token:
                raise self._unauthenticated("Invalid authorization header")
            return self._bearer(request, token)
        key = request.header(b"x-api-key")
        if key is None:
            raise self._unauthenticated("x-api-key header is required")
        if (found := self._key(key.decode("latin-1"))) is None:
            raise self._unauthenticated("invalid x-api-key")
        request.account = found.name
        return found

    def subscription(self, request: ReceivedRequest) -> ClaudeAccount:
        """The same, for what only a login with the profile scope may ask. Raises Refused."""
        account = self.authenticate(request)
        if not isinstance(account, ClaudeAccount):
            raise self._unauthenticated("OAuth authentication is required")
        if "user:profile" not in account.scopes:
            message = "OAuth token does not meet scope requirement user:profile"
            raise Refused(self._refusals.error(403, "permission_error", message))
        return account

    def _bearer(self, request: ReceivedRequest, token: str) -> Authenticated:
        for account in self._accounts:
            if (state := account.token_state(token)) is None:
                continue
            request.account = account.name
            if OAUTH_FEATURE not in request.items(b"anthropic-beta"):
                raise self._unauthenticated(NO_OAUTH_FEATURE)
            if state == "expired":
                raise self._unauthenticated(EXPIRED)
            if state == "revoked":
                raise Refused(self._refusals.error(403, "permission_error", REVOKED))
            return account
        # The real service does not take its keys as bearer tokens; gateways do, and clients can be told to send them.
        if (found := self._key(token)) is None:
            raise self._unauthenticated("Invalid bearer token")
        request.account = found.name
        return found

    def _key(self, key: str) -> ApiKeyAccount | None:
        return next((account for account in self._keys if account.key == key), None)

    def _unauthenticated(self, message: str) -> Refused:
        return Refused(self._refusals.error(401, "authentication_error", message))
