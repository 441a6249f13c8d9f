"""The configuration file: every option, with its type, its bounds, its default and what it means.

These models are the shape of one file, option by option; what concerns several options at once is in
:mod:`ccmproxy.config.checks`. The descriptions are the reference: docs/configuration.md and the JSON schema come from
them. An option that is null counts as left out, and so does an empty path, tag or list.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    WithJsonSchema,
    model_validator,
)

from ccmproxy.config import addresses
from ccmproxy.config.units import GIB, KIB, MIB, Duration, Size, Timeout

#: What begins the name of a branch of a union in pydantic's locations; no option does.
BRANCH = "\0"

_ENVIRONMENT_NAME = re.compile(r"[^=\0]+")


def _name(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    if value != value.strip() or not value.isprintable() or len(value) > 100:
        raise ValueError("must be at most 100 printable characters, without spaces at its ends")
    return value


def _path(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain a null character")
    if value.startswith("~") and value != "~" and not value.startswith("~/"):
        raise ValueError("must not begin with ~ and a user's name: write the directory out")
    return value


def _variable(value: str) -> str:
    if not _ENVIRONMENT_NAME.fullmatch(value):
        raise ValueError("must be the name of an environment variable")
    return value


def _url(value: str) -> str:
    addresses.parse_url(value)
    return value


def _listen(value: str) -> str:
    return addresses.parse_listen(value)


def _endpoint(value: str) -> str:
    if value:
        addresses.parse_endpoint(value)
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError('must be an IP address or a network, for example "10.0.0.0/8"') from None
    return value


def _host(value: str) -> str:
    if not addresses.is_host(value):
        raise ValueError("must be a host name or an IP address")
    return value


def _user_agent(value: str) -> str:
    if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value):
        raise ValueError("must be printable ASCII characters")
    return value


def _list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _tls_version(value: Any) -> Any:
    # Without quotes YAML reads 1.2 as a number.
    return f"{value:.1f}" if type(value) is float and value in (1.2, 1.3) else value


Name = Annotated[str, AfterValidator(_name)]
FilePath = Annotated[str, AfterValidator(_path)]
Variable = Annotated[str, AfterValidator(_variable)]
URL = Annotated[str, AfterValidator(_url)]
Host = Annotated[str, AfterValidator(_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
OneOrMore = Annotated[
    list[str],
    BeforeValidator(_list),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Weight = Annotated[float, Field(gt=0, le=1_000_000)]


class Options(BaseModel):
    """A mapping of the file. Unknown options are errors, nothing is converted, secrets stay hidden."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {
            name: each for name, each in value.items() if each is not None or name not in cls.model_fields
        }


class LogOptions(Options):
    """`log`: what is logged, and how."""

    level: Literal["debug", "info", "warn", "error"] = Field(
        default="info", description="The least severe level that is logged."
    )
    format: Literal["text", "json"] = Field(
        default="text", description="Lines for people, or one JSON object per line."
    )


class TLSOptions(Options):
    """`tls` of a service: serve TLS. Left out or empty: cleartext."""

    enabled: bool = Field(default=True, description="`false` turns TLS off without taking the options away.")
    certificate_path: FilePath | None = Field(
        default=None,
        description="PEM file with the certificate, and its chain after it. Watched: a renewed one is used at once.",
    )
    key_path: FilePath | None = Field(
        default=None, description="PEM file with the private key. Watched as well."
    )
    client_ca_path: FilePath | None = Field(
        default=None,
        description="PEM file with certificate authorities: clients must then present a certificate of one of them.",
    )
    min_version: Annotated[Literal["1.2", "1.3"], BeforeValidator(_tls_version)] = Field(
        default="1.2", description="The oldest TLS version that is accepted."
    )


class UpstreamOptions(Options):
    """`upstream` of a service: where the provider is, and how long to wait for it.

    The addresses are for tests, the demo and private gateways; left out, the official ones are used.
    """

    api_url: URL | None = Field(default=None, description="Base URL that requests go to.")
    token_url: URL | None = Field(default=None, description="URL of the OAuth token endpoint.")
    usage_url: URL | None = Field(default=None, description="URL that is asked for an account's usage.")
    profile_url: URL | None = Field(
        default=None, description="URL that is asked for an account's plan (`ccm`)."
    )
    allow_insecure: bool = Field(
        default=False,
        description="Allow `http` URLs that do not lead to a loopback address. Tokens then travel in the clear.",
    )
    ca_path: FilePath | None = Field(
        default=None, description="PEM file with certificate authorities to trust besides the system's."
    )
    user_agent: Annotated[str, AfterValidator(_user_agent)] | None = Field(
        default=None, description="What we call ourselves in our own requests; left out: `ccmproxy/VERSION`."
    )
    connect_timeout: Timeout = Field(default=10.0, description="Longest wait for a connection, TLS included.")
    first_byte_timeout: Timeout = Field(
        default=600.0, description="Longest wait from the end of a request to the first byte of its response."
    )
    idle_timeout: Timeout = Field(
        default=600.0,
        description="Longest wait between two bytes of a response. Only what the upstream sends counts.",
    )


class DefaultCredential(Options):
    """A credential of type `default`: one account, read from the file that the official CLI keeps; or an API key."""

    tag: Name = Field(description="Unique name of the credential within its service.")
    type: Literal["default"] = Field(default="default", description="May be left out.")
    credential_path: FilePath | None = Field(
        default=None,
        description=(
            "The account's credential file. Left out: `$CLAUDE_CONFIG_DIR/.credentials.json`, else"
            " `~/.claude/.credentials.json` (`ccm`); `$CODEX_HOME/auth.json`, else `~/.codex/auth.json` (`ocm`)."
        ),
    )
    claude_directory: FilePath | None = Field(
        default=None,
        description="A Claude Code configuration directory: its `.credentials.json` is used (`ccm` only).",
    )
    api_key: SecretStr | None = Field(
        default=None, description="A key of the provider's commercial API, in place of a file."
    )
    api_key_file: FilePath | None = Field(default=None, description="A file with the API key.")
    api_key_env: Variable | None = Field(
        default=None, description="The environment variable with the API key."
    )
    usages_path: FilePath | None = Field(
        default=None,
        description="Database in which this credential's usage is recorded. Left out: not recorded.",
    )
    detour: str | None = Field(
        default=None, description="Tag of the outbound that every connection of this credential takes."
    )
    reserve_5h: int = Field(
        default=0,
        ge=0,
        le=99,
        description="Keep N % of the 5-hour window free: the credential pauses at 100 - N %. 0: not given.",
    )
    reserve_weekly: int = Field(default=0, ge=0, le=99, description="The same for the weekly window.")
    limit_5h: int = Field(
        default=0,
        ge=0,
        le=100,
        description=(
            "Pause when N % of the 5-hour window is used. Not together with `reserve_5h`; with neither, it pauses at"
            " 99 %. 0: not given."
        ),
    )
    limit_weekly: int = Field(default=0, ge=0, le=100, description="The same for the weekly window.")
    plan_weight: Weight | None = Field(
        default=None,
        description="Weight of an API key among other credentials, 1 if left out. An account's weight is its plan's.",
    )


class ExternalCredential(Options):
    """A credential of type `external`: another instance, which lends us its capacity.

    With `url`: we send requests there. Without: a *receiver*, reachable only through a connection that the remote
    opens to us. With `reverse`: a *connector*, we open such a connection to the remote and serve it.
    """

    tag: Name = Field(description="Unique name of the credential within its service.")
    type: Literal["external"] = Field(description="")
    url: URL | None = Field(default=None, description="Base URL of the remote, with an optional path prefix.")
    server: Host | None = Field(
        default=None, description="Dial this host instead of the URL's, which is still what Host and SNI say."
    )
    server_port: Port | None = Field(default=None, description="Dial this port instead of the URL's.")
    token: SecretStr | None = Field(
        default=None,
        description="Token that the remote gave us as one of its users; one of the three token options is required.",
    )
    token_file: FilePath | None = Field(default=None, description="A file with the token.")
    token_env: Variable | None = Field(default=None, description="The environment variable with the token.")
    reverse: bool = Field(
        default=False,
        description="Dial out to `url`, which is required then, and serve the remote over that.",
    )
    plan_weight: Weight | None = Field(
        default=None, description="Fixed weight of the remote. Left out: what the remote says, or 10."
    )
    detour: str | None = Field(
        default=None, description="Tag of the outbound that every connection of this credential takes."
    )
    usages_path: FilePath | None = Field(
        default=None,
        description="Database in which this credential's usage is recorded. Left out: not recorded.",
    )


class BalancerCredential(Options):
    """A credential of type `balancer`: a pool over default and external credentials."""

    tag: Name = Field(description="Unique name of the pool within its service.")
    type: Literal["balancer"] = Field(description="")
    credentials: OneOrMore = Field(description="Tags of the members, at least one. Pools cannot be members.")
    strategy: Literal["least-used", "round-robin", "random", "fallback"] = Field(
        default="least-used",
        description=(
            "`least-used`: the one with the most capacity left; `round-robin`; `random`; `fallback`: the first that is"
            " usable."
        ),
    )
    rebalance_threshold: float = Field(
        default=0.0,
        ge=0,
        description=(
            "With `least-used`: move sessions when another member's weekly window is less used by more than this many"
            " percent, divided by the plan weight. 0: off."
        ),
    )
    spread_subagents: bool = Field(
        default=False,
        description=(
            "Treat each subagent of a session as a session of its own, so that one conversation with many of them uses"
            " several accounts. Each then pays for its own prompt cache."
        ),
    )


class UserOptions(Options):
    """`users[]` of a service: who may use it, and through which credential."""

    name: Name = Field(description="Unique name within the service; it stands in logs and usage records.")
    token: SecretStr | None = Field(
        default=None,
        description="Unique token that the client sends; one of the three token options is required.",
    )
    token_file: FilePath | None = Field(default=None, description="A file with the token.")
    token_env: Variable | None = Field(default=None, description="The environment variable with the token.")
    credential: str | None = Field(
        default=None,
        description="Tag of the credential or pool to use. Required when there is more than one.",
    )
    external_credential: str | None = Field(
        default=None,
        description=(
            "Tag of the external credential through which this user, being another instance, lends to us: its share is"
            " left out of what this user is told. Does not route."
        ),
    )
    allow_external_usage: bool = Field(
        default=False, description="May this user's requests use external credentials?"
    )


def _credential_type(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return None
    kind = value.get("type")
    return f"{BRANCH}{'default' if kind is None else kind}"


def _outbound_type(value: Any) -> str | None:
    return f"{BRANCH}{value.get('type')}" if isinstance(value, Mapping) else None


CredentialOptions = Annotated[
    Annotated[DefaultCredential, Tag(f"{BRANCH}default")]
    | Annotated[ExternalCredential, Tag(f"{BRANCH}external")]
    | Annotated[BalancerCredential, Tag(f"{BRANCH}balancer")],
    Discriminator(_credential_type),
]


class ServiceOptions(Options):
    """`services[]`: one listening address that speaks one provider's protocol.

    `credential_path`, `usages_path` and `detour` describe the one credential, tagged `default`, of a service without
    `credentials`.
    """

    type: Literal["ccm", "ocm"] = Field(description="`ccm`: Claude Code. `ocm`: OpenAI Codex.")
    tag: Name | None = Field(default=None, description="Name of the service in logs.")
    listen: Annotated[str, AfterValidator(_listen)] | None = Field(
        default=None, description="IP address to listen on, `127.0.0.1` if left out."
    )
    listen_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="TCP port, 8080 (`ccm`) or 8081 (`ocm`) if left out. 0: any free one.",
    )
    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = Field(
        default=None,
        description=(
            "Instead of `listen` and `listen_port`: a Twisted server endpoint, like `unix:/run/ccmproxy.sock:mode=660`,"
            " `systemd:domain=INET:index=0` or `haproxy:tcp:8080`."
        ),
    )
    tls: TLSOptions = Field(default=TLSOptions(), description="Serve TLS.")
    credential_path: FilePath | None = Field(
        default=None, description="Single credential: its file. Not together with `credentials`."
    )
    usages_path: FilePath | None = Field(
        default=None,
        description="Single credential: where its usage is recorded. Not together with `credentials`.",
    )
    detour: str | None = Field(
        default=None, description="Single credential: tag of its outbound. Not together with `credentials`."
    )
    credentials: list[CredentialOptions] = Field(
        default=[], description="Several credentials, each with a `tag`."
    )
    users: list[UserOptions] = Field(
        default=[],
        description="Who may use the service. Empty: everybody who reaches it, through the first credential.",
    )
    allow_anonymous: bool = Field(
        default=False,
        description="Allow a service without users to listen on more than a loopback address or a unix socket.",
    )
    headers: dict[str, OneOrMore] = Field(
        default={},
        description="Header name → value, or list of values, sent to the upstream in place of the client's.",
    )
    upstream: UpstreamOptions = Field(
        default=UpstreamOptions(), description="Where the provider is, and how long to wait for it."
    )
    trusted_proxies: list[Annotated[str, AfterValidator(_network)]] = Field(
        default=[],
        description="Addresses and networks of reverse proxies whose `X-Forwarded-For` is believed.",
    )
    max_request_body: Size = Field(
        default=64 * MIB, ge=1, le=16 * GIB, description="Longer request bodies are refused with 413."
    )
    max_request_head: Size = Field(
        default=64 * KIB,
        ge=KIB,
        le=16 * MIB,
        description="Longer request heads (request line and headers) are refused with 431.",
    )
    max_connections_per_user: int | None = Field(
        default=None,
        ge=1,
        description="Requests that one user may have under way at a time. Left out: no limit.",
    )
    head_timeout: Timeout = Field(default=30.0, description="Longest wait for a whole request head.")
    body_timeout: Timeout = Field(
        default=60.0, description="Longest wait between two pieces of a request body."
    )
    keepalive_timeout: Timeout = Field(
        default=300.0, description="How long a connection without a request is kept open."
    )
    client_stall_timeout: Timeout = Field(
        default=600.0,
        description=(
            "A client that takes not a single byte of what waits for it for so long is disconnected. One that reads"
            " slowly never is."
        ),
    )
    ping_interval: Duration = Field(
        default=0.0,
        description=(
            "Send a keep-alive into an event stream in which nothing happened for so long, for proxies in between that"
            " cut silent connections (15 s is usual). 0: off."
        ),
    )


class DirectOutbound(Options):
    """An outbound of type `direct`: straight to the destination."""

    tag: Name = Field(description="Unique name of the outbound.")
    type: Literal["direct"] = Field(description="")
    bind_address: Annotated[str, AfterValidator(_listen)] | None = Field(
        default=None, description="Local IP address that connections come from."
    )


class SocksOutbound(Options):
    """An outbound of type `socks`: through a SOCKS5 proxy, which resolves the names."""

    tag: Name = Field(description="Unique name of the outbound.")
    type: Literal["socks"] = Field(description="")
    server: Host = Field(description="Host of the proxy.")
    server_port: Port = Field(description="Port of the proxy.")
    username: str | None = Field(default=None, description="Left out: no authentication.")
    password: SecretStr | None = Field(default=None, description="Goes with `username`.")


class HTTPOutbound(Options):
    """An outbound of type `http`: through an HTTP proxy (CONNECT), which resolves the names."""

    tag: Name = Field(description="Unique name of the outbound.")
    type: Literal["http"] = Field(description="")
    server: Host = Field(description="Host of the proxy.")
    server_port: Port = Field(description="Port of the proxy.")
    username: str | None = Field(default=None, description="Left out: no authentication.")
    password: SecretStr | None = Field(default=None, description="Goes with `username`.")
    tls: bool = Field(default=False, description="Speak TLS to the proxy itself.")


OutboundOptions = Annotated[
    Annotated[DirectOutbound, Tag(f"{BRANCH}direct")]
    | Annotated[SocksOutbound, Tag(f"{BRANCH}socks")]
    | Annotated[HTTPOutbound, Tag(f"{BRANCH}http")],
    Discriminator(_outbound_type),
]

Price = Annotated[float, Field(ge=0)]


class PriceOptions(Options):
    """`prices.MODEL`: what a model costs, in USD per million tokens. Overrides the price list that comes with us."""

    input: Price = Field(description="Input tokens.")
    output: Price = Field(description="Output tokens.")
    cache_read: Price | None = Field(
        default=None, description="Input tokens read from the cache; left out: as `input`."
    )
    cache_write: Price | None = Field(
        default=None, description="Input tokens written to the cache; left out: as `input`."
    )
    cache_write_1h: Price | None = Field(
        default=None, description="Input tokens written to the cache for an hour; left out: as `cache_write`."
    )


class FileOptions(Options):
    """The whole file."""

    model_config = ConfigDict(title="ccmproxy configuration")

    services: list[ServiceOptions] = Field(min_length=1, description="What is served; at least one.")
    outbounds: list[OutboundOptions] = Field(
        default=[], description="Tagged ways out to the network, for `detour`."
    )
    log: LogOptions = Field(default=LogOptions(), description="What is logged, and how.")
    shutdown_grace: Duration = Field(
        default=30.0, description="How long streams in flight may go on when the service is stopped."
    )
    prices: dict[str, PriceOptions] = Field(
        default={}, description="Model name → price, where the built-in list is to be overridden."
    )


#: Kind of mapping → type that it says → its options: what :func:`options_at` walks through.
CREDENTIAL_TYPES: Mapping[str, type[Options]] = {
    "default": DefaultCredential,
    "external": ExternalCredential,
    "balancer": BalancerCredential,
}
OUTBOUND_TYPES: Mapping[str, type[Options]] = {
    "direct": DirectOutbound,
    "socks": SocksOutbound,
    "http": HTTPOutbound,
}


def json_schema() -> dict[str, Any]:
    """A JSON schema (draft 2020-12) of the file, for editors."""
    schema = FileOptions.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
