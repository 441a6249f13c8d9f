"""The configuration file: every option, with its type, bounds, default and meaning.

These models describe each option by itself; rules between several options are in :mod:`ccmproxy.config.checks`. The
descriptions are the reference: docs/configuration.md and the JSON schema are generated from them. An option that is
null counts as left out, and so does an empty path, tag or list.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, SecretStr

from ccmproxy.config.credential_options import CredentialOptions
from ccmproxy.config.option_types import (
    URL,
    FilePath,
    ListenIP,
    Name,
    Network,
    OneOrMore,
    OneOrMoreGlobs,
    OptionMapping,
    ServerEndpoint,
    UserAgent,
    Variable,
)
from ccmproxy.config.outbound_options import OutboundOptions
from ccmproxy.config.units import GIB, KIB, MIB, Duration, Size, Timeout
from ccmproxy.config.values import BODIES, LONGEST_BODY
from ccmproxy.policy.prices import LONG_CONTEXT


def _tls_version(value: Any) -> Any:
    # YAML reads an unquoted 1.2 as a number.
    return f"{value:.1f}" if type(value) is float and value in (1.2, 1.3) else value


class LogOptions(OptionMapping):
    """`log`: what is logged, and how."""

    level: Literal["debug", "info", "warn", "error"] = Field(
        default="info", description="The least severe level that is logged."
    )
    format: Literal["text", "json"] = Field(
        default="text", description="Lines for people, or one JSON object per line."
    )


class TLSOptions(OptionMapping):
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


class UpstreamOptions(OptionMapping):
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
    user_agent: UserAgent | None = Field(
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


class UserOptions(OptionMapping):
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
    instance: bool = Field(
        default=False,
        description=(
            "This user is another instance, such as sing-box: a 429 tells it in header fields until when to leave us"
            " alone. Users with `external_credential`, and instances of ccmproxy, are recognized without it."
        ),
    )
    models: OneOrMoreGlobs = Field(
        default=[],
        description=(
            "Which models this user may ask for: a glob like `claude-sonnet-*`, or a list of them; upper and lower case"
            " differ. Anything else is refused with 403. Left out: every model."
        ),
    )
    max_connections_per_user: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Requests that this user may have under way at a time, in place of what the service says. Left out: what it"
            " says."
        ),
    )


class ServiceOptions(OptionMapping):
    """`services[]`: one listening address that speaks one provider's protocol.

    `credential_path`, `usages_path` and `detour` describe the one credential, tagged `default`, of a service without
    `credentials`.
    """

    type: Literal["ccm", "ocm"] = Field(description="`ccm`: Claude Code. `ocm`: OpenAI Codex.")
    tag: Name | None = Field(default=None, description="Name of the service in logs.")
    listen: ListenIP | None = Field(
        default=None, description="IP address to listen on, `127.0.0.1` if left out."
    )
    listen_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="TCP port, 8080 (`ccm`) or 8081 (`ocm`) if left out. 0: any free one.",
    )
    endpoint: ServerEndpoint | None = Field(
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
    trusted_proxies: list[Network] = Field(
        default=[],
        description="Addresses and networks of reverse proxies whose `X-Forwarded-For` is believed.",
    )
    max_request_body: Size = Field(
        default=LONGEST_BODY, ge=1, le=16 * GIB, description="Longer request bodies are refused with 413."
    )
    max_request_bodies: Size | None = Field(
        default=None,
        ge=1,
        le=1024 * GIB,
        description=(
            "All request bodies that are held at a time, and half of it those of one user: more are refused with 503."
            f" At least twice `max_request_body`. Left out: {BODIES} times that, and no less than 512 MiB."
        ),
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


#: A price of more than a dollar for one token is a slip of the pen.
Price = Annotated[float, Field(ge=0, le=1_000_000)]


class TokenPriceOptions(OptionMapping):
    """What tokens cost, in USD per million."""

    input: Price = Field(description="Input tokens.")
    output: Price = Field(description="Output tokens, reasoning included.")
    cache_read: Price | None = Field(
        default=None, description="Input tokens read from the cache; left out: as `input`."
    )
    cache_write: Price | None = Field(
        default=None, description="Input tokens written to the cache; left out: as `input`."
    )
    cache_write_1h: Price | None = Field(
        default=None, description="Input tokens written to the cache for an hour; left out: as `cache_write`."
    )


class LongContextOptions(TokenPriceOptions):
    """`prices.MODEL.long_context`: what all tokens of a request cost that has more than `above` input tokens."""

    above: int = Field(
        default=LONG_CONTEXT,
        ge=1,
        description="So many input tokens, cached ones included, are not long yet.",
    )


class PriceOptions(TokenPriceOptions):
    """`prices.MODEL`: what a model costs, in USD per million tokens, whenever and however it is served.

    Goes before the price list that comes with us.
    """

    long_context: LongContextOptions | None = Field(
        default=None, description="Prices of requests with many input tokens; left out: the same."
    )


class FileOptions(OptionMapping):
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
    prices: dict[Name, PriceOptions] = Field(
        default={},
        description=(
            "Model → price, where the built-in list is wrong or knows none. A name, which goes before all others, or a"
            " pattern (`*`: any characters, `?`: one), of which the first that matches counts."
        ),
    )


def json_schema() -> dict[str, Any]:
    """A JSON schema (draft 2020-12) of the file, for editors."""
    schema = FileOptions.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
