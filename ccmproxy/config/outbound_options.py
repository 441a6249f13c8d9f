"""The entries of `outbounds`: tagged ways out to the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, SecretStr, Tag

from ccmproxy.config.option_types import BRANCH, Host, ListenIP, Name, OptionMapping, Port, by_type


class DirectOutboundOptions(OptionMapping):
    """An outbound of type `direct`: straight to the destination."""

    tag: Name = Field(description="Unique name of the outbound.")
    type: Literal["direct"] = Field(description="")
    bind_address: ListenIP | None = Field(
        default=None, description="Local IP address that connections come from."
    )


class SocksOutboundOptions(OptionMapping):
    """An outbound of type `socks`: through a SOCKS5 proxy, which resolves the names."""

    tag: Name = Field(description="Unique name of the outbound.")
    type: Literal["socks"] = Field(description="")
    server: Host = Field(description="Host of the proxy.")
    server_port: Port = Field(description="Port of the proxy.")
    username: str | None = Field(default=None, description="Left out: no authentication.")
    password: SecretStr | None = Field(default=None, description="Goes with `username`.")


class HTTPOutboundOptions(OptionMapping):
    """An outbound of type `http`: through an HTTP proxy (CONNECT), which resolves the names."""

    tag: Name = Field(description="Unique name of the outbound.")
    type: Literal["http"] = Field(description="")
    server: Host = Field(description="Host of the proxy.")
    server_port: Port = Field(description="Port of the proxy.")
    username: str | None = Field(default=None, description="Left out: no authentication.")
    password: SecretStr | None = Field(default=None, description="Goes with `username`.")
    tls: bool = Field(default=False, description="Speak TLS to the proxy itself.")


OutboundOptions = Annotated[
    Annotated[DirectOutboundOptions, Tag(f"{BRANCH}direct")]
    | Annotated[SocksOutboundOptions, Tag(f"{BRANCH}socks")]
    | Annotated[HTTPOutboundOptions, Tag(f"{BRANCH}http")],
    by_type(),
]

#: Type → its options.
OUTBOUND_TYPES: Mapping[str, type[OptionMapping]] = {
    "direct": DirectOutboundOptions,
    "socks": SocksOutboundOptions,
    "http": HTTPOutboundOptions,
}
