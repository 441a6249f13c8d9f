"""What a dialect consists of: a few names, the official addresses, and one facet for each part of the proxy."""

from __future__ import annotations

from dataclasses import dataclass

from ccmproxy.dialects.oauth import UpstreamURLs
from ccmproxy.interfaces.facets import IAccountFormat, IFrames, IMetering, ITraffic
from ccmproxy.policy.prices import Tariff
from ccmproxy.policy.waits import WaitingClient


@dataclass(frozen=True, slots=True)
class Dialect:
    """The names, addresses and facets of one upstream's protocol. Owns no socket, timer or state.

    ``product``: as it stands in our own header names (``X-CCM-…``). ``path_prefix``: of our own endpoints.
    ``keep_alive``: bytes that may stand between two events of a stream and reset the client's idle timer.
    ``probes``: (method, path) pairs that are answered 200 and empty, without authentication. ``tariff``: by what the
    provider charges (spec 9.3). ``bound_header``: name in lower case of a response field that clients send back, and
    that means something only to the credential that issued it; empty where there is none. ``has_client_lock``: the
    official client locks its directory during a refresh. ``frames``: None where the upstream speaks no WebSocket.
    ``keys_in_pools``: keys of the commercial API can stand in for accounts, as their requests are the same.
    ``retry_status``: of an answer that makes every version of the client send the request again after its Retry-After.
    ``usage_paths``: where clients ask for the usage of their account, which is answered with that of the pool (spec
    9.5). ``waiting_clients``: those that wait for the Retry-After of a 429 and go on then (spec 12.2); any other one
    is served by another credential instead.
    """

    service_type: str
    product: str
    path_prefix: bytes
    urls: UpstreamURLs
    keychain_service: str
    keep_alive: bytes
    probes: tuple[tuple[bytes, bytes], ...]
    traffic: ITraffic
    metering: IMetering
    account: IAccountFormat
    tariff: Tariff
    bound_header: bytes = b""
    has_client_lock: bool = False
    frames: IFrames | None = None
    keys_in_pools: bool = True
    retry_status: int = 429
    usage_paths: tuple[bytes, ...] = ()
    waiting_clients: tuple[WaitingClient, ...] = ()

    @property
    def request_id_header(self) -> bytes:
        """Name of the header that tells the client the id under which its request is logged."""
        return f"X-{self.product}-Request-Id".encode()
