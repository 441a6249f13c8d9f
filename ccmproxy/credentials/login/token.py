"""The login of one account, kept fresh: one refresh at a time, saved before it is used (spec 3.2 to 3.4)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from ccmproxy.credentials.control import TIMEOUT, ControlError, Fetch, fetch_within
from ccmproxy.credentials.login.lock import DirectoryLock, LockUnavailable
from ccmproxy.credentials.login.profile import fetch_profile
from ccmproxy.credentials.single_flight import SingleFlight
from ccmproxy.dialects.oauth import (
    ApiKey,
    Authorization,
    CredentialFileError,
    Login,
    OAuthToken,
    RefreshRefused,
    UpstreamURLs,
)
from ccmproxy.interfaces.credentials import CredentialUnavailable, ICredentialStore
from ccmproxy.interfaces.facets import IAccountFormat

#: An unavailable login is looked for again on demand, at most this often (seconds; spec 3.1).
REREAD_INTERVAL = 2.0
#: After a refresh that failed for the moment, requests do not wait for another attempt before this (seconds).
RETRY_DELAY = 5.0
#: How many refreshes rejected tokens may force within FORCED_PERIOD (seconds): an account whose every token is
#: refused must not turn each request into a refresh.
FORCED_LIMIT = 3
FORCED_PERIOD = 60.0
#: How long a shutdown waits for a refresh whose answer would otherwise be lost (seconds).
STOP_GRACE = 10.0
#: Someone else may be in the middle of rewriting the file when a refreshed login is to be put into it.
_SETTLE_ATTEMPTS = 4
_SETTLE_DELAY = 0.1

_LOST = (
    "the login's refresh token is no longer accepted (another program may have used it, or its successor was lost"
    " before it could be saved): log in again with the official client"
)


class TokenKeeper:
    """Reads a login from its store and keeps it fresh. Concurrent callers share one refresh and its outcome.

    ``authorization`` is what can be used at present, None where ``problem`` says why there is nothing. ``changed`` is
    called after either changed; ``failed`` with a sentence when an attempt to get a usable token failed softly
    (spec 3.2: the poll-failure counter decides). Neither callback may raise.
    """

    log = Logger()

    def __init__(
        self,
        tag: str,
        store: ICredentialStore,
        account_format: IAccountFormat,
        urls: UpstreamURLs,
        fetch: Fetch,
        clock: IReactorTime,
        *,
        changed: Callable[[], None] = lambda: None,
        failed: Callable[[str], None] = lambda message: None,
        lock: DirectoryLock | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        self.authorization: Login | None = None
        self.problem: str | None = "credential not loaded yet"
        self._tag = tag
        self._store = store
        self._format = account_format
        self._urls = urls
        self._fetch = fetch
        self._clock = clock
        self._changed = changed
        self._failed = failed
        self._lock = lock
        self._now: Callable[[], float] = now or clock.seconds
        #: What was read or written last; None after a failed read.
        self._document: bytes | None = None
        self._last_read = float("-inf")
        #: Until the file changes: why the login cannot be used (hard failure).
        self._hard: str | None = None
        #: The refresh token that the token endpoint refused for good.
        self._dead_token: str | None = None
        #: No attempt at a refresh before this (Unix seconds), and why.
        self._blocked_until = 0.0
        self._blocked_by = ""
        #: A login that was refreshed and could not be saved, after the one that it replaces.
        self._unsaved: tuple[OAuthToken, OAuthToken] | None = None
        self._forced: deque[float] = deque(maxlen=FORCED_LIMIT)
        self._flight: SingleFlight[Login] = SingleFlight(self._attempt_failed)
        #: A refresh token is being redeemed: giving up now would lose its successor (F3).
        self._redeeming = False
        self._stopped = False

    # Reading ----------------------------------------------------------------------------------------------

    def load(self, changed: bool = False) -> None:
        """Read the store. ``changed``: it is known to have been touched, which lifts every block (spec 3.2)."""
        self._last_read = self._clock.seconds()
        try:
            document, authorization = self._read()
        except CredentialFileError as error:
            self._document = None
            self._set(None, str(error))
            return
        if self._unsaved is not None and not _is_login(authorization, self._unsaved[0]):
            self._unsaved = None  # what it should have replaced is gone
        if changed or document != self._document:
            self._hard = None
            self._blocked_until = 0.0
        self._document = document
        if self._hard is None and self._is_dead(authorization):
            self._hard = _LOST
        if self._hard is None:
            self._set(authorization, None)
        else:
            self._set(None, self._hard)

    def reload_on_demand(self) -> None:
        """Look for an unavailable login again, at most every 2 s."""
        if self.authorization is not None or self._stopped:
            return
        if 0 <= self._clock.seconds() - self._last_read < REREAD_INTERVAL:
            return
        self.load()
        if self._unsaved is not None:
            # Whatever kept it from being saved, a full disk perhaps, may be over.
            self._share(None).addErrback(lambda _: None)

    def _read(self) -> tuple[bytes, Login]:
        document = self._store.read()
        return document, self._format.parse(document)

    def _is_dead(self, authorization: Login) -> bool:
        """Is this a login that is due, and whose refresh token was refused for good?"""
        return (
            isinstance(authorization, OAuthToken)
            and authorization.refresh_token is not None
            and authorization.refresh_token == self._dead_token
            and self._format.refresh_due(authorization, self._now())
        )

    def _set(self, authorization: Login | None, problem: str | None) -> None:
        if (authorization, problem) == (self.authorization, self.problem):
            return
        self.authorization = authorization
        self.problem = problem
        self._changed()

    # What requests ask for --------------------------------------------------------------------------------

    async def authorize(self) -> Login:
        """The token or key to send, refreshed first if that is due. Raises CredentialUnavailable."""
        self.reload_on_demand()
        present = self._present()
        if isinstance(present, ApiKey) or not self._format.refresh_due(present, self._now()):
            return present
        return await self._share(None)

    async def recover(self, rejected: Authorization) -> Login:
        """Another token than ``rejected``, which the upstream refused (spec 3.4). Raises CredentialUnavailable.

        What is present is compared first: a late caller must not replace what an earlier one got (F4).
        """
        if self._flight.active:
            await self._share(None)
        if self.authorization is None or _same_secret(self.authorization, rejected):
            self.load()
        present = self._present()
        if not _same_secret(present, rejected):
            return await self.authorize()
        if isinstance(present, ApiKey) or not self._format.can_refresh(present):
            raise self._soft("the upstream refused the credential, and it cannot be refreshed")
        now = self._now()
        if len(self._forced) == FORCED_LIMIT and 0 <= now - self._forced[0] < FORCED_PERIOD:
            raise self._soft("the upstream goes on refusing the credential although it was refreshed")
        self._forced.append(now)
        for _ in range(2):
            # The first may be a refresh that someone else began meanwhile, for another reason.
            shared = await self._share(present.access_token)
            if not _same_secret(shared, rejected):
                return shared
        raise self._soft("the upstream refused the credential, and no other was to be had")

    def _present(self) -> Login:
        if self.authorization is None:
            raise CredentialUnavailable(self.problem or "credential unavailable", hard=self._hard is not None)
        return self.authorization

    def _soft(self, message: str) -> CredentialUnavailable:
        self._failed(message)
        return CredentialUnavailable(message)

    def _share(self, rejected: str | None) -> Deferred[Login]:
        """The outcome of the attempt in flight, or of a new one. A caller that gives up does not end it."""
        return self._flight.join(lambda: self._attempt(rejected))

    # The attempt ------------------------------------------------------------------------------------------

    async def _attempt(self, rejected: str | None) -> Login:
        """Spec 3.2. ``rejected``: an access token that will not do, however long it may be valid.

        Raises CredentialUnavailable only.
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

    def _attempt_failed(self, error: BaseException) -> None:
        if isinstance(error, CredentialUnavailable) and not error.hard and not self._stopped:
            self._failed(str(error))

    async def _refresh(self, rejected: str | None) -> Login:
        token = self._reread()
        if not self._needs_refresh(token, rejected):
            return token
        if self._stopped:
            raise CredentialUnavailable("credential is being shut down")
        blocked = self._blocked(token)
        if blocked is not None:
            return self._fall_back(token, rejected, blocked)
        lock: AbstractAsyncContextManager[None] = self._lock or nullcontext()
        try:
            async with lock:
                return await self._refresh_locked(rejected)
        except LockUnavailable as error:
            # Whoever held it that long may have refreshed the login.
            token = self._reread()
            if not self._needs_refresh(token, rejected):
                return token
            raise self._fail_hard(str(error)) from None

    async def _refresh_locked(self, rejected: str | None) -> Login:
        token = self._reread()
        if not self._needs_refresh(token, rejected):
            return token
        assert isinstance(token, OAuthToken)
        document = self._document or b""
        try:
            self._store.check_writable()
        except CredentialFileError as error:
            raise self._fail_hard(f"token is not refreshed, because it could not be saved: {error}") from None
        if self._lock is not None and not self._lock.held:
            return self._fall_back(token, rejected, "the lock of the credential was lost")
        self._redeeming = True
        try:
            if self._unsaved is not None:
                refreshed = self._unsaved[1]
            else:
                try:
                    refreshed = await self._redeem(token)
                except RefreshRefused as refusal:
                    return self._refused(token, rejected, refusal)
            return await self._save(document, token, refreshed, rejected)
        finally:
            self._redeeming = False

    def _reread(self) -> Login:
        """The store's login as it is now; also one that a hard failure keeps from being used."""
        self.load()
        if self._document is None:
            raise CredentialUnavailable(self.problem or "credential unavailable", hard=True)
        return self._format.parse(self._document)

    def _needs_refresh(self, authorization: Login, rejected: str | None) -> bool:
        if isinstance(authorization, ApiKey):
            return False
        if self._unsaved is not None:
            return True
        if authorization.access_token == rejected:
            if not self._format.can_refresh(authorization):
                raise CredentialUnavailable("the upstream refused the credential, and it cannot be refreshed")
            return True
        return self._format.refresh_due(authorization, self._now())

    def _blocked(self, authorization: Login) -> str | None:
        """Why no refresh may be tried now, if so. Raises CredentialUnavailable where none ever will."""
        assert isinstance(authorization, OAuthToken)
        if authorization.refresh_token is not None and authorization.refresh_token == self._dead_token:
            raise self._fail_hard(_LOST)
        if self._now() < self._blocked_until:
            return self._blocked_by
        return None

    async def _redeem(self, token: OAuthToken) -> OAuthToken:
        """Ask the token endpoint. Raises RefreshRefused, also where there was no answer."""
        request = self._format.refresh_request(token, self._urls)
        try:
            answer = await fetch_within(TIMEOUT, self._fetch, request, self._clock)
        except ControlError as error:
            raise RefreshRefused(f"token endpoint: {error}") from None
        return self._format.refresh_answer(answer.status, answer.headers, answer.body, token, self._now())

    def _refused(self, token: OAuthToken, rejected: str | None, refusal: RefreshRefused) -> Login:
        """No new token. Another process may have got one meanwhile (F2); else remember what that means."""
        present = self._reread()
        if not _is_login(present, token):
            if not self._needs_refresh(present, rejected):
                return present
        message = f"token refresh failed: {refusal}"
        self.log.warn("{tag}: {problem}", tag=self._tag, problem=message)
        if refusal.permanent:
            self._dead_token = token.refresh_token
            raise self._fail_hard(_LOST)
        if refusal.rate_limited and refusal.retry_after is None:
            pause = float("inf")
        else:
            pause = max(refusal.retry_after or 0.0, RETRY_DELAY)
        self._blocked_until = self._now() + pause
        self._blocked_by = message
        return self._fall_back(token, rejected, message)

    def _fall_back(self, token: Login, rejected: str | None, message: str) -> Login:
        """``token`` as long as it has not expired. Raises CredentialUnavailable with ``message``, softly."""
        assert isinstance(token, OAuthToken)
        if token.access_token == rejected or (
            token.expires_at is not None and self._now() >= token.expires_at
        ):
            raise CredentialUnavailable(message)
        return token

    async def _save(
        self, document: bytes, old: OAuthToken, refreshed: OAuthToken, rejected: str | None
    ) -> Login:
        """Put the refreshed login into the store; only then is it used (F3). ``document`` held the old one."""
        present: Login = old
        for attempt in range(_SETTLE_ATTEMPTS):
            if attempt:
                await deferLater(self._clock, _SETTLE_DELAY)
            try:
                document, present = self._read()
                break
            except CredentialFileError:
                # Perhaps in the middle of being rewritten. If it stays removed or broken, the only copy of the login
                # is in our hands: it goes into the document as it was.
                pass
        if not _is_login(present, old):
            self.log.warn("{tag}: another login was stored during the refresh; it is used", tag=self._tag)
            self._unsaved = None
            self.load()
            if isinstance(present, ApiKey):
                return present
            return self._fall_back(present, rejected, "the login was replaced by one that has expired")
        try:
            merged = self._format.merge(document, refreshed)
            self._store.write(merged)
        except Exception as error:
            # Whatever it is: the only copy of the login must not go with it.
            self._unsaved = (old, refreshed)
            reason = error.strerror if isinstance(error, OSError) else ""
            if isinstance(error, CredentialFileError):
                reason = str(error)
            message = f"the refreshed token could not be saved: {reason or type(error).__name__}"
            self.log.critical(
                "{tag}: {problem}; saving it is tried again, but if the process ends before that succeeds, the"
                " account has to be logged in again",
                tag=self._tag,
                problem=message,
            )
            raise self._fail_hard(message) from None
        self._unsaved = None
        self._hard = None
        self._document = merged
        saved = self._format.parse(merged)
        self.log.info("{tag}: token refreshed", tag=self._tag, expires_at=getattr(saved, "expires_at", None))
        self._set(saved, None)
        return saved

    def _fail_hard(self, message: str) -> CredentialUnavailable:
        """Nothing but a change of the file will help."""
        self._hard = message
        self._set(None, message)
        return CredentialUnavailable(message, hard=True)

    async def complete_profile(self) -> None:
        """Ask for plan and tier where the login does not hold them, and save them with it. Never fails."""
        token = self.authorization
        if not isinstance(token, OAuthToken):
            return
        filled = await fetch_profile(self._tag, token, self._format, self._urls, self._fetch, self._clock)
        if filled == token:
            return
        lock: AbstractAsyncContextManager[None] = self._lock or nullcontext()
        try:
            async with lock:
                document, present = self._read()
                if present != token or self._flight.active:
                    return  # a refresh came in between; the next poll asks again
                merged = self._format.merge(document, filled)
                self._store.write(merged)
                self._document = merged
        except (LockUnavailable, CredentialFileError, OSError) as error:
            self.log.info("{tag}: profile not saved: {reason}", tag=self._tag, reason=type(error).__name__)
        if self.authorization == token:
            self._set(filled, None)

    # End --------------------------------------------------------------------------------------------------

    def stop(self) -> Deferred[None]:
        """End. Fires when nothing is under way any more.

        A refresh whose refresh token may already have been used up is waited for, at most 10 s; any other is
        cancelled. The lock is released in both cases.
        """
        self._stopped = True
        if not self._flight.active:
            return succeed(None)
        if not self._redeeming:
            self._flight.cancel()
            return succeed(None)

        def over(_: object) -> None:
            if self._flight.active:
                self.log.critical("{tag}: shut down in the middle of a token refresh", tag=self._tag)
                self._flight.cancel()

        return self._share(None).addTimeout(STOP_GRACE, self._clock).addBoth(over)


def _same_secret(one: Login, other: Authorization) -> bool:
    """Would the upstream see the same token or key?"""
    if isinstance(one, OAuthToken) and isinstance(other, OAuthToken):
        return one.access_token == other.access_token
    return one == other


def _is_login(authorization: Login, token: OAuthToken) -> bool:
    """Are these the same access and refresh token, whatever else is known of them?"""
    return (
        isinstance(authorization, OAuthToken)
        and authorization.access_token == token.access_token
        and authorization.refresh_token == token.refresh_token
    )
