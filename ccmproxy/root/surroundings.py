"""What a service takes from the process around it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint

from ccmproxy.config import OutboundConfig, UpstreamConfig
from ccmproxy.interfaces.network import IOutbound
from ccmproxy.transports.outbounds import make_outbound


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
            """Raises OSError where the certificates cannot be used."""
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
