"""ccmproxy: one address for a team's Claude Code and Codex clients, over your own accounts.

To embed it in a Twisted program::

    from ccmproxy import loadConfig, makeService

    service = makeService(loadConfig("ccmproxy.yaml"), reactor)
    service.setServiceParent(application)
"""

from __future__ import annotations

from random import SystemRandom
from typing import Any

from ccmproxy._version import __version__
from ccmproxy.config import Config, ConfigurationError
from ccmproxy.config import load as loadConfig
from ccmproxy.root.service import ProxyService
from ccmproxy.root.surroundings import Surroundings

__all__ = ["Config", "ConfigurationError", "__version__", "loadConfig", "makeService"]


def makeService(config: Config, reactor: Any) -> ProxyService:
    """Return an IService that runs the proxy described by ``config`` on ``reactor``. It does nothing until started.

    ``startService()`` raises :class:`ccmproxy.root.multiplexer.ListenFailed` when an address is already in use.
    ``reload(config)`` switches to another configuration without dropping connections. One process may hold any number
    of these services. Their time-outs and other durations go on when the system's clock is set, although those of most
    reactors do not (docs/architecture.md, "Two clocks"); the reactor itself is not changed.
    """
    return ProxyService(config, Surroundings.of_reactor(reactor, SystemRandom()))
