"""A checked configuration, ready for use: frozen values with every default filled in and every path made absolute.

Equal values mean equal behaviour, so a reload compares them. Secrets are of type SecretStr, whose repr hides them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from types import MappingProxyType
from typing import Literal

from pydantic import SecretStr

from ccmproxy.config.units import KIB, MIB
from ccmproxy.policy.balancing import StrategyName
from ccmproxy.policy.prices import OwnPrices
from ccmproxy.state.availability import Caps

ServiceType = Literal["ccm", "ocm"]


@dataclass(frozen=True, slots=True)
class LogConfig:
    """``level``: debug, info, warn or error. ``format``: text or json."""

    level: str = "info"
    format: str = "text"


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """Where a provider is, and how long to wait for it. A URL or name of None means the official one.

    ``ca_path``: PEM file with authorities to trust besides the system's store. Timeouts in seconds.
    """

    api_url: str | None = None
    token_url: str | None = None
    usage_url: str | None = None
    profile_url: str | None = None
    ca_path: str | None = None
    user_agent: str | None = None
    connect_timeout: float = 10.0
    first_byte_timeout: float = 600.0
    idle_timeout: float = 600.0


#: Longest request body (bytes), unless the configuration says something else.
LONGEST_BODY = 64 * MIB
#: How many bodies of the largest size may be held at a time, unless the configuration says something else. Where that
#: size is smaller than the usual one, as many bytes as with the usual one.
BODIES = 8


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Limits for the clients of a service. Sizes in bytes, times in seconds.

    ``max_request_bodies``: all that are held at a time together. ``max_connections_per_user``: None = unlimited.
    ``ping_interval``: None = no keep-alive in event streams.
    """

    max_request_body: int = LONGEST_BODY
    max_request_bodies: int = BODIES * LONGEST_BODY
    max_request_head: int = 64 * KIB
    max_connections_per_user: int | None = None
    head_timeout: float = 30.0
    body_timeout: float = 60.0
    keepalive_timeout: float = 300.0
    client_stall_timeout: float = 600.0
    ping_interval: float | None = None


@dataclass(frozen=True, slots=True)
class DirectOutboundConfig:
    """An outbound straight to the destination. ``bind_address``: local IP address; None = the system's choice.

    The ``tag`` of an outbound is only a name: two outbounds that differ in nothing else are equal.
    """

    tag: str = field(compare=False)
    bind_address: str | None = None


@dataclass(frozen=True, slots=True)
class ProxyOutboundConfig:
    """An outbound through a SOCKS5 proxy, or an HTTP proxy with CONNECT.

    ``username``: None = no login. ``tls``: the proxy itself is reached over TLS (``http`` only).
    """

    tag: str = field(compare=False)
    type: Literal["socks", "http"]
    server: str
    server_port: int
    username: str | None = None
    password: SecretStr | None = None
    tls: bool = False


OutboundConfig = DirectOutboundConfig | ProxyOutboundConfig


@dataclass(frozen=True, slots=True)
class CredentialConfig:
    """A default credential: an account's file, or an API key.

    ``credential_path``: absolute; None with an API key. ``is_default_path``: no path was given, so this is where the
    official CLI keeps the file, and on macOS the keychain is tried first (spec 3.1). ``short_cap`` and ``weekly_cap``:
    percent of the window at which the credential pauses. ``plan_weight``: of an API key, None where not given.
    ``outbound``: the outbound of all its connections, from its detour; None = direct.
    """

    tag: str
    credential_path: str | None
    is_default_path: bool = False
    api_key: SecretStr | None = None
    short_cap: float = 99.0
    weekly_cap: float = 99.0
    plan_weight: float | None = None
    outbound: OutboundConfig | None = None

    @property
    def caps(self) -> Caps:
        """Both caps in the form that the availability rules use."""
        return Caps(self.short_cap, self.weekly_cap)


@dataclass(frozen=True, slots=True)
class ExternalConfig:
    """A remote instance. ``url`` None: a receiver, reached only through a connection that the remote opens to us.

    ``server``, ``server_port``: dialled instead of the URL's. ``is_connector``: we open such a connection to the
    remote. ``plan_weight``: None = what the remote reports. ``outbound``: as for an account.
    """

    tag: str
    token: SecretStr
    url: str | None = None
    server: str | None = None
    server_port: int | None = None
    is_connector: bool = False
    plan_weight: float | None = None
    outbound: OutboundConfig | None = None


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """A pool. ``credentials``: tags of its members, in order; ``rebalance_threshold`` in percent, 0 = off;
    ``patience``: longest wait (seconds) that a client with a warm cache is told, 0 = off (spec 12.2)."""

    tag: str
    credentials: tuple[str, ...]
    strategy: StrategyName = "least-used"
    rebalance_threshold: float = 0.0
    spread_subagents: bool = False
    patience: float = 5.0


@dataclass(frozen=True, slots=True)
class UserConfig:
    """A user of a service. ``token`` authenticates; ``credential`` is the tag of what serves the requests.

    ``external_credential``: tag of the external credential whose remote is this user, who is told nothing about it;
    None = none. ``instance``: the user is another instance, which has to understand our refusals (spec 14).
    ``models``: globs of the models that the user may ask for; empty = every model. ``max_connections_per_user``: None =
    what the service says.
    """

    name: str
    token: SecretStr
    credential: str
    allow_external_usage: bool = False
    external_credential: str | None = None
    instance: bool = False
    models: tuple[str, ...] = ()
    max_connections_per_user: int | None = None


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """One listening address of one provider.

    ``endpoint``: always a Twisted server endpoint description, made from ``listen`` and ``listen_port`` where the file
    does not give one; only then are these two set, else they are None. ``address``: the same for people.
    ``credentials``: in single-credential mode, one with the tag ``default``. ``users``: empty = everybody is allowed,
    through the credential or pool with the tag ``first``. ``headers``: sent to the upstream in place of the client's.
    """

    name: str
    type: ServiceType
    endpoint: str
    address: str
    credentials: tuple[CredentialConfig, ...]
    first: str
    externals: tuple[ExternalConfig, ...] = ()
    pools: tuple[PoolConfig, ...] = ()
    listen: str | None = None
    listen_port: int | None = None
    users: tuple[UserConfig, ...] = ()
    allow_anonymous: bool = False
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    upstream: UpstreamConfig = UpstreamConfig()
    limits: ServiceLimits = ServiceLimits()
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration.

    ``path``: the file it was read from, absolute; None for the built-in default. ``shutdown_grace``: seconds.
    ``secret_files``: every known file with secrets in it, so that its permissions can be checked. ``prices``: those of
    the operator, which go before the price list.
    """

    services: tuple[ServiceConfig, ...]
    log: LogConfig = LogConfig()
    shutdown_grace: float = 30.0
    path: str | None = None
    secret_files: tuple[str, ...] = ()
    prices: OwnPrices = field(default_factory=OwnPrices)
