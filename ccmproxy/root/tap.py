"""``twistd ccmproxy``: the options, and the service that the plugin hands to Twisted."""

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
from ccmproxy.interfaces.network import INetworkMonitor
from ccmproxy.network import network_monitor
from ccmproxy.root.logs import daemon_observer
from ccmproxy.root.service import ProxyService
from ccmproxy.root.surroundings import Surroundings
from ccmproxy.root.tuning import tune_process


class Options(_Options):
    """Options of ``twistd ccmproxy``. The configuration is read and checked while they are parsed.

    So a configuration with errors ends the process with status 1 and every error on standard error, before anything
    has been started. (What twistd does for a UsageError, its usage and the error on standard output, is for errors of
    the command line.)
    """

    optParameters = [
        ["config", "c", None, "The configuration file; left out: the defaults of the official CLIs."]
    ]

    config_values: Config

    def postOptions(self) -> None:
        """Read the configuration. Raises SystemExit, with every problem, where it has errors."""
        try:
            self.config_values = read_config(self["config"])
        except ConfigurationError as error:
            raise SystemExit(f"ccmproxy: the configuration has errors:\n{error}") from None


def read_config(path: str | None) -> Config:
    """The configuration of ``path``, or what goes without one. Raises ConfigurationError."""
    return load(path) if path is not None else default_config()


def _observer(parent: Any, config: Config) -> ILogObserver | None:
    """What logs as ``log:`` says, to where twistd was told to; None if its command line names another logger."""
    if parent is None or parent.get("logger") is not None or parent.get("syslog"):
        return None
    path = parent.get("logfile")
    if path is None and not parent.get("nodaemon"):
        path = "twistd.log"
    return daemon_observer(path, config.log.level, config.log.format)


class Daemon(ProxyService):
    """The service in a process of its own: SIGHUP reads the configuration again (spec 1, Reload), and a change of the
    machine's network is told to the service (spec 7.4).

    ``monitor``: makes what notices such changes, from the reactor and what is to be called.
    """

    log = Logger()

    def __init__(
        self,
        config: Config,
        surroundings: Surroundings,
        path: str | None = None,
        observer: ILogObserver | None = None,
        monitor: Callable[[Any, Callable[[], object]], INetworkMonitor] = network_monitor,
    ) -> None:
        super().__init__(config, surroundings)
        self._path = path
        self._observer = observer
        self._reactor = surroundings.reactor
        # Also where nothing is dialled for others now: a reload may bring that, and a monitor costs nothing.
        self._monitor = monitor(surroundings.reactor, self.interfaceUpdated)

    def setServiceParent(self, parent: Any) -> None:
        """twistd asks its application for an observer, and the application is our parent."""
        if self._observer is not None and hasattr(parent, "setComponent"):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """Begin to listen for SIGHUP as well, where the system has it, and for changes of the network."""
        super().startService()
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._hang_up)
        self._monitor.start()

    def stopService(self) -> Deferred[None]:
        """A late SIGHUP must not kill a process that is draining."""
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
    """Build the service for twistd. Raises SystemExit where a file that the configuration names cannot be read."""
    from twisted.internet import reactor  # noqa: TID251  # here, and nowhere else, the process has chosen it

    surroundings = Surroundings.of_reactor(reactor, SystemRandom())
    process: Any = reactor
    process.callWhenRunning(tune_process)
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
