"""One account: its login kept fresh, its state kept current, its requests told when it is used up (spec 3, 5)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
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
from ccmproxy.dialects.oauth import ApiKey, Authorization, Login, OAuthToken, RemoteToken, UpstreamURLs
from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.interfaces.credentials import CredentialUnavailable, ICredential, ICredentialStore
from ccmproxy.interfaces.facets import IAccountFormat
from ccmproxy.interfaces.network import IOutbound
from ccmproxy.state.availability import Caps
from ccmproxy.state.transitions import TimePassed, TokenAvailable, TokenUnavailable


@implementer(ICredential)
class Account(Credential):
    """A default credential: an OAuth login in a store, or a key of the commercial API.

    Does nothing before :meth:`start`; nothing is left after :meth:`stop` has fired.
    """

    log = Logger()

    def __init__(
        self,
        tag: str,
        source: ICredentialStore | ApiKey,
        account_format: IAccountFormat,
        urls: UpstreamURLs,
        outbound: IOutbound,
        connections: ConnectionPool,
        clock: IReactorTime,
        random: Callable[[], float],
        *,
        caps: Caps | None = None,
        plan_weight: float | None = None,
        watcher: FileWatcher | None = None,
        watched_path: str | None = None,
        lock_path: str | None = None,
        fetch: Fetch | None = None,
        now: Callable[[], float] | None = None,
        key_connections: ConnectionPool | None = None,
    ) -> None:
        """``source``: the store that holds the login, or the key itself.

        ``connections``: to the API of ``urls``, through ``outbound``; refreshes and polls go through ``outbound``
        too (F30), unless ``fetch`` replaces them. ``random``: numbers in [0, 1). ``plan_weight``: replaces what the
        plan says. ``watched_path``: the file whose changes ``watcher`` is to tell; ``lock_path``: of the official
        client's lock (:func:`ccmproxy.credentials.login.lock.lock_path`), None where there is no such custom. ``now``:
        Unix seconds; left out, ``clock`` tells them. ``key_connections``: to the API for keys, where ``urls`` has one.
        """
        super().__init__(tag, caps or Caps(), clock, now)
        self._upstream = upstream_of(urls.api_url, connections)
        self.key_upstream = self._upstream
        if urls.key_api_url and key_connections is not None:
            self.key_upstream = upstream_of(urls.key_api_url, key_connections)
        self._format = account_format
        self._plan_weight = plan_weight
        self._watcher = watcher
        self._watched_path = watched_path
        self._watch: FileWatch | None = None
        self._key: ApiKey | None = None
        self._lock: DirectoryLock | None = None
        self._keeper: TokenKeeper | None = None
        self._poller: UsagePoller | None = None
        self._access_token: str | None = None
        if isinstance(source, ApiKey):
            self._key = source
            return
        if fetch is None:
            fetch = ControlClient(clock, outbound).fetch
        if lock_path is not None:
            self._lock = DirectoryLock(lock_path, clock, random, self._now)
        self._keeper = TokenKeeper(
            tag,
            source,
            account_format,
            urls,
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
            urls,
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
        if self._key is not None:
            self._apply(TokenAvailable(self._weight(self._key)))
        if self._keeper is not None and self._poller is not None:
            if self._watcher is not None and self._watched_path is not None:
                self._watch = self._watcher.watch(self._watched_path, self._file_changed)
            if self._watched_path is not None:
                exposure = FileStore(self._watched_path).exposure()
                if exposure is not None:
                    self.log.warn("{tag}: {problem}", tag=self.tag, problem=exposure)
            obstacle = self._lock.obstacle() if self._lock is not None else None
            if obstacle is not None:
                # Known now, and not hours later, when the token expires.
                self.log.warn("{tag}: {problem}", tag=self.tag, problem=obstacle)
            self._keeper.load()
            self._poller.start()

    def stop(self) -> Deferred[None]:
        """End timers, watch and polls. Fires when a refresh that must not be lost is over (at most 10 s).

        Leases stay valid until they are closed; connections are the caller's business.
        """
        self._running = False
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        self._disarm()
        if self._poller is not None:
            self._poller.stop()
        return succeed(None) if self._keeper is None else self._keeper.stop()

    # ICredential ------------------------------------------------------------------------------------------

    @property
    def is_api_key(self) -> bool:
        """True where requests are authorized with a key: one of the configuration, or in the credential's file."""
        return isinstance(self._authorization(), ApiKey)

    def poll_if_stale(self) -> None:
        """Start a poll if what is known is old; look for a missing login again (at most every 2 s)."""
        if not self._running or self._keeper is None or self._poller is None:
            return
        self._keeper.reload_on_demand()
        self._poller.poll_if_stale()

    def reconfigure(self, caps: Caps, plan_weight: float | None) -> None:
        """Take over what a reloaded configuration says; nothing in flight is touched unless a cap was reached."""
        self.caps = caps
        self._plan_weight = plan_weight
        authorization = self._authorization()
        if self._running and authorization is not None:
            self._apply(TokenAvailable(self._weight(authorization)))
        else:
            self._apply(TimePassed())

    # What leases ask for ----------------------------------------------------------------------------------

    async def authorize(self) -> Authorization:
        """The token or key to send, refreshed first if it is due. Raises CredentialUnavailable."""
        if self._key is not None:
            return self._key
        assert self._keeper is not None
        return await self._keeper.authorize()

    async def recover(self, rejected: Authorization) -> Authorization:
        """Another token than ``rejected`` (spec 3.4). Raises CredentialUnavailable."""
        if self._keeper is None or isinstance(rejected, RemoteToken):
            raise CredentialUnavailable("the upstream refused the API key")
        return await self._keeper.recover(rejected)

    @property
    def upstream(self) -> Upstream:
        """Where requests go that are sent with a login."""
        return self._upstream

    def upstream_for(self, authorization: Authorization) -> Upstream:
        """Where requests go that are sent with ``authorization``."""
        return self.key_upstream if isinstance(authorization, ApiKey) else self._upstream

    def close_connections(self) -> None:
        """Close the connections that nobody uses, and the others when they are done."""
        self.upstream.connections.close()
        self.key_upstream.connections.close()

    # Login ------------------------------------------------------------------------------------------------

    def _authorization(self) -> Login | None:
        return self._key if self._keeper is None else self._keeper.authorization

    def _weight(self, authorization: Login) -> float:
        if self._plan_weight is not None:
            return self._plan_weight
        return self._format.plan_weight(authorization)

    def _file_changed(self) -> None:
        """The watcher saw the file change, appear or go."""
        if not self._running or self._keeper is None or self._poller is None:
            return
        known = self._access_token
        self._keeper.load(changed=True)
        if known is not None and self._access_token != known:
            # Perhaps another account's: what is known of the windows may not be its own.
            self._poller.poll()

    def _login_changed(self) -> None:
        """The keeper has another login, another problem, or learnt more of the login."""
        assert self._keeper is not None and self._poller is not None
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
        assert self._poller is not None
        self._poller.token_failed(message)
