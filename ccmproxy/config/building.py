"""Builds the values that the program works with from the options of a valid file. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType

from pydantic import SecretStr

from ccmproxy.config import addresses, schema
from ccmproxy.config.checks import DEFAULT_LISTEN, DEFAULT_PORTS
from ccmproxy.config.credential_options import BalancerCredential, DefaultCredential, ExternalCredential
from ccmproxy.config.outbound_options import (
    DirectOutboundOptions,
    HTTPOutboundOptions,
    OutboundOptions,
    SocksOutboundOptions,
)
from ccmproxy.config.problems import Path
from ccmproxy.config.secret_sources import Secrets
from ccmproxy.config.values import (
    BODIES,
    LONGEST_BODY,
    Config,
    CredentialConfig,
    DirectOutboundConfig,
    ExternalConfig,
    LogConfig,
    OutboundConfig,
    PoolConfig,
    ProxyOutboundConfig,
    ServiceConfig,
    ServiceLimits,
    UpstreamConfig,
    UserConfig,
)
from ccmproxy.policy.prices import OwnPrice, OwnPrices, TokenPrices


@dataclass(frozen=True, slots=True)
class Place:
    """Where a configuration is located, for resolving its paths.

    ``absolute`` makes a path of the file absolute; ``client_file`` takes a type of service (``ccm``) and returns the
    absolute path at which its official client keeps the login.
    """

    absolute: Callable[[str], str]
    client_file: Callable[[str], str]


def build_config(options: schema.FileOptions, secrets: Secrets, place: Place, path: str | None) -> Config:
    """The values for options that were checked and have no problem."""
    outbounds = {each.tag: _outbound(each) for each in options.outbounds}
    services = tuple(
        _service(service, ("services", index), secrets, place, outbounds)
        for index, service in enumerate(options.services)
    )
    files = [path] if path else []
    for service, built in zip(options.services, services, strict=True):
        files += [place.absolute(each) for each in _secret_files(service)]
        files += [each.credential_path for each in built.credentials if each.credential_path]
    return Config(
        services=services,
        log=LogConfig(options.log.level, options.log.format),
        shutdown_grace=options.shutdown_grace,
        path=path,
        secret_files=tuple(dict.fromkeys(files)),
        prices=OwnPrices(tuple((model, _own_price(each)) for model, each in options.prices.items())),
    )


def _secret_files(service: schema.ServiceOptions) -> Iterator[str]:
    for credential in service.credentials:
        if isinstance(credential, DefaultCredential) and credential.api_key_file:
            yield credential.api_key_file
        if isinstance(credential, ExternalCredential) and credential.token_file:
            yield credential.token_file
    for user in service.users:
        if user.token_file:
            yield user.token_file


def _outbound(options: OutboundOptions) -> OutboundConfig:
    match options:
        case DirectOutboundOptions():
            return DirectOutboundConfig(options.tag, options.bind_address)
        case SocksOutboundOptions() | HTTPOutboundOptions():
            return ProxyOutboundConfig(
                tag=options.tag,
                type=options.type,
                server=options.server,
                server_port=options.server_port,
                username=options.username or None,
                password=options.password,
                tls=isinstance(options, HTTPOutboundOptions) and options.tls,
            )


def _service(
    options: schema.ServiceOptions,
    path: Path,
    secrets: Secrets,
    place: Place,
    outbounds: Mapping[str, OutboundConfig],
) -> ServiceConfig:
    listen: str | None = None
    port: int | None = None
    if options.endpoint:
        endpoint, address = options.endpoint, options.endpoint
    else:
        listen = addresses.parse_listen(options.listen or DEFAULT_LISTEN)
        port = DEFAULT_PORTS[options.type] if options.listen_port is None else options.listen_port
        endpoint = addresses.tcp_endpoint(listen, port)
        address = addresses.tcp_address(listen, port).text
    credentials = tuple(_credentials(options, path, secrets, place, outbounds))
    first = options.credentials[0].tag if options.credentials else credentials[0].tag
    users = tuple(
        UserConfig(
            user.name,
            _required(secrets, (*path, "users", index, "token")),
            user.credential or first,
            user.allow_external_usage,
            user.external_credential or None,
            user.instance,
            tuple(user.models),
            user.max_connections_per_user,
        )
        for index, user in enumerate(options.users)
    )
    return ServiceConfig(
        name=options.tag or f"{options.type} {address}",
        type=options.type,
        endpoint=endpoint,
        address=address,
        credentials=credentials,
        first=first,
        externals=tuple(_externals(options, path, secrets, outbounds)),
        pools=tuple(
            PoolConfig(
                pool.tag,
                tuple(pool.credentials),
                pool.strategy,
                pool.rebalance_threshold,
                pool.spread_subagents,
                pool.patience,
            )
            for pool in options.credentials
            if isinstance(pool, BalancerCredential)
        ),
        listen=listen,
        listen_port=port,
        users=users,
        allow_anonymous=options.allow_anonymous,
        headers=MappingProxyType({name: tuple(values) for name, values in options.headers.items()}),
        upstream=_upstream(options.upstream, place),
        limits=_limits(options),
        trusted_proxies=tuple(ipaddress.ip_network(each, strict=False) for each in options.trusted_proxies),
    )


def _credentials(
    service: schema.ServiceOptions,
    path: Path,
    secrets: Secrets,
    place: Place,
    outbounds: Mapping[str, OutboundConfig],
) -> Iterator[CredentialConfig]:
    if not service.credentials:
        single = DefaultCredential(
            tag="default", credential_path=service.credential_path, detour=service.detour
        )
        yield _credential(single, service.type, None, place, outbounds)
    for index, credential in enumerate(service.credentials):
        if isinstance(credential, DefaultCredential):
            key = secrets.get((*path, "credentials", index, "api_key"))
            yield _credential(credential, service.type, key, place, outbounds)


def _externals(
    service: schema.ServiceOptions, path: Path, secrets: Secrets, outbounds: Mapping[str, OutboundConfig]
) -> Iterator[ExternalConfig]:
    for index, options in enumerate(service.credentials):
        if isinstance(options, ExternalCredential):
            yield ExternalConfig(
                tag=options.tag,
                token=_required(secrets, (*path, "credentials", index, "token")),
                url=options.url,
                server=options.server,
                server_port=options.server_port,
                is_connector=options.reverse,
                plan_weight=options.plan_weight,
                outbound=outbounds[options.detour] if options.detour else None,
            )


def _credential(
    options: DefaultCredential,
    kind: str,
    api_key: SecretStr | None,
    place: Place,
    outbounds: Mapping[str, OutboundConfig],
) -> CredentialConfig:
    path: str | None = None
    is_default_path = False
    if api_key is None:
        if options.claude_directory:
            path = place.absolute(f"{options.claude_directory}/.credentials.json")
        elif options.credential_path:
            path = place.absolute(options.credential_path)
        else:
            path = place.client_file(kind)
            is_default_path = True
    return CredentialConfig(
        tag=options.tag,
        credential_path=path,
        is_default_path=is_default_path,
        api_key=api_key,
        short_cap=_cap(options.reserve_5h, options.limit_5h),
        weekly_cap=_cap(options.reserve_weekly, options.limit_weekly),
        plan_weight=options.plan_weight,
        outbound=outbounds[options.detour] if options.detour else None,
    )


def _cap(reserve: int, limit: int) -> float:
    """Percent at which the credential pauses; 0 = not given, and then the default is a reserve of 1 (spec 1)."""
    return float(limit or 100 - (reserve or 1))


def _upstream(options: schema.UpstreamOptions, place: Place) -> UpstreamConfig:
    return UpstreamConfig(
        api_url=options.api_url,
        token_url=options.token_url,
        usage_url=options.usage_url,
        profile_url=options.profile_url,
        ca_path=place.absolute(options.ca_path) if options.ca_path else None,
        user_agent=options.user_agent,
        connect_timeout=options.connect_timeout,
        first_byte_timeout=options.first_byte_timeout,
        idle_timeout=options.idle_timeout,
    )


def _limits(options: schema.ServiceOptions) -> ServiceLimits:
    return ServiceLimits(
        max_request_body=options.max_request_body,
        max_request_bodies=options.max_request_bodies or BODIES * max(options.max_request_body, LONGEST_BODY),
        max_request_head=options.max_request_head,
        max_connections_per_user=options.max_connections_per_user,
        head_timeout=options.head_timeout,
        body_timeout=options.body_timeout,
        keepalive_timeout=options.keepalive_timeout,
        client_stall_timeout=options.client_stall_timeout,
        ping_interval=options.ping_interval or None,
    )


def _own_price(options: schema.PriceOptions) -> OwnPrice:
    usual, long = _token_prices(options), options.long_context
    return OwnPrice(usual) if long is None else OwnPrice(usual, _token_prices(long), long.above)


def _token_prices(options: schema.TokenPriceOptions) -> TokenPrices:
    def price(given: float | None, default: Decimal) -> Decimal:
        # By its shortest text, so that 0.1 in the file is 0.1.
        return default if given is None else Decimal(str(given))

    usual = price(options.input, Decimal(0))
    written = price(options.cache_write, usual)
    return TokenPrices(
        input=usual,
        output=price(options.output, Decimal(0)),
        cache_read=price(options.cache_read, usual),
        cache_write=written,
        cache_write_1h=price(options.cache_write_1h, written),
    )


def _required(secrets: Secrets, path: Path) -> SecretStr:
    secret = secrets.get(path)
    assert secret is not None, "a user or remote without a token is a problem"
    return secret
