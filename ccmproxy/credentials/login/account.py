"""An account with an OAuth login: refreshes it, polls the usage, and interrupts requests at a limit (spec 3, 5)."""

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
from ccmproxy.state.events import (
    TimePassed,
    TokenAvailable,
    TokenUnavailable,
)


@dataclass(frozen=True, slots=True)
class LoginPlace:
    """Where a login is stored.

    ``watched_path``: the file to watch for changes, or None. ``lock_path``: the path of the official client's lock
    (:func:`ccmproxy.credentials.login.lock.lock_path`), or None if that client takes no lock.
    """

    store: ICredentialStore
    watched_path: str | None = None
    lock_path: str | None = None


@dataclass(frozen=True, slots=True)
class UpstreamAccess:
    """The addresses of an account's upstream, and the connections to it.

    ``outbound``: makes the connections for refreshes and polls (F30). ``connections``: the pool of connections to the
    API in ``urls``, through the same outbound. ``key_connections``: the pool of connections to the API for keys, if
    ``urls`` has a separate one.
    """

    urls: UpstreamURLs
    outbound: IOutbound
    connections: ConnectionPool
    key_connections: ConnectionPool | None = None

    def for_logins(self) -> Upstream:
        """Return the upstream for requests that are sent with a login."""
        return upstream_of(self.urls.api_url, self.connections)

    def for_keys(self) -> Upstream:
        """Return the upstream for requests that are sent with a key."""
        if self.urls.key_api_url and self.key_connections is not None:
            return upstream_of(self.urls.key_api_url, self.key_connections)
        return self.for_logins()


@implementer(ICredential)
class LoginAccount(Credential):
    """A default credential whose login is in a store. The store may also hold a key of the commercial API (spec 3.1,
    Codex), and a login and a key may replace each other at any time.

    There is no activity before :meth:`start`, and none after the Deferred of :meth:`stop` has fired.
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
        """``random`` returns numbers in [0, 1). ``plan_weight`` replaces the weight of the account's plan. ``watcher``
        reports changes of the watched path. ``fetch`` makes the requests of refreshes and polls instead of the
        outbound. ``now`` returns Unix seconds; its default is ``clock.seconds``.
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
        """Read the login, watch its file and poll the usage. A login that cannot be read raises no error; the account
        is then unavailable. Idempotent."""
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
        """Yield the problems with the place of the login, so that they are reported at the start and not hours later,
        when the token expires."""
        exposure = FileStore(self._watched_path).exposure() if self._watched_path is not None else None
        if exposure is not None:
            yield exposure
        obstacle = self._lock.obstacle() if self._lock is not None else None
        if obstacle is not None:
            yield obstacle

    def stop(self) -> Deferred[None]:
        """End the timers, the watch and the polls. Fires when a refresh that must not be lost is over (at most 10 s).

        Leases stay valid until they are closed; closing the connections is left to the caller.
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
        """Whether the store holds a key instead of a login."""
        return isinstance(self._keeper.authorization, ApiKey)

    def poll_if_stale(self) -> None:
        """Start a poll if the known usage is out of date, and reread a login that is missing (at most every 2 s)."""
        if self._running:
            self._keeper.reload_on_demand()
            self._poller.poll_if_stale()

    def reconfigure(self, caps: Caps, plan_weight: float | None) -> None:
        """Apply a reloaded configuration. Requests in flight go on unless a new cap is already reached."""
        self.caps = caps
        self._plan_weight = plan_weight
        authorization = self._keeper.authorization
        if self._running and authorization is not None:
            self._apply(TokenAvailable(self._weight(authorization)))
        else:
            self._apply(TimePassed())

    # What leases call -------------------------------------------------------------------------------------

    async def authorize(self) -> Authorization:
        """Return the token or key to send, after refreshing it if that is due. Raises CredentialUnavailable when there
        is none."""
        return await self._keeper.authorize()

    async def recover(self, rejected: Authorization, caller: str = "") -> Authorization:
        """Return another token than ``rejected`` (spec 3.4). Raises CredentialUnavailable when there is no other."""
        return await self._keeper.recover(rejected)

    @property
    def upstream(self) -> Upstream:
        """The upstream for requests that are sent with a login."""
        return self._upstream

    def upstream_for(self, authorization: Authorization) -> Upstream:
        """Return the upstream for requests that are sent with ``authorization``."""
        return self._key_upstream if isinstance(authorization, ApiKey) else self._upstream

    def close_connections(self) -> None:
        """Close idle connections now, and the others when their requests are done."""
        self._upstream.connections.close()
        self._key_upstream.connections.close()

    # Login ------------------------------------------------------------------------------------------------

    def _weight(self, authorization: Login) -> float:
        if self._plan_weight is not None:
            return self._plan_weight
        return self._format.plan_weight(authorization)

    def _file_changed(self) -> None:
        """Reload the login: the watcher saw the file change, appear or disappear."""
        if not self._running:
            return
        known = self._access_token
        self._keeper.load(changed=True)
        if known is not None and self._access_token != known:
            # The new login may belong to another account, to which the known windows do not apply.
            self._poller.poll()

    def _login_changed(self) -> None:
        """Update the state: the keeper has another login, another problem, or more facts about the login."""
        authorization = self._keeper.authorization
        if authorization is None:
            self._apply(TokenUnavailable(self._keeper.problem or "credential unavailable"))
            return
        organization = authorization.account_id if isinstance(authorization, OAuthToken) else None
        self._apply(TokenAvailable(self._weight(authorization), organization or ""))
        if isinstance(authorization, OAuthToken) and authorization.access_token != self._access_token:
            self._access_token = authorization.access_token
            if self._poller.failures:
                self._poller.poll()  # A poll that failed with the old token may succeed with the new one.
        self._poller.poll_if_stale()

    def _token_failed(self, message: str) -> None:
        self._poller.token_failed(message)
