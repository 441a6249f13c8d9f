"""What a dialect consists of: a few names, the official addresses, and one facet for each part of the proxy."""

from __future__ import annotations

from dataclasses import dataclass

from ccmproxy.dialects.oauth import UpstreamURLs
from ccmproxy.interfaces.facets import IAccountFormat, IFrames, IMetering, ITraffic


@dataclass(frozen=True, slots=True)
class Dialect:
    """The names, addresses and facets of one upstream's protocol. Owns no socket, timer or state.

    ``product``: the word in the names of our own header fields (``X-CCM-…``). ``path_prefix``: of our own endpoints.
    ``keep_alive``: bytes that may be written between two events of a stream and reset the client's idle timer.
    ``probes``: (method, path) pairs that are answered 200 and empty, without authentication. ``bound_header``: name, in
    lower case, of a response field that clients send back and that only the credential that issued it understands;
    empty where there is none. ``has_client_lock``: the official client locks its directory during a refresh.
    ``frames``: None where the upstream does not offer a WebSocket. ``keys_in_pools``: keys of the commercial API can
    stand in for accounts, because both take the same requests. ``retry_status``: the status that makes every version of
    the client repeat the request after Retry-After.
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
    bound_header: bytes = b""
    has_client_lock: bool = False
    frames: IFrames | None = None
    keys_in_pools: bool = True
    retry_status: int = 429

    @property
    def request_id_header(self) -> bytes:
        """Name of the header that tells the client the id under which its request is logged."""
        return f"X-{self.product}-Request-Id".encode()
