"""The root service: builds all parts from a configuration, and starts and stops them (docs/architecture.md, "Life").

A :class:`ProxyService` may have any parent, and there may be several in one process, because the reactor and
everything else that belongs to the process are passed in.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock, gatherResults
from twisted.logger import Logger

from ccmproxy.config import Config, ServiceConfig, readable_by_others
from ccmproxy.credentials.login.watch import FileWatcher
from ccmproxy.interfaces.network import NetworkChange
from ccmproxy.root.lag import LagMeter
from ccmproxy.root.multiplexer import ListenFailed, MultiplexerService, Prepared, end
from ccmproxy.root.plan import Change, End, Keep, Start, Step, plan_services
from ccmproxy.root.surroundings import Surroundings
from ccmproxy.root.wall_clock import ClockWatch


class ProxyService(Service):
    """Runs everything in one configuration as a Twisted service (spec 11).

    ``services``: the entries of ``services:`` by endpoint, in the order of the configuration. ``lag``: measures the lag
    of the reactor. A ProxyService that was stopped, or failed to start, cannot be started again.
    """

    log = Logger()

    def __init__(self, config: Config, surroundings: Surroundings) -> None:
        """Raises OSError when a file that connections to an upstream need cannot be used."""
        self.config = config
        self._surroundings = surroundings
        self._watcher = FileWatcher(surroundings.reactor, clock=surroundings.clock)
        self._work = surroundings.work_queue()
        self.services = {each.endpoint: self._entry(each) for each in config.services}
        self.lag = LagMeter(surroundings.clock)
        self._clock_watch = ClockWatch(surroundings.clock, surroundings.look_at_clock, self.clock_set)
        self._reloading = DeferredLock()
        #: The ends of services and credentials that reloads have removed, while they are in progress.
        self._retiring: set[Deferred[None]] = set()
        self._over = False
        self._stopping: Deferred[None] | None = None

    def _entry(self, config: ServiceConfig) -> MultiplexerService:
        return MultiplexerService(config, self._surroundings, self._watcher, self._work)

    def startService(self) -> None:
        """Start all credentials, and then all listeners. Raises ListenFailed, after stopping everything again, when an
        address cannot be listened on, and RuntimeError when the service has run before."""
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
        self._clock_watch.start()
        super().startService()  # type: ignore[no-untyped-call]

    def stopService(self) -> Deferred[None]:
        """Drain all listeners in parallel for the grace time, and then stop the rest. Fires when nothing is left.

        May be called again meanwhile: the Deferred of each call fires.
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
        self._work.stop()
        self.lag.stop()
        self._clock_watch.stop()

    def interfaceUpdated(self, change: NetworkChange = NetworkChange.DEFAULT_ROUTE) -> None:
        """Reopen at once the reverse connections that this instance has opened, as far as ``change`` concerns them
        (spec 14). What they carry goes on to its end on the connections that are replaced.

        Called by a program that embeds the service when the machine's network changes (spec 7.4). Does nothing while
        the service is not running.
        """
        if self.running:
            for entry in self.services.values():
                entry.interface_updated(change)

    def clock_set(self, by: float) -> None:
        """Note that the system's clock was set by ``by`` seconds (negative: back).

        Every duration goes on as if nothing had happened. What depends on Unix time is looked at anew: logins are read
        again, and usage is polled (spec 11).
        """
        for entry in self.services.values():
            entry.clock_set(by)

    def reload(self, config: Config) -> Deferred[None]:
        """Switch to ``config`` without dropping a connection (spec 1, Reload).

        An entry of ``services:`` is kept if its endpoint and its dialect are unchanged. A new entry that cannot listen
        is logged and left out; the others go on. If a file that ``config`` names cannot be read, this is logged and
        nothing changes. Does nothing while the service is not running.
        """
        return self._run(self._reload(config))

    async def _reload(self, config: Config) -> None:
        # One reload at a time, because a second one starts from the result of the first.
        await self._reloading.acquire()
        try:
            if self.running:
                await self._go_over(config)
        finally:
            self._reloading.release()

    async def _go_over(self, config: Config) -> None:
        steps = plan_services((entry.config for entry in self.services.values()), config.services)
        try:
            new, changed = self._prepare(steps)
        except OSError as error:
            self.log.error("configuration not reloaded: {error}", error=str(error))
            return
        self.config = config
        for step in steps:
            if isinstance(step, End):
                # Another service may be about to use this address.
                entry = self.services[step.running.endpoint]
                await entry.stop_listening()
                if not self.running:
                    return  # The service was stopped meanwhile: all entries end, and none may start.
                del self.services[step.running.endpoint]
                self._retire(self._end(entry))
        for entry, prepared in changed:
            for credential in entry.reload(prepared):
                self._retire(end(credential))
        for entry in new:
            self._begin(entry)
        self.log.info("configuration reloaded")

    def _prepare(
        self, steps: Iterable[Step[ServiceConfig]]
    ) -> tuple[list[MultiplexerService], list[tuple[MultiplexerService, Prepared]]]:
        """Return the new services, and the kept services with their prepared changes. Nothing changes yet.

        Raises OSError when a file that is needed cannot be read.
        """
        new: list[MultiplexerService] = []
        changed: list[tuple[MultiplexerService, Prepared]] = []
        for step in steps:
            match step:
                case Start(wanted):
                    new.append(self._entry(wanted))
                case Keep(wanted) | Change(wanted=wanted):
                    entry = self.services[wanted.endpoint]
                    changed.append((entry, entry.prepare(wanted)))
        return new, changed

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
        """Run ``work``, which ends a removed service or credential, in the background. Stopping waits for it."""
        retiring = self._run(work)
        self._retiring.add(retiring)
        retiring.addCallback(lambda _: self._retiring.discard(retiring))

    def _run(self, work: Coroutine[Deferred[Any], Any, None]) -> Deferred[None]:
        """Run a step of stopping or reloading. Its errors are logged, so that the next step always follows."""
        done = Deferred.fromCoroutine(work)
        done.addErrback(lambda failure: self.log.failure("stopping or reloading failed", failure))
        return done
