"""The resources that a service takes from its process: clock, randomness, network and environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IReactorTime, IStreamServerEndpoint

from ccmproxy.config import OutboundConfig, UpstreamConfig
from ccmproxy.interfaces.network import IOutbound
from ccmproxy.interfaces.work_queue import IWorkQueue
from ccmproxy.network import has_address
from ccmproxy.proxy.inspection import WorkAtOnce
from ccmproxy.root.monotonic_time import monotonic_clock
from ccmproxy.root.wall_clock import WallClock
from ccmproxy.root.work_thread import WorkThread
from ccmproxy.transports.outbounds import make_outbound


@dataclass(frozen=True)
class Surroundings:
    """The resources that a service takes from its process. Tests pass their own.

    ``clock``: the monotonic clock, on which every duration is measured. ``now`` returns Unix seconds, for what is Unix
    time elsewhere; it does not jump before ``look_at_clock`` is called, which returns the seconds by which the system's
    clock was set since the last call (0 = it was not), and so can tell one service only. ``outbound`` returns the
    outbound for connections to a service's upstream, given the outbound configuration of a credential (None = direct);
    it raises OSError when a file that it needs cannot be used. ``listen`` returns a server endpoint for an endpoint
    description. ``use_keychain``: whether the official CLI keeps its login in the keychain, as on macOS (spec 3.1).
    ``has_address`` returns whether an IP address is one of this machine's. ``work_queue`` makes the queue for work that
    would keep the reactor too long; each service stops its own.
    """

    reactor: Any
    now: Callable[[], float]
    random: Random
    outbound: Callable[[UpstreamConfig, OutboundConfig | None], IOutbound]
    listen: Callable[[str], IStreamServerEndpoint]
    environ: Mapping[str, str]
    use_keychain: bool = False
    has_address: Callable[[str], bool] = has_address
    work_queue: Callable[[], IWorkQueue] = WorkAtOnce
    clock: IReactorTime = field(kw_only=True)
    look_at_clock: Callable[[], float] = field(default=lambda: 0.0, kw_only=True)

    @classmethod
    def of_reactor(cls, reactor: Any, random: Random) -> Surroundings:
        """Return the real surroundings: the network of ``reactor``, and the clocks and environment of this process."""
        clock = monotonic_clock(reactor)
        wall_clock = WallClock(clock)

        def outbound(upstream: UpstreamConfig, detour: OutboundConfig | None) -> IOutbound:
            """Return the outbound. Raises OSError when the certificates cannot be used."""
            try:
                return make_outbound(detour, reactor, upstream.ca_path, upstream.connect_timeout, clock)
            except OSError as error:  # This includes errors in a certificate.
                raise OSError(f"cannot use the certificates in {upstream.ca_path}: {error}") from None

        def listen(description: str) -> IStreamServerEndpoint:
            endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
            return endpoint

        return cls(
            reactor,
            wall_clock.now,
            random,
            outbound,
            listen,
            os.environ,
            use_keychain=sys.platform == "darwin",
            clock=clock,
            look_at_clock=wall_clock.look,
            work_queue=partial(WorkThread, reactor),
        )
