"""The steps of a token refresh: read, lock, redeem, save, and only then use (spec 3.2, 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from ccmproxy.credentials.control import TIMEOUT, ControlError, Fetch, fetch_within
from ccmproxy.credentials.login.lock import DirectoryLock, LockUnavailable
from ccmproxy.credentials.login.stored_login import StoredLogin, is_login
from ccmproxy.dialects.oauth import (
    ApiKey,
    CredentialFileError,
    Login,
    OAuthToken,
    RefreshRefused,
    UpstreamURLs,
)
from ccmproxy.interfaces.credentials import CredentialUnavailable
from ccmproxy.interfaces.facets import IAccountFormat

#: Shortest delay between a refresh that failed temporarily and the next attempt (seconds).
RETRY_DELAY = 5.0
#: Attempts, and seconds between them, to read the store before a refreshed login is saved. Another program may be
#: rewriting the file at that moment.
_SETTLE_ATTEMPTS = 4
_SETTLE_DELAY = 0.1


class TokenRefresh:
    """Refreshes a login. The caller of :meth:`attempt` must make only one attempt at a time.

    ``redeeming``: whether a refresh token is being redeemed, so that cancelling would lose its successor (F3).
    ``stopped``: set by the owner to prevent further redeeming.
    """

    log = Logger()

    def __init__(
        self,
        tag: str,
        login: StoredLogin,
        account_format: IAccountFormat,
        urls: UpstreamURLs,
        fetch: Fetch,
        clock: IReactorTime,
        lock: DirectoryLock | None,
        now: Callable[[], float],
    ) -> None:
        """``lock``: the lock of the official client, or None if that takes none. ``now`` returns Unix seconds."""
        self.redeeming = False
        self.stopped = False
        self._tag = tag
        self._login = login
        self._format = account_format
        self._urls = urls
        self._fetch = fetch
        self._clock = clock
        self._lock = lock
        self._now = now

    async def attempt(self, rejected: str | None) -> Login:
        """Return the login, after refreshing it if that is due. ``rejected``: an access token that the upstream
        refused, and that is replaced even if it has not expired.

        Raises only CredentialUnavailable. It is hard when only a change of the store can help; else it is soft, and
        another attempt may succeed.
        """
        try:
            return await self._refresh(rejected)
        except CredentialUnavailable:
            raise
        except CancelledError:
            raise CredentialUnavailable("credential is being shut down") from None
        except Exception:
            self.log.failure("{tag}: token refresh failed", tag=self._tag)
            raise CredentialUnavailable("token refresh failed unexpectedly") from None

    async def _refresh(self, rejected: str | None) -> Login:
        """Return the login, after refreshing it if that is due. Raises CredentialUnavailable: hard when the lock cannot
        be taken or the login cannot be read, soft when no refresh is possible for now and the present token is not
        usable."""
        token = self._login.reread()
        if not self._needs_refresh(token, rejected):
            return token
        if self.stopped:
            raise CredentialUnavailable("credential is being shut down")
        assert isinstance(token, OAuthToken)
        blocked = self._login.refresh_blocked(token)
        if blocked is not None:
            return self._fall_back(token, rejected, blocked)
        lock: AbstractAsyncContextManager[None] = self._lock or nullcontext()
        try:
            async with lock:
                return await self._refresh_locked(rejected)
        except LockUnavailable as error:
            # The program that held the lock for so long may have refreshed the login.
            token = self._login.reread()
            if not self._needs_refresh(token, rejected):
                return token
            raise self._login.fail_hard(str(error)) from None

    async def _refresh_locked(self, rejected: str | None) -> Login:
        """Do what :meth:`_refresh` does, with the lock held. Raises CredentialUnavailable: hard when a new login could
        not be saved or was not saved, or when the refresh token is permanently refused, else soft."""
        token = self._login.reread()
        if not self._needs_refresh(token, rejected):
            return token
        assert isinstance(token, OAuthToken)
        document = self._login.document or b""
        try:
            self._login.check_writable()
        except CredentialFileError as error:
            message = f"token is not refreshed, because it could not be saved: {error}"
            raise self._login.fail_hard(message) from None
        if self._lock is not None and not self._lock.held:
            return self._fall_back(token, rejected, "the lock of the credential was lost")
        self.redeeming = True
        try:
            if self._login.unsaved is not None:
                refreshed = self._login.unsaved[1]
            else:
                try:
                    refreshed = await self._redeem(token)
                except RefreshRefused as refusal:
                    return self._refused(token, rejected, refusal)
            return await self._save(document, token, refreshed, rejected)
        finally:
            self.redeeming = False

    def _needs_refresh(self, authorization: Login, rejected: str | None) -> bool:
        """Return whether ``authorization`` must be refreshed. Raises CredentialUnavailable when it was rejected and
        cannot be refreshed."""
        if isinstance(authorization, ApiKey):
            return False
        if self._login.unsaved is not None:
            return True
        if authorization.access_token == rejected:
            if not self._format.can_refresh(authorization):
                raise CredentialUnavailable("the upstream refused the credential, and it cannot be refreshed")
            return True
        return self._format.refresh_due(authorization, self._now())

    async def _redeem(self, token: OAuthToken) -> OAuthToken:
        """Redeem the refresh token at the token endpoint. Raises RefreshRefused when the endpoint refuses or does not
        answer."""
        request = self._format.refresh_request(token, self._urls)
        try:
            answer = await fetch_within(TIMEOUT, self._fetch, request, self._clock)
        except ControlError as error:
            raise RefreshRefused(f"token endpoint: {error}") from None
        return self._format.refresh_answer(answer.status, answer.headers, answer.body, token, self._now())

    def _refused(self, token: OAuthToken, rejected: str | None, refusal: RefreshRefused) -> Login:
        """Handle a refused refresh: use a token that another process has stored meanwhile (F2), or else record the
        refusal and fall back on the present token.

        Raises CredentialUnavailable when there is no token to fall back on.
        """
        present = self._login.reread()
        if not is_login(present, token):
            if not self._needs_refresh(present, rejected):
                return present
        message = f"token refresh failed: {refusal}"
        self.log.warn("{tag}: {problem}", tag=self._tag, problem=message)
        if refusal.permanent:
            raise self._login.refused_for_good(token)
        if refusal.rate_limited and refusal.retry_after is None:
            pause = float("inf")
        else:
            pause = max(refusal.retry_after or 0.0, RETRY_DELAY)
        self._login.block_refresh(self._now() + pause, message)
        return self._fall_back(token, rejected, message)

    def _fall_back(self, token: OAuthToken, rejected: str | None, message: str) -> OAuthToken:
        """Return ``token``. Raises a soft CredentialUnavailable with ``message`` when it is rejected or expired."""
        if token.access_token == rejected or (
            token.expires_at is not None and self._now() >= token.expires_at
        ):
            raise CredentialUnavailable(message)
        return token

    async def _save(
        self, document: bytes, old: OAuthToken, refreshed: OAuthToken, rejected: str | None
    ) -> Login:
        """Write the refreshed login to the store, and only then use it (F3). ``document``: the content of the store
        with the old login.

        Raises CredentialUnavailable: hard when the login cannot be saved, soft when another program has meanwhile
        stored a login that is not usable.
        """
        present: Login = old
        for attempt in range(_SETTLE_ATTEMPTS):
            if attempt:
                await deferLater(self._clock, _SETTLE_DELAY)
            try:
                document, present = self._login.read()
                break
            except CredentialFileError:
                # Another program may be rewriting the store. If the store remains missing or broken, this process has
                # the only copy of the login, and saves it in the old document.
                pass
        if not is_login(present, old):
            self.log.warn("{tag}: another login was stored during the refresh; it is used", tag=self._tag)
            self._login.unsaved = None
            self._login.load()
            if isinstance(present, ApiKey):
                return present
            return self._fall_back(present, rejected, "the login was replaced by one that has expired")
        try:
            self._login.write(document, refreshed)
        except Exception as error:
            # Whatever the error is, the only copy of the login must not be lost.
            self._login.unsaved = (old, refreshed)
            raise self._not_saved(error) from None
        saved = self._login.saved()
        self.log.info("{tag}: token refreshed", tag=self._tag, expires_at=getattr(saved, "expires_at", None))
        self._login.take(saved, None)
        return saved

    def _not_saved(self, error: Exception) -> CredentialUnavailable:
        reason = error.strerror if isinstance(error, OSError) else ""
        if isinstance(error, CredentialFileError):
            reason = str(error)
        message = f"the refreshed token could not be saved: {reason or type(error).__name__}"
        self.log.critical(
            "{tag}: {problem}; saving it is tried again, but if the process ends before that succeeds, the account has"
            " to be logged in again",
            tag=self._tag,
            problem=message,
        )
        return self._login.fail_hard(message)
