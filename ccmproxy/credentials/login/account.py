"""An account with an OAuth login: refreshes it, polls the usage, and interrupts requests at a limit (spec 3, 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.credentials.control import ControlClient, Fetch
from ccmproxy.credentials.credential import Credential
from ccmproxy.credentials.destination import Upstream, UpstreamAccess
from ccmproxy.credentials.login.file import FileStore
from ccmproxy.credentials.login.lock import DirectoryLock
from ccmproxy.credentials.login.standing import TokenStanding, digest
from ccmproxy.credentials.login.token import TokenKeeper
from ccmproxy.credentials.login.usage_poller import UsagePoller
from ccmproxy.credentials.login.watch import FileWatch, FileWatcher
from ccmproxy.credentials.single_flight import SingleFlight
from ccmproxy.dialects.oauth import ApiKey, Authorization, Login, OAuthToken
from ccmproxy.interfaces.credentials import CredentialUnavailable, ICredential, ICredentialStore
from ccmproxy.interfaces.facets import IAccountFormat
from ccmproxy.state.availability import Caps
from ccmproxy.state.charging import poll_wanted
from ccmproxy.state.inputs import Input, TimePassed, TokenAvailable, TokenDelayed, TokenUnavailable


@dataclass(frozen=True, slots=True)
class LoginPlace:
    """Where a login is stored.

    ``watched_path``: the file to watch for changes, or None. ``lock_path``: the path of the official client's lock
    (:func:`ccmproxy.credentials.login.lock.lock_path`), or None if that client takes no lock.
    """

    store: ICredentialStore
    watched_path: str | None = None
    lock_path: str | None = None


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
        now: Callable[[], float],
    ) -> None:
        """``random`` returns numbers in [0, 1). ``plan_weight`` replaces the weight of the account's plan. ``watcher``
        reports changes of the watched path. ``fetch`` makes the requests of refreshes and polls instead of the
        outbound. ``now`` returns Unix seconds."""
        super().__init__(tag, caps, clock, now)
        self._upstream = access.for_logins()
        self._key_upstream = access.for_keys()
        self._format = account_format
        self._plan_weight = plan_weight
        self._watcher = watcher
        self._watched_path = place.watched_path
        self._watch: FileWatch | None = None
        self._access_token: str | None = None
        self._standing = TokenStanding()
        self._proofs: SingleFlight[tuple[bytes, bool | None]] = SingleFlight()
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
            wanted=self._wanted_poll,
            token_state=self._probed,
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
        self._proofs.cancel()
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

    def clock_set(self, by: float) -> None:
        """See Credential. The login is read again, because whether it has expired is a matter of Unix time, and the
        usage is polled."""
        self._poller.clock_set(by)
        self._standing.clock_set(by)
        if self._lock is not None:
            self._lock.clock_set(by)
        super().clock_set(by)
        if self._running:
            self._keeper.load()
            self._poller.poll_for_clock()

    def poll_now(self) -> None:
        """Start a poll, unless the usage endpoint has asked for a delay. Returns at once."""
        if self._running:
            self._poller.poll_unless_postponed()

    def reconfigure(self, caps: Caps, plan_weight: float | None) -> None:
        """Apply a reloaded configuration. Requests in flight go on unless a new cap is already reached."""
        self.caps = caps
        self._plan_weight = plan_weight
        authorization = self._keeper.authorization
        if self._running and authorization is not None and self._standing.bad is None:
            self._apply(TokenAvailable(self._weight(authorization), _identity(authorization)))
        else:
            self._apply(TimePassed())

    # What leases call -------------------------------------------------------------------------------------

    async def authorize(self) -> Authorization:
        """Return the token or key to send, after refreshing it if that is due. Raises CredentialUnavailable when there
        is none, or the login is bad."""
        authorization = await self._keeper.authorize()
        if self._standing.bad is not None:
            raise CredentialUnavailable(self._bad_login())
        return authorization

    async def recover(
        self, rejected: Authorization, caller: str = "", may_force: bool = True
    ) -> Authorization:
        """Return another token than ``rejected`` (spec 3.4).

        ``caller``: who sent the request, empty = nobody in particular; ``may_force``: whether the request may force a
        refresh, as a request to a model endpoint may (spec 12.3). Raises RefreshNotForced when no refresh may be
        forced, and CredentialUnavailable when there is no other token for another reason.
        """
        authorization = await self._keeper.recover(rejected, caller or None, may_force=may_force)
        if self._standing.bad is not None:
            raise CredentialUnavailable(self._bad_login())
        return authorization

    async def prove(self, authorization: Authorization) -> bool | None:
        """Return whether this very token has served a model request or a poll. If that is not known, asks the usage
        endpoint once, for at most 5 s (spec 12.3); None: that does not say."""
        if self._standing.is_proven(authorization):
            return True
        if not isinstance(authorization, OAuthToken) or not self._running:
            return False
        # The proof that is under way may be of another token.
        wanted, asked, is_good = digest(authorization), b"", None
        while self._running and asked != wanted:
            asked, is_good = await self._proofs.join(lambda: self._ask_for_proof(authorization))
        return self._standing.is_proven(authorization) or is_good

    async def _ask_for_proof(self, token: OAuthToken) -> tuple[bytes, bool | None]:
        """Ask the usage endpoint whether ``token`` is good, and note that. Returns the digest of the token, and what
        the endpoint says of it."""
        is_good = None
        try:
            is_good = await self._poller.ask_for_proof(token)
        except CancelledError:
            pass  # The account is being stopped.
        if is_good:
            self._standing.prove(token)
        return digest(token), is_good

    def proved(self, authorization: Authorization) -> None:
        """Note that a model request was served with this token."""
        if not self._standing.is_proven(authorization):
            self._standing.prove(authorization)
        if self._standing.bad is not None and self._is_present(authorization):
            self._probed(authorization, True)

    def login_refused(self, authorization: Authorization, sentence: str) -> None:
        """Note that the upstream refused this token although it cannot be refreshed any further; ``sentence``: the
        provider's. Unless the token is replaced, the login is bad until it changes or a probe succeeds, and the first
        probe is made at once (spec 12.3). What the token has served before does not help it any more."""
        if not self._is_present(authorization):
            return
        self._standing.disprove(authorization)
        if self._standing.bad is not None:
            return
        now = self._now()
        bad = self._standing.refuse(sentence, now)
        self.log.error("{tag}: {problem}", tag=self.tag, problem=self._bad_login())
        self._apply(TokenUnavailable(self._bad_login(), ends_requests=False))
        if bad.next_at <= now:
            self._poller.poll()

    def is_about_request(self, authorization: Authorization, method: bytes, path: bytes) -> bool:
        """Return whether a refusal of this token at this endpoint is known to be about the request."""
        return self._standing.is_about_request(authorization, method, path)

    def remember_about_request(self, authorization: Authorization, method: bytes, path: bytes) -> None:
        """Note that a refusal of this token at this endpoint, which is no model endpoint, was about the request. It is
        remembered until the token is replaced."""
        self._standing.remember_about_request(authorization, method, path)

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
        if isinstance(authorization, OAuthToken):
            authorization = self._poller.with_plan(authorization)
        return self._format.plan_weight(authorization)

    def _file_changed(self) -> None:
        """Reload the login: the watcher saw the file change, appear or disappear."""
        if self._running:
            self._keeper.load(changed=True)

    def _login_changed(self) -> None:
        """Update the state: the keeper has another login, another problem, or more facts about the login."""
        authorization = self._keeper.authorization
        if authorization is None:
            back_in = self._keeper.back_in()
            until = self._now() + back_in if back_in is not None else 0.0
            problem = self._keeper.problem or "credential unavailable"
            is_gone = not self._keeper.has_login and back_in is None
            self._apply(TokenUnavailable(problem, until=until, is_gone=is_gone))
            return
        known = self._access_token
        is_other = not isinstance(authorization, OAuthToken) or authorization.access_token != known
        is_by_others = is_other and not (
            isinstance(authorization, OAuthToken) and self._keeper.has_made(authorization.access_token)
        )
        self._standing.replaced(authorization)
        if is_by_others:
            self._standing.changed()
        if self._standing.bad is None:
            self._apply(TokenAvailable(self._weight(authorization), _identity(authorization)))
        else:
            self._apply(TokenUnavailable(self._bad_login(), ends_requests=False))
        if isinstance(authorization, OAuthToken) and is_other:
            self._access_token = authorization.access_token
            # A poll that failed with the old token may succeed with the new one. A login that somebody else has stored
            # may belong to another account, to which the known windows do not apply.
            if self._poller.failures or (is_by_others and known is not None):
                self._poller.poll()
        self._poller.poll_if_stale()

    def _token_failed(self, message: str) -> None:
        delay = self._keeper.delay()
        if delay is not None:
            self._apply(TokenDelayed(*delay))
        self._poller.token_failed(message)

    # A bad login ------------------------------------------------------------------------------------------

    def _apply(self, event: Input) -> None:
        super()._apply(event)
        self._poller.reconsider()

    def _is_present(self, authorization: Authorization) -> bool:
        present = self._keeper.authorization
        return present is not None and digest(present) == digest(authorization)

    def _wanted_poll(self, now: float) -> float:
        """Return when a poll is wanted besides the usual rhythm (Unix seconds), 0 = not at all: to see whether a bad
        login is good again, a rate limit over, or a refused account let in again (spec 12.3, 12.5)."""
        bad = self._standing.bad
        moments = [max(bad.next_at, 1.0)] if bad is not None else []
        wanted = poll_wanted(self.state, self._poller.last_began, now)
        if wanted:
            moments.append(wanted)
        return min(moments, default=0.0)

    def _probed(self, authorization: Authorization, is_good: bool | None) -> None:
        """Note what a poll or a model request has shown about the token: whether it is good, None = nothing."""
        if is_good:
            self._standing.prove(authorization)
        elif is_good is False:
            self._standing.disprove(authorization)
        if self._standing.probed(is_good, self._now()):
            self.log.info("{tag}: its login is used again", tag=self.tag)
            present = self._keeper.authorization
            if present is not None:
                self._apply(TokenAvailable(self._weight(present), _identity(present)))

    def _bad_login(self) -> str:
        """Return the sentence for clients and the operator: whom to ask, and what is to be done."""
        bad = self._standing.bad
        said = f' ("{bad.sentence}")' if bad is not None and bad.sentence else ""
        return (
            f"the upstream refuses the login of this account{said}: ask the operator of this proxy to log in again"
            f" with the official client ({self._format.how_to_log_in})"
        )


def _identity(authorization: Login) -> str:
    """Return the identity of the login or key (spec 12.5), empty if unknown."""
    if isinstance(authorization, OAuthToken):
        return authorization.account_id or ""
    return f"key {digest(authorization).hex()}"
