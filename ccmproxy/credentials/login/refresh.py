"""The steps of a token refresh: read, lock, redeem, save, and only then use (spec 3.2, 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from ccmproxy.credentials.control import ControlError, Fetch
from ccmproxy.credentials.login.lock import DirectoryLock, LockUnavailable
from ccmproxy.credentials.login.stored_login import (
    FIRST_DELAY,
    LONGEST_DELAY,
    LONGEST_LOCAL_DELAY,
    LoginUnread,
    StoredLogin,
    is_login,
)
from ccmproxy.dialects.logins import INVALID_SCOPE
from ccmproxy.dialects.oauth import (
    ApiKey,
    ControlRequest,
    CredentialFileError,
    Login,
    OAuthToken,
    RefreshRefused,
    UpstreamURLs,
)
from ccmproxy.interfaces.credentials import CredentialUnavailable
from ccmproxy.interfaces.facets import IAccountFormat

#: Delay after the first 429 of the token endpoint that names none, and the longest one (seconds; spec 3.2 point 8).
LIMITED_FIRST_DELAY = 30.0
LIMITED_LONGEST_DELAY = 900.0
#: Attempts, and seconds between them, to read the store before a refresh, and before a refreshed login is saved.
#: Another program may be rewriting the file at that moment.
_SETTLE_ATTEMPTS = 4
_SETTLE_DELAY = 0.1


class TokenRefresh:
    """Refreshes a login. The caller of :meth:`attempt` must make only one attempt at a time.

    ``redeeming``: whether a refresh token is being redeemed, so that cancelling would lose its successor (F3).
    ``stopped``: set by the owner to prevent further redeeming. ``last_made``: the access token that the last refresh
    made, None before the first one.
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
        self.last_made: str | None = None
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
            raise _shut_down() from None
        except LoginUnread as unread:
            return self._wait(rejected, f"token is not refreshed: {unread}", str(unread.error))
        except Exception:
            self.log.failure("{tag}: token refresh failed", tag=self._tag)
            return self._wait(rejected, "token refresh failed unexpectedly")

    def _wait(self, rejected: str | None, message: str, detail: str = "") -> Login:
        """Delay the next attempt and fall back on the present login. Raises a soft CredentialUnavailable when there is
        none, or it is rejected or expired."""
        present = self._login.authorization
        if isinstance(present, OAuthToken):
            return self._put_off(present, rejected, message, detail=detail)
        if present is not None:
            return present
        self._login.postpone(message, longest=LONGEST_LOCAL_DELAY)
        raise self._login.delayed(message)

    async def _refresh(self, rejected: str | None) -> Login:
        """Return the login, after refreshing it if that is due. Raises CredentialUnavailable: hard when the login
        cannot be read or its refresh token is dead, soft when no refresh is possible for now and the present token is
        not usable."""
        await self._settled()
        token = self._login.reread()
        if not self._needs_refresh(token, rejected):
            return token
        if self.stopped and self._login.unsaved is None:
            raise _shut_down()
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
            assert isinstance(token, OAuthToken)
            message, detail = (f"token is not refreshed: {said}" for said in (error.public, error))
            return self._put_off(token, rejected, message, detail=detail)

    async def _settled(self) -> None:
        """Wait until the store holds a login, for at most 0.3 s: a program that does not write atomically may be
        rewriting it at this moment. Returns at once if the store cannot be read for another reason."""
        for _ in range(_SETTLE_ATTEMPTS - 1):
            try:
                self._login.read()
                return
            except CredentialFileError as error:
                if error.is_passing:
                    return
            await deferLater(self._clock, _SETTLE_DELAY)

    async def _refresh_locked(self, rejected: str | None) -> Login:
        """Do what :meth:`_refresh` does, with the lock held. Raises CredentialUnavailable: hard when the refresh token
        is permanently refused, else soft."""
        token = self._login.reread()
        if not self._needs_refresh(token, rejected):
            return token
        assert isinstance(token, OAuthToken)
        document = self._login.document or b""
        try:
            self._login.check_writable()
        except CredentialFileError as error:
            message, detail = (
                f"token is not refreshed, because it could not be saved: {said}"
                for said in (error.public, error)
            )
            return self._put_off(token, rejected, message, detail=detail)
        if self._lock is not None and not self._lock.held:
            return self._put_off(token, rejected, "the lock of the credential was lost")
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
        answer.

        A refusal of the scopes leaves the refresh token valid, and the scopes of the file are asked for instead: a
        login that an older client made was granted fewer than are usual today (spec 12.4).
        """
        try:
            return await self._ask(token, self._format.refresh_request(token, self._urls))
        except RefreshRefused as refusal:
            narrower = None
            if refusal.code == INVALID_SCOPE:
                narrower = self._format.narrower_refresh_request(token, self._urls)
            if narrower is None:
                raise
        self.log.info("{tag}: token is refreshed with the scopes that it has", tag=self._tag)
        return await self._ask(token, narrower)

    async def _ask(self, token: OAuthToken, request: ControlRequest) -> OAuthToken:
        """Return the login that the token endpoint answers to ``request``. Raises RefreshRefused when there is none."""
        try:
            answer = await self._fetch(request)
        except ControlError as error:
            raise RefreshRefused(f"token endpoint: {error}") from None
        return self._format.refresh_answer(answer.status, answer.headers, answer.body, token, self._now())

    def _refused(self, token: OAuthToken, rejected: str | None, refusal: RefreshRefused) -> Login:
        """Handle a refused refresh: use a token that another process has stored meanwhile (F2), or else record the
        refusal and fall back on the present token.

        Raises CredentialUnavailable when there is no token to fall back on.
        """
        present: Login = token
        try:
            present = self._login.reread()
        except LoginUnread:
            pass  # What the endpoint said is worth remembering all the same.
        if not is_login(present, token):
            if not self._needs_refresh(present, rejected):
                return present
        message = f"token refresh failed: {refusal}"
        if refusal.permanent:
            error = self._login.refused_for_good(token)
            self.log.error("{tag}: {problem}: {reason}", tag=self._tag, problem=message, reason=str(error))
            raise error
        if refusal.rate_limited:
            steps = LIMITED_FIRST_DELAY, LIMITED_LONGEST_DELAY, "rate limit"
        else:
            steps = FIRST_DELAY, LONGEST_DELAY, "endpoint"
        return self._put_off(token, rejected, message, refusal.retry_after, *steps)

    def _put_off(
        self,
        token: OAuthToken,
        rejected: str | None,
        message: str,
        named: float | None = None,
        first: float = FIRST_DELAY,
        longest: float = LONGEST_LOCAL_DELAY,
        kind: str = "machine",
        *,
        detail: str = "",
    ) -> OAuthToken:
        """Delay the next attempt because of a passing cause (see :meth:`.StoredLogin.postpone`), log it, and fall back
        on ``token``. ``detail``: ``message`` with what is only for the operator's log.

        Raises a soft CredentialUnavailable with ``message`` when ``token`` is rejected or expired."""
        self._login.postpone(message, named, first, longest, kind)
        self.log.warn("{tag}: {problem}", tag=self._tag, problem=self._login.with_next_try(detail or message))
        return self._fall_back(token, rejected, message)

    def _fall_back(self, token: OAuthToken, rejected: str | None, message: str) -> OAuthToken:
        """Return ``token``. Raises a soft CredentialUnavailable with ``message`` and the time of the next attempt when
        it is rejected or expired."""
        if token.access_token == rejected or (
            token.expires_at is not None and self._now() >= token.expires_at
        ):
            raise self._login.delayed(message)
        return token

    async def _save(
        self, document: bytes, old: OAuthToken, refreshed: OAuthToken, rejected: str | None
    ) -> Login:
        """Write the refreshed login to the store, and only then use it (F3). ``document``: the content of the store
        with the old login.

        Raises a soft CredentialUnavailable when the login cannot be saved for now and the old one is not usable any
        more, or when another program has meanwhile stored a login that is not usable.
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
            return self._not_saved(old, rejected, error)
        saved = self._login.saved(refreshed)
        self.last_made = refreshed.access_token
        self.log.info("{tag}: token refreshed", tag=self._tag, expires_at=getattr(saved, "expires_at", None))
        self._login.take(saved, None)
        return saved

    def _not_saved(self, old: OAuthToken, rejected: str | None, error: Exception) -> OAuthToken:
        """Handle a refreshed login that could not be saved: saving it is tried again, and ``old`` is used as long as it
        lasts. Raises a soft CredentialUnavailable when that is rejected or expired."""
        reason = (error.strerror if isinstance(error, OSError) else "") or type(error).__name__
        public, detail = reason, reason
        if isinstance(error, CredentialFileError):
            public, detail = error.public, str(error)
        message = f"the refreshed token could not be saved: {public}"
        self._login.postpone(message, longest=LONGEST_LOCAL_DELAY)
        self.log.critical(
            "{tag}: {problem}; if the process ends before it is saved, the account has to be logged in again",
            tag=self._tag,
            problem=self._login.with_next_try(f"the refreshed token could not be saved: {detail}"),
        )
        return self._fall_back(old, rejected, message)


def _shut_down() -> CredentialUnavailable:
    """Return the exception for a credential that makes no more refreshes. Its successor, or that of the whole process,
    may serve the request."""
    return CredentialUnavailable("credential is being shut down", retry_in=1.0)
