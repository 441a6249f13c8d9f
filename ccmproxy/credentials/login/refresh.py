"""One attempt at a token refresh: read, lock, redeem, save, and only then use (spec 3.2, 3.3)."""

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

#: After a refresh that failed for the moment, requests do not wait for another attempt before this (seconds).
RETRY_DELAY = 5.0
#: Someone else may be in the middle of rewriting the file when a refreshed login is to be put into it.
_SETTLE_ATTEMPTS = 4
_SETTLE_DELAY = 0.1


class TokenRefresh:
    """Refreshes a login. One attempt at a time: whoever calls :meth:`attempt` sees to that.

    ``redeeming``: a refresh token is being redeemed; giving up now would lose its successor (F3). ``stopped``: nothing
    is redeemed any more; set from outside.
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
        """``lock``: of the official client, None where there is none. ``now``: Unix seconds."""
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
        """The login, refreshed if that is due. ``rejected``: an access token that will not do, however long it may be
        valid.

        Raises CredentialUnavailable only: a hard one where nothing but a change of the store will help, else a soft
        one, after which another attempt may succeed.
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
        """See :meth:`attempt`. Raises CredentialUnavailable: a hard one where the lock or the login cannot be had, a
        soft one where no refresh is possible for the moment and the present token will not do."""
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
            # Whoever held it that long may have refreshed the login.
            token = self._login.reread()
            if not self._needs_refresh(token, rejected):
                return token
            raise self._login.fail_hard(str(error)) from None

    async def _refresh_locked(self, rejected: str | None) -> Login:
        """The same under the lock. Raises CredentialUnavailable: a hard one where a new login could not be, or was not,
        saved, or the refresh token is refused for good, else a soft one."""
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
        """Raises CredentialUnavailable where ``authorization`` was rejected and cannot be refreshed."""
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
        """Ask the token endpoint. Raises RefreshRefused, also where there was no answer."""
        request = self._format.refresh_request(token, self._urls)
        try:
            answer = await fetch_within(TIMEOUT, self._fetch, request, self._clock)
        except ControlError as error:
            raise RefreshRefused(f"token endpoint: {error}") from None
        return self._format.refresh_answer(answer.status, answer.headers, answer.body, token, self._now())

    def _refused(self, token: OAuthToken, rejected: str | None, refusal: RefreshRefused) -> Login:
        """No new token. Another process may have got one meanwhile (F2); else remember what that means.

        Raises CredentialUnavailable where there is no token to fall back on.
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
        """``token`` as long as it has not expired. Raises CredentialUnavailable with ``message``, softly."""
        if token.access_token == rejected or (
            token.expires_at is not None and self._now() >= token.expires_at
        ):
            raise CredentialUnavailable(message)
        return token

    async def _save(
        self, document: bytes, old: OAuthToken, refreshed: OAuthToken, rejected: str | None
    ) -> Login:
        """Put the refreshed login into the store; only then is it used (F3). ``document`` held the old one.

        Raises CredentialUnavailable: a hard one where it cannot be saved, a soft one where somebody has stored a login
        meanwhile that will not do.
        """
        present: Login = old
        for attempt in range(_SETTLE_ATTEMPTS):
            if attempt:
                await deferLater(self._clock, _SETTLE_DELAY)
            try:
                document, present = self._login.read()
                break
            except CredentialFileError:
                # Perhaps in the middle of being rewritten. If it stays removed or broken, the only copy of the login
                # is in our hands: it goes into the document as it was.
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
            # Whatever it is: the only copy of the login must not go with it.
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
