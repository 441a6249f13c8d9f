"""The root: builds everything from a configuration, and owns its life and death (design: Life).

A :class:`ProxyService` may be put under any parent, several times in one process: the reactor is passed in, and so is
everything else that comes from outside.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from getpass import getuser
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, gatherResults
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IReactorTime, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from ccmproxy.authentication import UserTokens
from ccmproxy.config import (
    Config,
    CredentialConfig,
    OutboundConfig,
    ServiceConfig,
    UpstreamConfig,
    readable_by_others,
)
from ccmproxy.credentials.account import Account
from ccmproxy.credentials.keychain import FirstOf, KeyringStore, service_name
from ccmproxy.credentials.lock import lock_path
from ccmproxy.credentials.pool import Pool, PoolRules
from ccmproxy.credentials.provider import SingleProvider
from ccmproxy.credentials.store import FileStore
from ccmproxy.credentials.watch import FileWatcher
from ccmproxy.dialect import Dialect
from ccmproxy.dialects import DIALECTS
from ccmproxy.http.client import ClientLimits, ConnectionPool
from ccmproxy.http.server import HTTPServerFactory, ServerLimits
from ccmproxy.interfaces import ICredentialStore, IOutbound, IProvider
from ccmproxy.lag import LagMeter
from ccmproxy.net.outbounds import make_outbound
from ccmproxy.oauth import ApiKey, UpstreamURLs
from ccmproxy.proxy.forwarder import Caller, Forwarder, ForwarderOptions
from ccmproxy.routes import Routes
from ccmproxy.status import StatusEndpoint

#: How long what is left after the grace time may take to be gone (seconds).
ABORT_TIME = 2.0


@dataclass(frozen=True)
class Surroundings:
    """What a service takes from the process around it; tests give their own.

    ``now``: Unix seconds. ``outbound``: the way out for connections to a service's upstream, by what a credential's
    detour names (None = straight); raises OSError where a file that it needs cannot be used. ``listen``: a server
    endpoint for a description. ``use_keychain``: macOS keeps the official CLI's login in its keychain (spec 3.1).
    """

    reactor: Any
    now: Callable[[], float]
    random: Random
    outbound: Callable[[UpstreamConfig, OutboundConfig | None], IOutbound]
    listen: Callable[[str], IStreamServerEndpoint]
    environ: Mapping[str, str]
    use_keychain: bool = False

    @classmethod
    def of_reactor(cls, reactor: Any, random: Random) -> Surroundings:
        """The real ones: this reactor's clock and network, this process's environment."""

        def outbound(upstream: UpstreamConfig, detour: OutboundConfig | None) -> IOutbound:
            try:
                return make_outbound(detour, reactor, upstream.ca_path, upstream.connect_timeout)
            except OSError as error:  # also what is wrong with a certificate
                raise OSError(f"cannot use the certificates in {upstream.ca_path}: {error}") from None

        def listen(description: str) -> IStreamServerEndpoint:
            endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
            return endpoint

        return cls(
            reactor,
            reactor.seconds,
            random,
            outbound,
            listen,
            os.environ,
            use_keychain=sys.platform == "darwin",
        )


class ListenFailed(Exception):
    """An address of the configuration cannot be listened on. ``str()`` names it and says why."""


class MultiplexerService:
    """One entry of ``services:``: its accounts, its callers, its listener.

    Life in four steps, so that the whole is never half-started: :meth:`start`, :meth:`listen`, :meth:`drain`,
    :meth:`stop`.
    """

    log = Logger()

    def __init__(self, config: ServiceConfig, surroundings: Surroundings, watcher: FileWatcher) -> None:
        self.config = config
        self._surroundings = surroundings
        self._watcher = watcher
        self._clock: IReactorTime = surroundings.reactor
        dialect = self._dialect = DIALECTS[config.type]
        self.accounts: dict[CredentialConfig, Account] = {}
        self._singles: dict[Account, SingleProvider] = {}
        self._pools: dict[str, Pool] = {}
        self.forwarder = Forwarder(dialect, self._clock, surroundings.now)
        self.status = StatusEndpoint(dialect, self._clock, surroundings.now)
        self.routes = Routes(dialect, self.forwarder, self.status, surroundings.now, self._request_id)
        self.factory = HTTPServerFactory(self.routes.handle, self._clock, malformed=self.routes.malformed)
        self._port: IListeningPort | None = None
        self._adopt(config, self.prepare(config))

    def _request_id(self) -> str:
        return f"req_{self._surroundings.random.getrandbits(96):024x}"

    # Configuration ----------------------------------------------------------------------------------------------

    def prepare(self, config: ServiceConfig) -> dict[CredentialConfig, Account]:
        """The accounts for ``config``, of which the new ones are not started; nothing changes yet.

        An account that is the same one, by tag and login, is kept with all it knows, if the way to the upstream is
        unchanged too. Raises OSError where a file that the way to the upstream needs cannot be read.
        """
        known: dict[CredentialConfig, Account] = {}
        if config.upstream == self.config.upstream:
            known = {_login(each): account for each, account in self.accounts.items()}
        return {each: known.get(_login(each)) or self._account(each, config) for each in config.credentials}

    def _adopt(self, config: ServiceConfig, accounts: dict[CredentialConfig, Account]) -> list[Account]:
        """Bring accounts, callers and rules to ``config``; returns the accounts that are no longer wanted."""
        dropped = [account for account in self.accounts.values() if account not in accounts.values()]
        for credential, account in accounts.items():
            if account in self.accounts.values() and credential not in self.accounts:
                account.reconfigure(credential.caps, credential.plan_weight)
        self.accounts = accounts
        self.config = config
        limits = config.limits
        self.forwarder.options = ForwarderOptions(
            max_body=limits.max_request_body,
            overrides=config.headers,
            keep_alive=limits.ping_interval or 0.0,
            stalled_client=config.upstream.idle_timeout,
            max_per_user=limits.max_connections_per_user,
        )
        self.factory.limits = ServerLimits(
            head_size=limits.max_request_head,
            head_timeout=limits.head_timeout,
            body_idle_timeout=limits.body_timeout,
            keepalive_timeout=limits.keepalive_timeout,
        )
        providers = self._provide(config, accounts)
        if config.users:
            users = [
                (
                    user.token.get_secret_value(),
                    Caller(user.name, providers[user.credential], user.allow_external_usage),
                )
                for user in config.users
            ]
            self.routes.set_callers(UserTokens(users, self._dialect.product), None)
        else:
            self.routes.set_callers(None, Caller("", providers[config.first]))
        return dropped

    def _provide(
        self, config: ServiceConfig, accounts: dict[CredentialConfig, Account]
    ) -> Mapping[str, IProvider]:
        """What users can be routed to, by tag. What was there before and is the same one keeps its sessions."""
        known = self._singles
        self._singles = {
            account: known.get(account) or SingleProvider(account, self._surroundings.now)
            for account in accounts.values()
        }
        by_tag = {each.tag: account for each, account in accounts.items()}
        pools: dict[str, Pool] = {}
        for each in config.pools:
            members = [by_tag[tag] for tag in each.credentials]
            rules = PoolRules(each.strategy, each.rebalance_threshold, each.spread_subagents)
            pool = self._pools.pop(each.tag, None)
            if pool is None:
                surroundings = self._surroundings
                pool = Pool(
                    each.tag,
                    members,
                    rules,
                    surroundings.now,
                    surroundings.random.random,
                    takes_keys=self._dialect.keys_in_pools,
                )
            else:
                pool.reconfigure(members, rules)
            pools[each.tag] = pool
        self._pools = pools
        return {**{tag: self._singles[account] for tag, account in by_tag.items()}, **pools}

    def _account(self, credential: CredentialConfig, config: ServiceConfig) -> Account:
        surroundings, dialect, upstream = self._surroundings, self._dialect, config.upstream
        urls = UpstreamURLs(
            api_url=(upstream.api_url or dialect.urls.api_url).rstrip("/"),
            token_url=upstream.token_url or dialect.urls.token_url,
            usage_url=upstream.usage_url or dialect.urls.usage_url,
            profile_url=upstream.profile_url or dialect.urls.profile_url,
            user_agent=upstream.user_agent or dialect.urls.user_agent,
            # Whoever names an address means it for keys as well.
            key_api_url="" if upstream.api_url else dialect.urls.key_api_url,
        )
        outbound = surroundings.outbound(upstream, credential.outbound)
        limits = ClientLimits(
            connect_timeout=upstream.connect_timeout,
            first_byte_timeout=upstream.first_byte_timeout,
            idle_timeout=upstream.idle_timeout,
        )

        def connections(url: str) -> ConnectionPool:
            return ConnectionPool(outbound.endpoint(*origin(url)), self._clock, limits)

        path = credential.credential_path
        if credential.api_key is not None:
            source: ICredentialStore | ApiKey = ApiKey(credential.api_key.get_secret_value())
        else:
            assert path is not None
            source = self._store(credential, path, dialect)
        return Account(
            credential.tag,
            source,
            dialect.account,
            urls,
            outbound,
            connections(urls.api_url),
            self._clock,
            surroundings.random.random,
            caps=credential.caps,
            plan_weight=credential.plan_weight,
            watcher=self._watcher,
            watched_path=path,
            lock_path=lock_path(os.path.dirname(path)) if path and dialect.has_client_lock else None,
            now=surroundings.now,
            key_connections=connections(urls.key_api_url) if urls.key_api_url else None,
        )

    def _store(self, credential: CredentialConfig, path: str, dialect: Dialect) -> ICredentialStore:
        file = FileStore(path)
        if not (self._surroundings.use_keychain and credential.is_default_path and dialect.keychain_service):
            return file
        home = str(Path.home())
        used, usual = (
            os.path.dirname(dialect.account.default_path(environ, home))
            for environ in (self._surroundings.environ, {})
        )
        name = service_name(dialect.keychain_service, used, usual)
        return FirstOf(KeyringStore(name, getuser()), file)

    # Life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Read the credentials and begin to look after them."""
        for account in self.accounts.values():
            account.start()
        self.forwarder.start()

    def listen(self) -> None:
        """Accept clients. Raises ListenFailed."""
        problem: list[Failure] = []

        def listening(port: IListeningPort) -> None:
            self._port = port
            self.log.info("{name} listens on {address}", name=self.config.name, address=self.config.address)

        # The stream endpoints of Twisted answer at once.
        self._surroundings.listen(self.config.endpoint).listen(self.factory).addCallbacks(
            listening, problem.append
        )
        if problem:
            reason = problem[0].getErrorMessage()
            raise ListenFailed(f"{self.config.name}: cannot listen on {self.config.address}: {reason}")

    @property
    def port(self) -> IListeningPort | None:
        """What listens, while it does."""
        return self._port

    def reload(self, config: ServiceConfig, accounts: dict[CredentialConfig, Account]) -> list[Account]:
        """Go over to ``config``, and to what :meth:`prepare` gave for it; returns the accounts to be stopped.

        New requests go by the new rules, those under way end as they began.
        """
        dropped = self._adopt(config, accounts)
        # A watcher's caller may be gone or routed elsewhere: it connects again and is told the new state.
        self.status.close()
        # Before others of the same name are used.
        self.forwarder.leave_credentials({account.tag for account in dropped})
        for account in self.accounts.values():
            account.start()
        return dropped

    async def stop_listening(self) -> None:
        """Accept nobody new; the address is free afterwards."""
        if self._port is not None:
            port, self._port = self._port, None
            await (port.stopListening() or _done())

    async def drain(self, grace: float) -> None:
        """Accept nobody new; let the requests under way finish for ``grace`` seconds, then break them off."""
        await self.stop_listening()
        self.routes.closing = True
        self.status.close()
        self.forwarder.close_websockets(grace)
        self.factory.stop_accepting()
        if not await self._gone_within(grace):
            self.log.warn(
                "{name}: {count} requests did not end in time",
                name=self.config.name,
                count=len(self.forwarder.active),
            )
            self.factory.abort_all()
            await self._gone_within(ABORT_TIME)
        # Of a WebSocket the upstream's side may still be there.
        self.forwarder.abort_websockets()

    async def _gone_within(self, seconds: float) -> bool:
        drained = self.factory.drained()
        timer = self._clock.callLater(seconds, drained.cancel)
        try:
            await drained
        except CancelledError:
            return False
        finally:
            if timer.active():
                timer.cancel()
        return True

    async def stop(self) -> None:
        """End what :meth:`start` began."""
        self.forwarder.stop()
        for account in self.accounts.values():
            await end(account)


def _login(credential: CredentialConfig) -> CredentialConfig:
    """What makes a credential the same one after a reload: everything but its caps and weight."""
    return replace(credential, short_cap=0.0, weekly_cap=0.0, plan_weight=None)


async def end(account: Account) -> None:
    """Stop an account for good; what it still serves goes on to its end."""
    account.close_connections()
    await account.stop()


class ProxyService(Service):
    """Everything that one configuration asks for, as one service (spec 11).

    ``services``: by endpoint, in the order of the configuration. ``lag``: how late the reactor is. Runs once: one
    that was stopped, or failed to start, cannot be started again; make another one.
    """

    log = Logger()

    def __init__(self, config: Config, surroundings: Surroundings) -> None:
        self.config = config
        self._surroundings = surroundings
        self._watcher = FileWatcher(surroundings.reactor)
        self.services = {each.endpoint: self._entry(each) for each in config.services}
        self.lag = LagMeter(surroundings.reactor)
        self._reloading = DeferredLock()
        #: What a reload has taken out, until it has ended.
        self._retiring: set[Deferred[None]] = set()
        self._over = False
        self._stopping: Deferred[None] | None = None

    def _entry(self, config: ServiceConfig) -> MultiplexerService:
        return MultiplexerService(config, self._surroundings, self._watcher)

    def startService(self) -> None:
        """Credentials first, then listeners. Raises ListenFailed, with nothing left running, and RuntimeError where
        the service has run before."""
        if self._over:
            raise RuntimeError("a ccmproxy service runs once: make another one")
        for path in readable_by_others(self.config):
            self.log.warn("{path} holds secrets and can be read by others: chmod 600 it", path=path)
        begun: list[MultiplexerService] = []
        try:
            for entry in self.services.values():
                begun.append(entry)
                entry.start()
            for entry in begun:
                entry.listen()
        except Exception:
            self._over = True
            for entry in begun:
                self._run(entry.drain(0))
                self._run(entry.stop())
            raise
        self.lag.start()
        super().startService()  # type: ignore[no-untyped-call]

    def stopService(self) -> Deferred[None]:
        """Drain all listeners together for the grace time, then stop the rest. Fires when nothing is left.

        May be called again meanwhile; each call's Deferred fires.
        """
        self._over = True
        super().stopService()  # type: ignore[no-untyped-call]
        if self._stopping is None:
            self._stopping = self._run(self._stop())
        waiter: Deferred[None] = Deferred()
        self._stopping.addCallback(lambda _: waiter.callback(None))
        return waiter

    async def _stop(self) -> None:
        entries = list(self.services.values())
        drained = [self._run(entry.drain(self.config.shutdown_grace)) for entry in entries]
        await gatherResults([*drained, *self._retiring])
        for entry in entries:
            await entry.stop()
        self.lag.stop()

    def reload(self, config: Config) -> Deferred[None]:
        """Go over to ``config`` without dropping a connection (spec 1, Reload).

        A service is the same one if it listens on the same endpoint and speaks the same dialect. One that cannot
        listen is logged and left out; the others go on. Where a file that ``config`` names cannot be read, that is
        logged, and nothing changes; nor does it while the service is not running.
        """
        return self._run(self._reload(config))

    async def _reload(self, config: Config) -> None:
        # One at a time: a second one compares with what the first has made.
        await self._reloading.acquire()
        try:
            if self.running:
                await self._go_over(config)
        finally:
            self._reloading.release()

    async def _go_over(self, config: Config) -> None:
        try:
            prepared = [(each, *self._prepare(each)) for each in config.services]
        except OSError as error:
            self.log.error("configuration not reloaded: {error}", error=str(error))
            return
        self.config = config
        kept = {entry for _, entry, accounts in prepared if accounts is not None}
        for endpoint, entry in list(self.services.items()):
            if entry not in kept:
                # Its address may be the new one of another service.
                await entry.stop_listening()
                del self.services[endpoint]
                self._retire(self._end(entry))
        for new, entry, accounts in prepared:
            if accounts is not None:
                for account in entry.reload(new, accounts):
                    self._retire(end(account))
            elif self.running:
                self._begin(entry)
        self.log.info("configuration reloaded")

    def _prepare(
        self, new: ServiceConfig
    ) -> tuple[MultiplexerService, dict[CredentialConfig, Account] | None]:
        """Who is to serve ``new``: one that runs, with its accounts to be, or a new one."""
        known = self.services.get(new.endpoint)
        if known is not None and known.config.type == new.type:
            return known, known.prepare(new)
        return self._entry(new), None

    def _begin(self, entry: MultiplexerService) -> None:
        entry.start()
        try:
            entry.listen()
        except ListenFailed as error:
            self.log.error("{error}", error=str(error))
            self._retire(entry.stop())
        else:
            self.services[entry.config.endpoint] = entry

    async def _end(self, entry: MultiplexerService) -> None:
        await entry.drain(self.config.shutdown_grace)
        await entry.stop()

    def _retire(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        """End something while the rest goes on; stopping waits for it."""
        retiring = self._run(work)
        self._retiring.add(retiring)
        retiring.addCallback(lambda _: self._retiring.discard(retiring))

    def _run(self, work: Coroutine[Deferred[Any], Any, None]) -> Deferred[None]:
        """Run a step of our life; what goes wrong in it is logged, and the next step comes all the same."""
        done = Deferred.fromCoroutine(work)
        done.addErrback(lambda failure: self.log.failure("stopping or reloading failed", failure))
        return done


async def _done() -> None:
    """Nothing to wait for."""


def origin(url: str) -> tuple[str, int, bool]:
    """Host, port and whether TLS is spoken, of an http or https URL that the configuration has checked."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    return parts.hostname or "", parts.port or (443 if tls else 80), tls
