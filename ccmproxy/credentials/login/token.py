"""Keeps the login of one account fresh: one refresh at a time, saved before it is used (spec 3.2 to 3.4)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ccmproxy.credentials.control import Fetch
from ccmproxy.credentials.login.lock import DirectoryLock, LockUnavailable
from ccmproxy.credentials.login.profile import fetch_profile
from ccmproxy.credentials.login.refresh import TokenRefresh
from ccmproxy.credentials.login.stored_login import StoredLogin
from ccmproxy.credentials.single_flight import SingleFlight
from ccmproxy.dialects.oauth import (
    ApiKey,
    Authorization,
    CredentialFileError,
    Login,
    OAuthToken,
    UpstreamURLs,
)
from ccmproxy.interfaces.credentials import CredentialUnavailable, ICredentialStore
from ccmproxy.interfaces.facets import IAccountFormat

#: Most refreshes that rejected tokens may force within FORCED_PERIOD (seconds). If the upstream refuses every token of
#: an account, its requests must not each cause a refresh.
FORCED_LIMIT = 3
FORCED_PERIOD = 60.0
#: Longest time that a shutdown waits for a refresh whose answer would otherwise be lost (seconds).
STOP_GRACE = 10.0


class TokenKeeper:
    """Reads a login from its store and keeps it fresh. Concurrent callers share one refresh and its outcome."""

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
        """``changed`` is called after :attr:`authorization` or :attr:`problem` has changed; ``failed`` is called with a
        sentence after a soft failure to get a usable token (spec 3.2: the poll-failure counter decides). Neither
        callback may raise. ``lock``: the lock of the official client, or None if that takes none. ``now`` returns Unix
        seconds; its default is ``clock.seconds``."""
        self._tag = tag
        self._format = account_format
        self._urls = urls
        self._fetch = fetch
        self._clock = clock
        self._failed = failed
        self._lock = lock
        self._now: Callable[[], float] = now or clock.seconds
        self._login = StoredLogin(store, account_format, clock, changed, self._now)
        self._refresh = TokenRefresh(tag, self._login, account_format, urls, fetch, clock, lock, self._now)
        self._forced: deque[float] = deque(maxlen=FORCED_LIMIT)
        self._flight: SingleFlight[Login] = SingleFlight(self._attempt_failed)
        self._stopped = False

    # Reading ----------------------------------------------------------------------------------------------

    @property
    def authorization(self) -> Login | None:
        """The usable token or key. If it is None, :attr:`problem` says why there is none."""
        return self._login.authorization

    @property
    def problem(self) -> str | None:
        """A sentence without secrets that says why there is no usable token or key, or None if there is one."""
        return self._login.problem

    def load(self, changed: bool = False) -> None:
        """Read the store. ``changed``: the store is known to have changed, which lifts every block (spec 3.2)."""
        self._login.load(changed)

    def reload_on_demand(self) -> None:
        """Read the store again if its login is unavailable, at most every 2 s."""
        if self._login.authorization is not None or self._stopped or not self._login.may_be_looked_for():
            return
        self._login.load()
        if self._login.unsaved is not None:
            # The obstacle to saving it, such as a full disk, may be gone.
            self._share(None).addErrback(lambda _: None)

    # What requests call -----------------------------------------------------------------------------------

    async def authorize(self) -> Login:
        """Return the token or key to send, after refreshing it if that is due. Raises CredentialUnavailable when there
        is none or the refresh failed."""
        self.reload_on_demand()
        present = self._login.present()
        if isinstance(present, ApiKey) or not self._format.refresh_due(present, self._now()):
            return present
        return await self._share(None)

    async def recover(self, rejected: Authorization) -> Login:
        """Return another token than ``rejected``, which the upstream refused (spec 3.4). Raises CredentialUnavailable
        when there is no other.

        The present token is compared first, so that a late caller does not replace a token that an earlier caller has
        already refreshed (F4).
        """
        if self._flight.active:
            await self._share(None)
        if self.authorization is None or _same_secret(self.authorization, rejected):
            self.load()
        present = self._login.present()
        if not _same_secret(present, rejected):
            return await self.authorize()
        if isinstance(present, ApiKey) or not self._format.can_refresh(present):
            raise self._soft("the upstream refused the credential, and it cannot be refreshed")
        now = self._now()
        if len(self._forced) == FORCED_LIMIT and 0 <= now - self._forced[0] < FORCED_PERIOD:
            raise self._soft("the upstream goes on refusing the credential although it was refreshed")
        self._forced.append(now)
        for _ in range(2):
            # The first one may be a refresh that another caller has started meanwhile, for another reason.
            shared = await self._share(present.access_token)
            if not _same_secret(shared, rejected):
                return shared
        raise self._soft("the upstream refused the credential, and no other was to be had")

    def _soft(self, message: str) -> CredentialUnavailable:
        self._failed(message)
        return CredentialUnavailable(message)

    def _share(self, rejected: str | None) -> Deferred[Login]:
        """Return the outcome of the attempt in flight, or of a new one. Cancelling does not end the attempt."""
        return self._flight.join(lambda: self._refresh.attempt(rejected))

    def _attempt_failed(self, error: BaseException) -> None:
        if isinstance(error, CredentialUnavailable) and not error.hard and not self._stopped:
            self._failed(str(error))

    # The plan ---------------------------------------------------------------------------------------------

    async def complete_profile(self) -> None:
        """Fetch plan and tier if the login lacks them, and save them with the login. Never fails."""
        token = self.authorization
        if not isinstance(token, OAuthToken):
            return
        filled = await fetch_profile(self._tag, token, self._format, self._urls, self._fetch, self._clock)
        if filled == token:
            return
        lock: AbstractAsyncContextManager[None] = self._lock or nullcontext()
        try:
            async with lock:
                document, present = self._login.read()
                if present != token or self._flight.active:
                    return  # A refresh came in between; the next poll fetches the profile again.
                self._login.write(document, filled)
        except (LockUnavailable, CredentialFileError, OSError) as error:
            self.log.info("{tag}: profile not saved: {reason}", tag=self._tag, reason=type(error).__name__)
        if self.authorization == token:
            self._login.take(filled, None)

    # End --------------------------------------------------------------------------------------------------

    def stop(self) -> Deferred[None]:
        """Allow no further refresh. Fires when no refresh is in flight.

        A refresh whose refresh token may already be used up is given up to 10 s to finish; any other is cancelled. The
        lock is released in both cases.
        """
        self._stopped = self._refresh.stopped = True
        if not self._flight.active:
            return succeed(None)
        if not self._refresh.redeeming:
            self._flight.cancel()
            return succeed(None)

        def over(_: object) -> None:
            if self._flight.active:
                self.log.critical("{tag}: shut down in the middle of a token refresh", tag=self._tag)
                self._flight.cancel()

        return self._share(None).addTimeout(STOP_GRACE, self._clock).addBoth(over)


def _same_secret(one: Login, other: Authorization) -> bool:
    """Return whether both would send the same token or key to the upstream."""
    if isinstance(one, OAuthToken) and isinstance(other, OAuthToken):
        return one.access_token == other.access_token
    return one == other
