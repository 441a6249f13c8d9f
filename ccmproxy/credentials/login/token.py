"""Keeps the login of one account fresh: one refresh at a time, saved before it is used (spec 3.2 to 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager, nullcontext

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ccmproxy.credentials.control import Fetch
from ccmproxy.credentials.login.forced_refreshes import ForcedRefreshes
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
from ccmproxy.interfaces.credentials import CredentialUnavailable, ICredentialStore, RefreshNotForced
from ccmproxy.interfaces.facets import IAccountFormat

#: The caller of :meth:`TokenKeeper.recover` that stands for our own polls, which have a budget of their own.
POLLS = object()
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
        now: Callable[[], float],
    ) -> None:
        """``changed`` is called after :attr:`authorization` or :attr:`problem` has changed; ``failed`` is called with a
        sentence after a soft failure to get a usable token (spec 3.2: the poll-failure counter decides). Neither
        callback may raise. ``lock``: the lock of the official client, or None if that takes none. ``now`` returns Unix
        seconds."""
        self._tag = tag
        self._format = account_format
        self._urls = urls
        self._fetch = fetch
        self._clock = clock
        self._failed = failed
        self._lock = lock
        self._now = now
        self._login = StoredLogin(store, account_format, clock, changed, self._now, tag)
        self._refresh = TokenRefresh(tag, self._login, account_format, urls, fetch, clock, lock, self._now)
        self._request_budget = ForcedRefreshes()
        self._poll_budget = ForcedRefreshes()
        self._flight: SingleFlight[Login] = SingleFlight(self._attempt_failed)
        self._stopped = False
        #: The timer of the next attempt after one that failed for a passing cause, and the access token that the
        #: upstream had refused before it, if any.
        self._retry: IDelayedCall | None = None
        self._rejected: str | None = None

    # Reading ----------------------------------------------------------------------------------------------

    @property
    def authorization(self) -> Login | None:
        """The usable token or key. If it is None, :attr:`problem` says why there is none."""
        return self._login.authorization

    @property
    def has_login(self) -> bool:
        """Whether the store holds a login or key, usable or not."""
        return self._login.document is not None

    @property
    def problem(self) -> str | None:
        """A sentence without secrets that says why there is no usable token or key, or None if there is one."""
        return self._login.problem

    def load(self, changed: bool = False) -> None:
        """Read the store. ``changed``: the store is known to have changed, which lifts every block (spec 3.2)."""
        self._login.load(changed)
        self._arm()
        if self._retry is None and self._login.unsaved is not None and not self._stopped:
            # The obstacle to saving it may be gone with the change.
            self._share(None).addErrback(lambda _: None)

    def reload_on_demand(self) -> None:
        """Read the store again if its login is unavailable, at most every 2 s."""
        if self._login.authorization is not None or self._stopped or not self._login.may_be_looked_for():
            return
        self._login.load()
        self._arm()

    def delay(self) -> tuple[str, float] | None:
        """Return why refreshes are put off, and until when (Unix seconds); None if they are not."""
        wait = self._login.blocked_for
        return (self._login.blocked_by, self._now() + wait) if wait > 0 else None

    def back_in(self) -> float | None:
        """Return the seconds until a login that is missing for a passing cause is looked for again. None if there is a
        login, or if it is missing for another cause."""
        return self._login.back_in()

    def has_made(self, access_token: str) -> bool:
        """Return whether our own last refresh made this access token; if not, somebody else has put it into the
        store."""
        return access_token == self._refresh.last_made

    # What requests call -----------------------------------------------------------------------------------

    async def authorize(self) -> Login:
        """Return the token or key to send, after refreshing it if that is due. Raises CredentialUnavailable when there
        is none or the refresh failed."""
        self.reload_on_demand()
        present = self._login.present()
        if isinstance(present, ApiKey) or not self._format.refresh_due(present, self._now()):
            return present
        return await self._share(None)

    async def recover(
        self, rejected: Authorization, caller: Hashable = None, *, may_force: bool = True
    ) -> Login:
        """Return another token than ``rejected``, which the upstream refused (spec 3.4).

        The present token is compared first, so that a late caller does not replace a token that an earlier caller has
        already refreshed (F4). Otherwise a refresh is forced, if ``may_force`` says so and the budget allows it
        (spec 12.3). ``caller``: who sent the request, None = nobody in particular; :data:`POLLS` has a budget of its
        own.

        Raises RefreshNotForced when no refresh may be forced, and CredentialUnavailable when there is no other token
        for another reason.
        """
        if self._flight.active:
            await self._share(None)
        if self.authorization is None or _same_secret(self.authorization, rejected):
            self.load()
        present = self._login.present()
        if not _same_secret(present, rejected):
            return await self.authorize()
        if isinstance(present, ApiKey):
            # No failure of a poll: a key has none, so that nothing would ever end such a failure.
            raise CredentialUnavailable("the upstream refused the API key")
        if not self._format.can_refresh(present):
            # The refusal counts as one that a refresh has not mended.
            raise RefreshNotForced("the upstream refused the credential, and it cannot be refreshed")
        if not may_force:
            raise RefreshNotForced("the upstream refused the credential")
        budget = self._poll_budget if caller is POLLS else self._request_budget
        # While refreshes are blocked, none is forced, so that nothing of the budget is used up.
        is_blocked = self._login.refresh_blocked(present) is not None
        if not is_blocked and not budget.take(None if caller is POLLS else caller, self._clock.seconds()):
            raise RefreshNotForced("the upstream goes on refusing the credential although it was refreshed")
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
        return self._flight.join(lambda: self._attempt(rejected))

    async def _attempt(self, rejected: str | None) -> Login:
        """Make one attempt, and set the timer for the next one if it failed for a passing cause."""
        if rejected is not None:
            self._rejected = rejected
        try:
            return await self._refresh.attempt(rejected)
        finally:
            self._arm()

    def _arm(self) -> None:
        """Set the timer of the next attempt at a refresh or at reading the store, if one is put off (spec 12.4). It is
        the only timer: requests that come meanwhile cause no attempt at a refresh."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        login = self._login
        waits = [wait for wait in (login.blocked_for, login.read_again_in()) if wait > 0]
        if not self._stopped and waits:
            self._retry = self._clock.callLater(min(waits), self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        login = self._login
        if login.unread is not None and login.unread.is_passing and login.read_again_in() <= 0:
            login.load()
        is_due = login.blocked_by and login.blocked_for <= 0
        if is_due and not self._flight.active:
            self._share(self._rejected).addErrback(lambda _: None)
        else:
            self._arm()

    def _attempt_failed(self, error: BaseException) -> None:
        if isinstance(error, CredentialUnavailable) and not error.hard and not self._stopped:
            self._failed(str(error))

    # The profile ------------------------------------------------------------------------------------------

    async def complete_profile(self) -> None:
        """Fetch plan, tier and identity if the login lacks them, and save with the login what its file can hold. Never
        fails."""
        token = self.authorization
        if not isinstance(token, OAuthToken):
            return
        filled = await fetch_profile(self._tag, token, self._format, self._urls, self._fetch)
        if filled == token:
            return
        if not self._login.holds(filled) and not await self._save_profile(token, filled):
            return  # A refresh came in between; the next poll fetches the profile again.
        if self.authorization == token:
            self._login.identify(filled)
            self._login.take(filled, None)

    async def _save_profile(self, token: OAuthToken, filled: OAuthToken) -> bool:
        """Save ``token`` with its profile. Returns False if the store does not hold ``token`` any more. A profile that
        cannot be saved is fetched again by the next process."""
        lock: AbstractAsyncContextManager[None] = self._lock or nullcontext()
        try:
            async with lock:
                document, present = self._login.read()
                if present != token or self._flight.active:
                    return False
                self._login.write(document, filled)
        except (LockUnavailable, CredentialFileError, OSError) as error:
            self.log.info("{tag}: profile not saved: {reason}", tag=self._tag, reason=type(error).__name__)
        return True

    # End --------------------------------------------------------------------------------------------------

    def stop(self) -> Deferred[None]:
        """Allow no further refresh. Fires when no refresh is in flight.

        A refresh whose refresh token may already be used up is given up to 10 s to finish, and so is another attempt to
        save a login that could not be saved yet; any other refresh is cancelled. The lock is released in all cases.
        """
        self._stopped = self._refresh.stopped = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if not self._refresh.redeeming and self._login.unsaved is None:
            if self._flight.active:
                self._flight.cancel()
            return succeed(None)
        # If this process has the only copy of the login, it tries for the last time to save it.
        self._login.unblock()

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
