"""One entry of ``services:``: its parts, and the steps of its life cycle (docs/architecture.md, "Life")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from ccmproxy.config import (
    CredentialConfig,
    ExternalConfig,
    PoolConfig,
    ServiceConfig,
    ServiceLimits,
    UserConfig,
)
from ccmproxy.credentials.login.watch import FileWatcher
from ccmproxy.credentials.pool.pool import Pool, PoolRules
from ccmproxy.credentials.pool.single import SingleProvider
from ccmproxy.credentials.remote.external import External
from ccmproxy.dialects.catalog import DIALECTS
from ccmproxy.http.server.factory import HTTPServerFactory, ServerLimits
from ccmproxy.interfaces.credentials import ICredential, IProvider
from ccmproxy.interfaces.network import NetworkChange
from ccmproxy.interfaces.work_queue import IWorkQueue
from ccmproxy.policy.authentication import UserTokens
from ccmproxy.proxy.caller import Caller
from ccmproxy.proxy.context import ProxyOptions
from ccmproxy.proxy.forwarder import Forwarder
from ccmproxy.reverse.connector import Connector
from ccmproxy.reverse.receiver import Receiver
from ccmproxy.root.assembly import Account, Assembly
from ccmproxy.root.plan import Change, Keep, ServicePlan, Start, carry_over, ended, plan_service
from ccmproxy.root.surroundings import Surroundings
from ccmproxy.surfaces.routes import Routes
from ccmproxy.surfaces.status import StatusEndpoint

#: Grace time for requests on a reverse connection that a reload has removed (seconds).
RETIRED_GRACE = 30.0
#: Time for connections to close after they were aborted at the end of the grace time (seconds).
ABORT_TIME = 2.0


class ListenFailed(Exception):
    """Listening on an address of the configuration failed. ``str()`` names the address and the reason."""


class RemoteInstance(NamedTuple):
    """A remote instance, and the connector that keeps a reverse connection to it open, if there is one."""

    external: External
    connector: Connector | None = None

    @property
    def tag(self) -> str:
        """The tag of the credential."""
        return self.external.tag


class Prepared(NamedTuple):
    """A plan and its credentials: those that are kept, and new ones that are not started."""

    plan: ServicePlan
    accounts: dict[CredentialConfig, Account]
    externals: dict[ExternalConfig, RemoteInstance]


class MultiplexerService:
    """One entry of ``services:`` with its accounts, its callers and its listener.

    Its life cycle has four steps, so that a set of services is never half-started: :meth:`start`, :meth:`listen`,
    :meth:`drain`, :meth:`stop`.
    """

    log = Logger()

    def __init__(
        self, config: ServiceConfig, surroundings: Surroundings, watcher: FileWatcher, work: IWorkQueue
    ) -> None:
        """``work``: shared with the other entries. Raises OSError when a file that connections to the upstream need
        cannot be used."""
        self._surroundings = surroundings
        self._clock = surroundings.clock
        dialect = self._dialect = DIALECTS[config.type]
        self.accounts: dict[CredentialConfig, Account] = {}
        self.externals: dict[ExternalConfig, RemoteInstance] = {}
        self._singles: dict[Account | External, SingleProvider] = {}
        self._pools: dict[str, Pool] = {}
        self._callers: list[tuple[str, Caller]] = []
        self.forwarder = Forwarder(dialect, self._clock, surroundings.now, work=work)
        self.status = StatusEndpoint(dialect, self._clock, surroundings.now)
        self.receiver = Receiver(self._clock)
        self.routes = Routes(
            dialect, self.forwarder, self.status, self.receiver, self._clock.seconds, self._request_id
        )
        self.factory = HTTPServerFactory(self.routes.handle, self._clock, malformed=self.routes.malformed)
        self._assembly = Assembly(dialect, surroundings, watcher, self.factory)
        self._port: IListeningPort | None = None
        self._adopt(self._prepare(plan_service(None, config)))

    def _request_id(self) -> str:
        return f"req_{self._surroundings.random.getrandbits(96):024x}"

    # Configuration ----------------------------------------------------------------------------------------------

    def prepare(self, config: ServiceConfig) -> Prepared:
        """Return everything that a reload of ``config`` needs, without changing the service.

        Raises OSError when a file that connections to the upstream need cannot be used.
        """
        return self._prepare(plan_service(self.config, config))

    def _prepare(self, plan: ServicePlan) -> Prepared:
        assembly, config = self._assembly, plan.config
        return Prepared(
            plan,
            carry_over(
                plan.credentials, self.accounts, lambda credential: assembly.account(credential, config)
            ),
            carry_over(
                plan.externals, self.externals, lambda each: RemoteInstance(*assembly.external(each, config))
            ),
        )

    def _adopt(self, prepared: Prepared) -> list[Account | RemoteInstance]:
        """Apply the plan to credentials, callers and rules. Returns the credentials that are no longer configured."""
        plan = prepared.plan
        dropped = [*ended(plan.credentials, self.accounts), *ended(plan.externals, self.externals)]
        self.config = plan.config
        self.accounts, self.externals = prepared.accounts, prepared.externals
        self._reconfigure(plan)
        self.forwarder.options = _proxy_options(plan.config)
        self.factory.limits = _server_limits(plan.config.limits)
        self._let_in(plan)
        return dropped

    def _reconfigure(self, plan: ServicePlan) -> None:
        """Pass changed settings to the credentials that are kept."""
        for credential in plan.credentials:
            if isinstance(credential, Change):
                wanted = credential.wanted
                self.accounts[wanted].reconfigure(wanted.caps, wanted.plan_weight)
        for external in plan.externals:
            if isinstance(external, Change):
                self.externals[external.wanted].external.reconfigure(external.wanted.plan_weight)

    def _let_in(self, plan: ServicePlan) -> None:
        """Route users to credentials and pools, and admit the remotes that may open reverse connections."""
        by_tag: dict[str, Account | External] = {each.tag: each for each in self.accounts.values()}
        by_tag |= {each.tag: each.external for each in self.externals.values()}
        providers = self._provide(plan, by_tag)
        callers = [_caller(user, providers, by_tag) for user in plan.users]
        # A caller that has not changed, token included, remains the same object: its WebSockets refer to it.
        self._callers = [
            next((each for each in self._callers if each == caller), caller) for caller in callers
        ]
        product = self._dialect.product
        if plan.config.users:
            self.routes.set_callers(UserTokens(self._callers, product), None)
        else:
            self.routes.set_callers(None, self._callers[0][1])
        for remote in self.externals.values():
            remote.external.want(remote.tag in plan.in_use)
        dialling = [
            (each.token.get_secret_value(), remote.external)
            for each, remote in self.externals.items()
            if remote.connector is None
        ]
        self.routes.set_remotes(UserTokens(dialling, product))

    def _provide(
        self, plan: ServicePlan, by_tag: Mapping[str, Account | External]
    ) -> Mapping[str, IProvider]:
        """Return the providers that users can be routed to, by tag. Providers that existed before keep their
        sessions."""
        known = self._singles
        self._singles = {
            credential: known.get(credential) or SingleProvider(credential, self._surroundings.now)
            for credential in by_tag.values()
        }
        pools: dict[str, Pool] = {}
        for step in plan.pools:
            match step:
                case Start(wanted):
                    pools[wanted.tag] = self._new_pool(wanted, by_tag)
                case Keep(wanted) | Change(wanted=wanted):
                    pool = pools[wanted.tag] = self._pools[wanted.tag]
                    pool.reconfigure([by_tag[tag] for tag in wanted.credentials], _pool_rules(wanted))
        self._pools = pools
        singles = {tag: self._singles[credential] for tag, credential in by_tag.items()}
        return {**singles, **pools}

    def _new_pool(self, config: PoolConfig, by_tag: Mapping[str, Account | External]) -> Pool:
        return Pool(
            config.tag,
            [by_tag[tag] for tag in config.credentials],
            _pool_rules(config),
            self._surroundings.now,
            self._surroundings.random.random,
            takes_keys=self._dialect.keys_in_pools,
        )

    # Life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Read the credentials, and start their timers, watches and polls."""
        self._start_credentials()
        self.forwarder.start()

    def _start_credentials(self) -> None:
        """Start the credentials that are not started yet."""
        for account in self.accounts.values():
            account.start()
        for remote in self.externals.values():
            remote.external.start()

    def _start_connectors(self) -> None:
        """Start the connectors. This comes last, because requests over their connections are served at once."""
        for remote in self.externals.values():
            if remote.connector is not None:
                remote.connector.start()

    def listen(self) -> None:
        """Listen for clients, and open the reverse connections. Raises ListenFailed when listening fails; no reverse
        connection is opened then."""
        problem: list[Failure] = []

        def listening(port: IListeningPort) -> None:
            self._port = port
            self.log.info("{name} listens on {address}", name=self.config.name, address=self.config.address)

        # The Deferreds of Twisted's stream server endpoints fire at once.
        self._surroundings.listen(self.config.endpoint).listen(self.factory).addCallbacks(
            listening, problem.append
        )
        if problem:
            reason = problem[0].getErrorMessage()
            raise ListenFailed(f"{self.config.name}: cannot listen on {self.config.address}: {reason}")
        self._start_connectors()

    @property
    def port(self) -> IListeningPort | None:
        """The listening port, or None while the service does not listen."""
        return self._port

    def clock_set(self, by: float) -> None:
        """Note that the system's clock was set by ``by`` seconds (spec 11). The providers come first, because they ask
        the credentials."""
        for pool in self._pools.values():
            pool.clock_set(by)
        for single in self._singles.values():
            single.clock_set(by)
        for account in self.accounts.values():
            account.clock_set(by)
        for remote in self.externals.values():
            remote.external.clock_set(by)

    def interface_updated(self, change: NetworkChange) -> None:
        """Reopen the reverse connections that a change of the machine's network concerns (spec 7.4, 14)."""
        for remote in self.externals.values():
            if remote.connector is not None:
                remote.connector.interface_updated(change)

    def reload(self, prepared: Prepared) -> list[Account | RemoteInstance]:
        """Apply what :meth:`prepare` returned. Returns the credentials that the caller must end.

        New requests follow the new rules; requests in flight finish under the old ones. WebSockets whose credential or
        user has been removed end after the current turn.
        """
        dropped = self._adopt(prepared)
        # The caller of a status stream may be removed or rerouted. Watchers reconnect and receive the new state.
        self.status.close()
        # This must happen before new credentials with the same tags are used.
        self.forwarder.leave({each.tag for each in dropped}, (caller for _, caller in self._callers))
        self._start_credentials()
        if self._port is not None:
            self._start_connectors()
        return dropped

    async def stop_listening(self) -> None:
        """Stop accepting connections. The address is free when this returns."""
        if self._port is not None:
            port, self._port = self._port, None
            await (port.stopListening() or _done())

    async def drain(self, grace: float) -> None:
        """Stop accepting connections, let requests in flight finish for ``grace`` seconds, and then abort the rest."""
        await self.stop_listening()
        self.routes.closing = True
        self.status.close()
        self.forwarder.close_websockets(grace)
        for remote in self.externals.values():
            remote.external.ask_no_more()
            if remote.connector is not None:
                remote.connector.stop(grace)
        self.receiver.close(grace)
        self.factory.stop_accepting()
        if not await self._gone_within(grace):
            self.log.warn(
                "{name}: {count} requests did not end in time",
                name=self.config.name,
                count=len(self.forwarder.registry.exchanges),
            )
            self.factory.abort_all()
            await self._gone_within(ABORT_TIME)
        # The upstream connections of WebSockets may still be open.
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
        """Stop everything that :meth:`start` started."""
        self.forwarder.stop()
        for account in self.accounts.values():
            await end(account)
        for remote in self.externals.values():
            await end(remote, 0)
        await self.receiver.close(0)


async def end(credential: Account | RemoteInstance, grace: float = RETIRED_GRACE) -> None:
    """Stop a credential permanently. Requests that it still serves may finish; those that arrived over a reverse
    connection have ``grace`` seconds for that."""
    if isinstance(credential, RemoteInstance):
        credential.external.stop()
        if credential.connector is not None:
            await credential.connector.stop(grace)
        return
    credential.close_connections()
    await credential.stop()


async def _done() -> None:
    """Return at once."""


# Conversion of the configuration into the options of the parts --------------------------------------------------


def _proxy_options(config: ServiceConfig) -> ProxyOptions:
    limits = config.limits
    return ProxyOptions(
        max_body=limits.max_request_body,
        max_bodies=limits.max_request_bodies,
        overrides=config.headers,
        keep_alive=limits.ping_interval or 0.0,
        client_stall_timeout=limits.client_stall_timeout,
        max_per_user=limits.max_connections_per_user,
    )


def _server_limits(limits: ServiceLimits) -> ServerLimits:
    return ServerLimits(
        head_size=limits.max_request_head,
        head_timeout=limits.head_timeout,
        body_idle_timeout=limits.body_timeout,
        keepalive_timeout=limits.keepalive_timeout,
        client_stall_timeout=limits.client_stall_timeout,
    )


def _pool_rules(config: PoolConfig) -> PoolRules:
    return PoolRules(config.strategy, config.rebalance_threshold, config.spread_subagents, config.patience)


def _caller(
    user: UserConfig, providers: Mapping[str, IProvider], by_tag: Mapping[str, ICredential]
) -> tuple[str, Caller]:
    """Return the user's token and the caller that it authenticates."""
    return (
        user.token.get_secret_value(),
        Caller(
            user.name,
            providers[user.credential],
            user.allow_external_usage,
            by_tag.get(user.external_credential or ""),
            user.instance or user.external_credential is not None,
            user.models,
            user.max_connections_per_user,
        ),
    )
