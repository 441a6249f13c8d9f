"""``twistd ccmproxy``: the options, and the service that the plugin passes to Twisted."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from random import SystemRandom
from types import FrameType
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, Logger
from twisted.python.usage import Options as _Options

from ccmproxy.config import Config, ConfigurationError, default_config, load
from ccmproxy.interfaces.network import INetworkMonitor, NetworkChange
from ccmproxy.network import network_monitor
from ccmproxy.root.logs import daemon_observer
from ccmproxy.root.monotonic_time import use_monotonic_time
from ccmproxy.root.service import ProxyService
from ccmproxy.root.surroundings import Surroundings
from ccmproxy.root.tuning import tune_process


class Options(_Options):
    """Options of ``twistd ccmproxy``. The configuration is read and checked while the options are parsed.

    A configuration with errors therefore ends the process before anything is started, with status 1 and all errors on
    standard error. A UsageError would make twistd print its usage, which suits only errors of the command line.
    """

    optParameters = [
        ["config", "c", None, "The configuration file; left out: the defaults of the official CLIs."]
    ]

    config_values: Config

    def postOptions(self) -> None:
        """Read the configuration. Raises SystemExit with a list of the errors when it has any."""
        try:
            self.config_values = read_config(self["config"])
        except ConfigurationError as error:
            raise SystemExit(f"ccmproxy: the configuration has errors:\n{error}") from None


def read_config(path: str | None) -> Config:
    """Return the configuration in the file ``path``, or the default configuration for None. Raises ConfigurationError,
    which holds all errors, when the configuration has errors or cannot be read."""
    return load(path) if path is not None else default_config()


def _observer(parent: Any, config: Config) -> ILogObserver | None:
    """Return the observer that ``log:`` configures, for the log file of twistd. None if twistd's command line selects
    another logger."""
    if parent is None or parent.get("logger") is not None or parent.get("syslog"):
        return None
    path = parent.get("logfile")
    if path is None and not parent.get("nodaemon"):
        path = "twistd.log"
    return daemon_observer(path, config.log.level, config.log.format)


class Daemon(ProxyService):
    """The service in a process of its own. It reloads the configuration on SIGHUP (spec 1, Reload), and reports changes
    of the machine's network to the service (spec 7.4).

    ``monitor`` makes the network monitor from the reactor and the function to call at a change.
    """

    log = Logger()

    def __init__(
        self,
        config: Config,
        surroundings: Surroundings,
        path: str | None = None,
        observer: ILogObserver | None = None,
        monitor: Callable[[Any, Callable[[NetworkChange], object]], INetworkMonitor] = network_monitor,
    ) -> None:
        super().__init__(config, surroundings)
        self._path = path
        self._observer = observer
        self._reactor = surroundings.reactor
        # The monitor also runs without reverse connections: a reload may add some, and a monitor is cheap.
        self._monitor = monitor(surroundings.reactor, self.interfaceUpdated)

    def setServiceParent(self, parent: Any) -> None:
        """Set the log observer on the parent, which is the application from which twistd takes its observer."""
        if self._observer is not None and hasattr(parent, "setComponent"):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """Start the service, handle SIGHUP where the system has it, and watch for network changes."""
        super().startService()
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._hang_up)
        self._monitor.start()

    def stopService(self) -> Deferred[None]:
        """Stop the service. SIGHUP is ignored from now on, since it must not kill a process that is draining."""
        self._monitor.stop()
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return super().stopService()

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._reload_file)

    def _reload_file(self) -> None:
        try:
            config = read_config(self._path)
        except ConfigurationError as error:
            self.log.error("configuration not reloaded, it has errors:\n{error}", error=str(error))
            return
        if config.log != self.config.log:
            self.log.warn('what "log" says takes effect at the next start only')
        self.reload(config)


def makeService(options: Options) -> IService:
    """Build the service for twistd. Raises SystemExit when a file that the configuration names cannot be read."""
    from twisted.internet import reactor  # noqa: TID251  # Only here is the reactor certain to be chosen.

    process: Any = reactor
    if not process.getDelayedCalls():
        # The reactor is ours, and this covers Twisted's own timers as well. Otherwise the surroundings see to ours.
        use_monotonic_time(process)
    surroundings = Surroundings.of_reactor(reactor, SystemRandom())
    process.callWhenRunning(tune_process, process)
    path = options["config"]
    try:
        return Daemon(
            options.config_values,
            surroundings,
            os.path.abspath(path) if path is not None else None,
            _observer(options.parent, options.config_values),
        )
    except OSError as error:
        raise SystemExit(f"ccmproxy: {error}") from None
