"""An account with an OAuth login: kept fresh, its usage polled, its requests told when it is used up (spec 3, 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.credentials.control import ControlClient, Fetch
from ccmproxy.credentials.credential import Credential
from ccmproxy.credentials.destination import Upstream, upstream_of
from ccmproxy.credentials.login.file import FileStore
from ccmproxy.credentials.login.lock import DirectoryLock
from ccmproxy.credentials.login.token import TokenKeeper
from ccmproxy.credentials.login.watch import FileWatch, FileWatcher
from ccmproxy.credentials.polling import UsagePoller
from ccmproxy.dialects.oauth import ApiKey, Authorization, Login, OAuthToken, UpstreamURLs
from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.interfaces.credentials import ICredential, ICredentialStore
from ccmproxy.interfaces.facets import IAccountFormat
from ccmproxy.interfaces.network import IOutbound
from ccmproxy.state.availability import Caps
from ccmproxy.state.transitions import TimePassed, TokenAvailable, TokenUnavailable


@dataclass(frozen=True, slots=True)
class LoginPlace:
    """Where a login is kept.

    ``watched_path``: the file whose changes are to be noticed, None = none. ``lock_path``: of the official client's
    lock (:func:`ccmproxy.credentials.login.lock.lock_path`), None where there is no such custom.
    """

    store: ICredentialStore
    watched_path: str | None = None
    lock_path: str | None = None


@dataclass(frozen=True, slots=True)
class UpstreamAccess:
    """Where the upstream of an account is, and the ways there.

    ``outbound``: the way out for refreshes and polls (F30). ``connections``: to the API of ``urls``, through the same
    outbound. ``key_connections``: to the API for keys, where ``urls`` names one of its own.
    """

    urls: UpstreamURLs
    outbound: IOutbound
    connections: ConnectionPool
    key_connections: ConnectionPool | None = None

    def for_logins(self) -> Upstream:
        """Where requests go that are sent with a login."""
        return upstream_of(self.urls.api_url, self.connections)

    def for_keys(self) -> Upstream:
        """Where requests go that are sent with a key."""
        if self.urls.key_api_url and self.key_connections is not None:
            return upstream_of(self.urls.key_api_url, self.key_connections)
        return self.for_logins()


@implementer(ICredential)
class LoginAccount(Credential):
    """A default credential whose login is in a store. The store may also hold a key of the commercial API (spec 3.1,
    Codex), and one of them may take the other's place at any time.

    Does nothing before :meth:`start`; nothing is left after :meth:`stop` has fired.
    """

    log = Logger()

    def __init__(
        self,
        tag: str,
        place: LoginPlace,
        account_format: IAccountFormat,
        access: UpstreamAccess,
        clock: IReactorTime,
        random: Callable[[], float],
        *,
        caps: Caps = Caps(),  # noqa: B008 - frozen
        plan_weight: float | None = None,
        watcher: FileWatcher | None = None,
        fetch: Fetch | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        """``random``: numbers in [0, 1). ``plan_weight``: replaces what the plan says. ``watcher``: tells of changes of
        the watched path. ``fetch``: makes refreshes and polls in place of the outbound. ``now``: Unix seconds; left
        out, ``clock`` tells them.
        """
        super().__init__(tag, caps, clock, now)
        self._upstream = access.for_logins()
        self._key_upstream = access.for_keys()
        self._format = account_format
        self._plan_weight = plan_weight
        self._watcher = watcher
        self._watched_path = place.watched_path
        self._watch: FileWatch | None = None
        self._access_token: str | None = None
        if fetch is None:
            fetch = ControlClient(clock, access.outbound).fetch
        self._lock: DirectoryLock | None = None
        if place.lock_path is not None:
            self._lock = DirectoryLock(place.lock_path, clock, random, self._now)
        self._keeper = TokenKeeper(
            tag,
            place.store,
            account_format,
            access.urls,
            fetch,
            clock,
            changed=self._login_changed,
            failed=self._token_failed,
            lock=self._lock,
            now=self._now,
        )
        self._poller = UsagePoller(
            tag,
            self._keeper,
            account_format,
            access.urls,
            fetch,
            clock,
            self._apply,
            last_update=lambda: self.state.last_update,
            weight=self._weight,
            now=self._now,
        )

    # Life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Read the login, watch its file, ask for the usage. A login that cannot be read is no error."""
        if self._running:
            return
        self._running = True
        if self._watcher is not None and self._watched_path is not None:
            self._watch = self._watcher.watch(self._watched_path, self._file_changed)
        for problem in self._obstacles():
            self.log.warn("{tag}: {problem}", tag=self.tag, problem=problem)
        self._keeper.load()
        self._poller.start()

    def _obstacles(self) -> Iterator[str]:
        """What is wrong with the place of the login, known now and not hours later, when the token expires."""
        exposure = FileStore(self._watched_path).exposure() if self._watched_path is not None else None
        if exposure is not None:
            yield exposure
        obstacle = self._lock.obstacle() if self._lock is not None else None
        if obstacle is not None:
            yield obstacle

    def stop(self) -> Deferred[None]:
        """End timers, watch and polls. Fires when a refresh that must not be lost is over (at most 10 s).

        Leases stay valid until they are closed; connections are the caller's business.
        """
        self._running = False
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        self._disarm()
        self._poller.stop()
        return self._keeper.stop()

    # ICredential ------------------------------------------------------------------------------------------

    @property
    def is_api_key(self) -> bool:
        """True while the store holds a key in place of a login."""
        return isinstance(self._keeper.authorization, ApiKey)

    def poll_if_stale(self) -> None:
        """Start a poll if what is known is old; look for a missing login again (at most every 2 s)."""
        if self._running:
            self._keeper.reload_on_demand()
            self._poller.poll_if_stale()

    def reconfigure(self, caps: Caps, plan_weight: float | None) -> None:
        """Take over what a reloaded configuration says; nothing in flight is touched unless a cap was reached."""
        self.caps = caps
        self._plan_weight = plan_weight
        authorization = self._keeper.authorization
        if self._running and authorization is not None:
            self._apply(TokenAvailable(self._weight(authorization)))
        else:
            self._apply(TimePassed())

    # What leases ask for ----------------------------------------------------------------------------------

    async def authorize(self) -> Authorization:
        """The token or key to send, refreshed first if it is due. Raises CredentialUnavailable where there is none."""
        return await self._keeper.authorize()

    async def recover(self, rejected: Authorization) -> Authorization:
        """Another token than ``rejected`` (spec 3.4). Raises CredentialUnavailable where no other is to be had."""
        return await self._keeper.recover(rejected)

    @property
    def upstream(self) -> Upstream:
        """Where requests go that are sent with a login."""
        return self._upstream

    def upstream_for(self, authorization: Authorization) -> Upstream:
        """Where requests go that are sent with ``authorization``."""
        return self._key_upstream if isinstance(authorization, ApiKey) else self._upstream

    def close_connections(self) -> None:
        """Close the connections that nobody uses, and the others when they are done."""
        self._upstream.connections.close()
        self._key_upstream.connections.close()

    # Login ------------------------------------------------------------------------------------------------

    def _weight(self, authorization: Login) -> float:
        if self._plan_weight is not None:
            return self._plan_weight
        return self._format.plan_weight(authorization)

    def _file_changed(self) -> None:
        """The watcher saw the file change, appear or go."""
        if not self._running:
            return
        known = self._access_token
        self._keeper.load(changed=True)
        if known is not None and self._access_token != known:
            # Perhaps another account's: what is known of the windows may not be its own.
            self._poller.poll()

    def _login_changed(self) -> None:
        """The keeper has another login, another problem, or learnt more of the login."""
        authorization = self._keeper.authorization
        if authorization is None:
            self._apply(TokenUnavailable(self._keeper.problem or "credential unavailable"))
            return
        organization = authorization.account_id if isinstance(authorization, OAuthToken) else None
        self._apply(TokenAvailable(self._weight(authorization), organization or ""))
        if isinstance(authorization, OAuthToken) and authorization.access_token != self._access_token:
            self._access_token = authorization.access_token
            if self._poller.failures:
                self._poller.poll()  # what failed with the old token may work with the new one
        self._poller.poll_if_stale()

    def _token_failed(self, message: str) -> None:
        self._poller.token_failed(message)
