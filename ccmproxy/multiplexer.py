"""One entry of ``services:``: what it consists of, and its life in steps (design: Life)."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IListeningPort, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ccmproxy.assembly import Assembly, same_login
from ccmproxy.authentication import UserTokens
from ccmproxy.config import CredentialConfig, ServiceConfig
from ccmproxy.credentials.account import Account
from ccmproxy.credentials.pool import Pool, PoolRules
from ccmproxy.credentials.provider import SingleProvider
from ccmproxy.credentials.watch import FileWatcher
from ccmproxy.dialects import DIALECTS
from ccmproxy.http.server import HTTPServerFactory, ServerLimits
from ccmproxy.interfaces import IProvider
from ccmproxy.proxy.forwarder import Caller, Forwarder, ForwarderOptions
from ccmproxy.routes import Routes
from ccmproxy.status import StatusEndpoint
from ccmproxy.surroundings import Surroundings

#: How long what is left after the grace time may take to be gone (seconds).
ABORT_TIME = 2.0


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
        self._clock: IReactorTime = surroundings.reactor
        dialect = self._dialect = DIALECTS[config.type]
        self._assembly = Assembly(dialect, surroundings, watcher)
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
            known = {same_login(each): account for each, account in self.accounts.items()}
        return {
            each: known.get(same_login(each)) or self._assembly.account(each, config)
            for each in config.credentials
        }

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


async def end(account: Account) -> None:
    """Stop an account for good; what it still serves goes on to its end."""
    account.close_connections()
    await account.stop()


async def _done() -> None:
    """Nothing to wait for."""
