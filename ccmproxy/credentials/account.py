"""One account: its login kept fresh, its state kept current, its requests told when it is used up (spec 3, 5)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.availability import (
    Availability,
    Blocked,
    Caps,
    CredentialSnapshot,
    CredentialState,
    HeadersObserved,
    Input,
    Interrupt,
    Log,
    Notify,
    RateLimited,
    TimePassed,
    TokenAvailable,
    TokenUnavailable,
    availability,
    next_change,
    snapshot,
    transition,
)
from ccmproxy.credentials.control import ControlClient, Fetch
from ccmproxy.credentials.lease import AccountLease
from ccmproxy.credentials.lock import DirectoryLock
from ccmproxy.credentials.poll import UsagePoller
from ccmproxy.credentials.store import FileStore
from ccmproxy.credentials.token import TokenKeeper
from ccmproxy.credentials.watch import FileWatch, FileWatcher
from ccmproxy.errors import CredentialUnavailable
from ccmproxy.http.client import ConnectionPool
from ccmproxy.interfaces import IAccountFormat, ICredential, ICredentialStore, ILease, IOutbound
from ccmproxy.limits import LimitsUpdate
from ccmproxy.oauth import ApiKey, Authorization, OAuthToken, UpstreamURLs
from ccmproxy.retry import LeaseOutcome

#: The timer for changes that time makes by itself looks again at least this often (seconds): the wall clock may be set.
LONGEST_TIMER = 3600.0
#: An answer that says the same as the one before, within so long of it, is not looked at again (seconds).
OBSERVED_TWICE = 10.0
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Upstream(NamedTuple):
    """Where requests go. ``host``: for the Host header field; ``base_path``: without a slash at its end."""

    host: bytes
    base_path: bytes
    connections: ConnectionPool


@implementer(ICredential)
class Account:
    """A default credential: an OAuth login in a store, or a key of the commercial API.

    ``leases``: those that are not closed yet; ``outcomes``: how many were closed with each outcome. Does nothing
    before :meth:`start`; nothing is left after :meth:`stop` has fired.
    """

    log = Logger()
    is_external = False

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
        client's lock (:func:`ccmproxy.credentials.lock.lock_path`), None where there is no such custom. ``now``:
        Unix seconds; left out, ``clock`` tells them. ``key_connections``: to the API for keys, where ``urls`` has one.
        """
        self.tag = tag
        self.upstream = _upstream(urls.api_url, connections)
        self.key_upstream = self.upstream
        if urls.key_api_url and key_connections is not None:
            self.key_upstream = _upstream(urls.key_api_url, key_connections)
        self.caps = caps or Caps()
        self.state = CredentialState()
        self.leases: set[AccountLease] = set()
        self.outcomes: Counter[LeaseOutcome] = Counter()
        self._format = account_format
        self._plan_weight = plan_weight
        self._clock = clock
        self._now: Callable[[], float] = now or clock.seconds
        self._watcher = watcher
        self._watched_path = watched_path
        self._watch: FileWatch | None = None
        self._timer: IDelayedCall | None = None
        self._running = False
        self._listeners: dict[object, Callable[[], None]] = {}
        self._key: ApiKey | None = None
        self._lock: DirectoryLock | None = None
        self._keeper: TokenKeeper | None = None
        self._poller: UsagePoller | None = None
        self._access_token: str | None = None
        self._snapshot: CredentialSnapshot | None = None
        self._snapshot_state = self.state
        self._snapshot_at = self._snapshot_until = 0.0
        self._observed: LimitsUpdate | None = None
        self._observed_state: CredentialState | None = None
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

    def __repr__(self) -> str:
        return f"<Account {self.tag} {self._availability().state} in_flight={self.in_flight}>"

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
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._poller is not None:
            self._poller.stop()
        return succeed(None) if self._keeper is None else self._keeper.stop()

    # ICredential ------------------------------------------------------------------------------------------

    @property
    def is_api_key(self) -> bool:
        """True where requests are authorized with a key: one of the configuration, or in the credential's file."""
        return isinstance(self._authorization(), ApiKey)

    @property
    def in_flight(self) -> int:
        """How many requests hold the account."""
        return len(self.leases)

    def snapshot(self, now: float, model: str | None = None) -> CredentialSnapshot:
        """A frozen view; ``model`` takes windows of one model into account.

        The same object as long as nothing has changed: it is asked for with every request and every answer.
        """
        state = self.state
        if not (state.limits.models or state.limits.named or state.model_rejections):
            model = None
        known = self._snapshot
        if (
            known is not None
            and model is None
            and state is self._snapshot_state
            and self._snapshot_at <= now < self._snapshot_until
        ):
            return known
        view = snapshot(state, self.caps, now, tag=self.tag, model=model)
        if model is None:
            # The words for an unusable one tell how long it still takes: they are made anew each time.
            self._snapshot = view if view.availability.usable else None
            self._snapshot_state, self._snapshot_at = state, now
            self._snapshot_until = next_change(state, self.caps, now) or math.inf
        return view

    def lease(self) -> ILease:
        """Begin a use."""
        lease = AccountLease(self)
        self.leases.add(lease)
        return lease

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` at every change that a status depends on; the result ends the subscription."""
        key = object()
        self._listeners[key] = listener

        def unsubscribe() -> None:
            self._listeners.pop(key, None)

        return unsubscribe

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
        if self._keeper is None:
            raise CredentialUnavailable("the upstream refused the API key")
        return await self._keeper.recover(rejected)

    def upstream_for(self, authorization: Authorization) -> Upstream:
        """Where requests go that are sent with ``authorization``."""
        return self.key_upstream if isinstance(authorization, ApiKey) else self.upstream

    def close_connections(self) -> None:
        """Close the connections that nobody uses, and the others when they are done."""
        self.upstream.connections.close()
        self.key_upstream.connections.close()

    def observe(self, update: LimitsUpdate) -> None:
        """State learnt from an answer."""
        if not (update.has_data or update.rejected_until or update.model_rejections):
            return
        if (
            update == self._observed
            and self.state is self._observed_state
            and 0 <= self._now() - self.state.last_update < OBSERVED_TWICE
        ):
            return
        self._apply(HeadersObserved(update))
        self._observed, self._observed_state = update, self.state

    def rate_limited(self, until: float, explicit: bool) -> None:
        """The upstream answered 429 on account of the whole credential."""
        self._apply(RateLimited(until, explicit))

    def block(self, reason: str, until: float) -> None:
        """Not to be used until then (Unix seconds)."""
        self._apply(Blocked(reason, until))

    def is_usable(self) -> bool:
        """Can it take a request now?"""
        return self._availability().usable

    def release(self, lease: AccountLease) -> None:
        """Called by a lease that was closed."""
        self.leases.discard(lease)
        if lease.outcome is not None:
            self.outcomes[lease.outcome] += 1

    # State ------------------------------------------------------------------------------------------------

    def _availability(self) -> Availability:
        return availability(self.state, self.caps, self._now())

    def _apply(self, event: Input) -> None:
        """Move the state, and carry out what follows from it."""
        self.state, effects = transition(self.state, event, self._now(), self.caps)
        self._arm()
        for effect in effects:
            match effect:
                case Log(message):
                    self.log.info("{tag}: {change}", tag=self.tag, change=message)
                case Interrupt(cause):
                    for lease in list(self.leases):
                        lease.interrupt(cause)
                case Notify():
                    self._notify()

    def _notify(self) -> None:
        for listener in list(self._listeners.values()):
            try:
                listener()
            except Exception:
                self.log.failure("{tag}: telling a change failed", tag=self.tag)

    def _arm(self) -> None:
        """A timer for what time changes by itself: resets that pass, blocks that end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._running:
            return
        now = self._now()
        moment = next_change(self.state, self.caps, now)
        if moment is not None:
            self._timer = self._clock.callLater(min(moment - now, LONGEST_TIMER), self._time_passed)

    def _time_passed(self) -> None:
        self._timer = None
        self._apply(TimePassed())

    # Login ------------------------------------------------------------------------------------------------

    def _authorization(self) -> Authorization | None:
        return self._key if self._keeper is None else self._keeper.authorization

    def _weight(self, authorization: Authorization) -> float:
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
        self._apply(TokenAvailable(self._weight(authorization)))
        if isinstance(authorization, OAuthToken) and authorization.access_token != self._access_token:
            self._access_token = authorization.access_token
            if self._poller.failures:
                self._poller.poll()  # what failed with the old token may work with the new one
        self._poller.poll_if_stale()

    def _token_failed(self, message: str) -> None:
        assert self._poller is not None
        self._poller.token_failed(message)


def _upstream(api_url: str, connections: ConnectionPool) -> Upstream:
    return Upstream(_host(api_url), urlsplit(api_url).path.rstrip("/").encode("ascii"), connections)


def _host(api_url: str) -> bytes:
    """The Host header field for a URL (RFC 9110 section 7.2): no default port."""
    parts = urlsplit(api_url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    if parts.port is not None and parts.port != _DEFAULT_PORTS.get(parts.scheme):
        host = f"{host}:{parts.port}"
    return host.encode("ascii")
