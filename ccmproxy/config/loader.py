"""Reads a configuration: the file, the secrets that it names, and the environment. Everything else here is pure.

The whole file is checked before anything is returned, and every problem is reported at once (spec 1, Errors).
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pydantic import SecretStr

from ccmproxy.config import addresses, schema
from ccmproxy.config.checks import DEFAULT_LISTEN, DEFAULT_PORTS, check_document
from ccmproxy.config.document import LONGEST, Document, DocumentError, read_document
from ccmproxy.config.not_supported import check_supported, is_supported
from ccmproxy.config.problems import ConfigurationError, Path, Problem, Report
from ccmproxy.config.secret_sources import Secrets, read_secrets
from ccmproxy.config.shape import check_shape
from ccmproxy.config.values import (
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
from ccmproxy.dialects.registry import DIALECTS

#: Bytes of a file that holds one token; more is not read.
_SECRET_FILE = 64 * 1024
#: Permission bits by which everybody may read a file.
_READABLE_BY_OTHERS = 0o004


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What a configuration depends on besides its text. ``directory``: what its relative paths are relative to."""

    environ: Mapping[str, str]
    home: str
    directory: str

    def absolute(self, path: str) -> str:
        """``path`` of the file as an absolute one, ``~`` replaced."""
        if path == "~" or path.startswith("~/"):
            path = self.home + path[1:]
        return os.path.normpath(os.path.join(self.directory, path))


def load(
    path: str | os.PathLike[str],
    *,
    environ: Mapping[str, str] | None = None,
    home: str | None = None,
    home_of: Callable[[str], str | None] | None = None,
) -> Config:
    """Read and check the file at ``path``. Relative paths in it are relative to its directory.

    ``environ``, ``home`` (a directory) and ``home_of`` (user name → home, for sudo): the process's own where left out.
    Raises ConfigurationError with every problem, also for a file that cannot be read.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            content = file.read(4 * LONGEST + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConfigurationError(
            [Problem("", f"cannot be read: {reason or 'not a valid path'}", name)]
        ) from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        column = error.start - before.rfind(b"\n")
        message = "is not UTF-8 text"
        raise ConfigurationError([Problem("", message, name, before.count(b"\n") + 1, column)]) from None
    absolute = os.path.abspath(name)
    surroundings = _surroundings(environ, home, home_of, os.path.dirname(absolute))
    return _load(text, name, surroundings, absolute)


def load_text(
    text: str,
    name: str,
    *,
    directory: str | None = None,
    environ: Mapping[str, str] | None = None,
    home: str | None = None,
    home_of: Callable[[str], str | None] | None = None,
) -> Config:
    """Check a configuration that is at hand as text. ``name`` stands for the file in messages.

    ``directory``: what relative paths are relative to; the working directory where left out. The rest as for
    :func:`load`. Raises ConfigurationError.
    """
    return _load(text, name, _surroundings(environ, home, home_of, directory or os.getcwd()), None)


def default_config(
    environ: Mapping[str, str] | None = None,
    home: str | None = None,
    *,
    home_of: Callable[[str], str | None] | None = None,
    is_file: Callable[[str], bool] = os.path.isfile,
) -> Config:
    """What is served when nothing is given at all (spec 1): every provider on its own port, on the loopback address.

    Claude always; others where their official CLI has left a credential file.
    """
    surroundings = _surroundings(environ, home, home_of, os.getcwd())
    types = ["ccm"]
    for kind, dialect in DIALECTS.items():
        if kind not in types and is_supported("services[].type", kind):
            if is_file(dialect.account.default_path(surroundings.environ, surroundings.home)):
                types.append(kind)
    options = schema.FileOptions.model_validate({"services": [{"type": kind} for kind in types]})
    return _build(options, Secrets(), surroundings, None)


def readable_by_others(config: Config) -> tuple[str, ...]:
    """Those of the files with secrets that every user of this machine may read. Missing ones are left out."""
    found = []
    for path in config.secret_files:
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if mode & _READABLE_BY_OTHERS:
            found.append(path)
    return tuple(found)


def _surroundings(
    environ: Mapping[str, str] | None,
    home: str | None,
    home_of: Callable[[str], str | None] | None,
    directory: str,
) -> _Surroundings:
    environ = os.environ if environ is None else environ
    home = os.path.expanduser("~") if home is None else home
    # Under sudo the login is that of the person who typed it, not root's.
    user = environ.get("SUDO_USER")
    return _Surroundings(environ, ((home_of or _home_of)(user) if user else None) or home, directory)


def _home_of(user: str) -> str | None:
    if "/" in user:
        return None
    path = os.path.expanduser(f"~{user}")
    return None if path.startswith("~") else path


def _load(text: str, name: str, surroundings: _Surroundings, path: str | None) -> Config:
    try:
        document = read_document(text)
    except DocumentError as error:
        at = error.position
        raise ConfigurationError(
            [Problem("", str(error), name, at.line if at else None, at.column if at else None)]
        ) from None
    report = Report(name, document.positions, document.secrets)
    options, secrets = _check(document, surroundings, report)
    problems = report.problems()
    if problems or options is None:
        raise ConfigurationError(problems)
    return _build(options, secrets, surroundings, path)


def _check(
    document: Document, surroundings: _Surroundings, report: Report
) -> tuple[schema.FileOptions | None, Secrets]:
    for path, message, position in document.faults:
        report.add(path, message, position)
    value = document.value
    if value is None:
        report.add((), 'is empty: it needs at least "services"')
        return None, Secrets()
    if not isinstance(value, dict):
        report.add((), 'must be a mapping of options, with "services" among them')
        return None, Secrets()
    # Secrets first: what they turn out to be must not be repeated by what follows.
    secrets = read_secrets(
        value, surroundings.environ, lambda path: _read_secret(surroundings.absolute(path)), report
    )
    options = check_shape(value, report)
    check_document(value, report)
    check_supported(value, report)
    return options, secrets


def _read_secret(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(_SECRET_FILE)


# From options to values -----------------------------------------------------------------------------------


def _build(
    options: schema.FileOptions, secrets: Secrets, surroundings: _Surroundings, path: str | None
) -> Config:
    """The values of options without a problem."""
    outbounds = {each.tag: _outbound(each) for each in options.outbounds}
    services = tuple(
        _service(service, ("services", index), secrets, surroundings, outbounds)
        for index, service in enumerate(options.services)
    )
    files = [path] if path else []
    for service, built in zip(options.services, services, strict=True):
        files += [surroundings.absolute(each) for each in _secret_files(service)]
        files += [each.credential_path for each in built.credentials if each.credential_path]
    return Config(
        services=services,
        log=LogConfig(options.log.level, options.log.format),
        shutdown_grace=options.shutdown_grace,
        path=path,
        secret_files=tuple(dict.fromkeys(files)),
    )


def _secret_files(service: schema.ServiceOptions) -> Iterator[str]:
    for credential in service.credentials:
        if isinstance(credential, schema.DefaultCredential) and credential.api_key_file:
            yield credential.api_key_file
        if isinstance(credential, schema.ExternalCredential) and credential.token_file:
            yield credential.token_file
    for user in service.users:
        if user.token_file:
            yield user.token_file


def _outbound(options: schema.OutboundOptions) -> OutboundConfig:
    match options:
        case schema.DirectOutbound():
            return DirectOutboundConfig(options.tag, options.bind_address)
        case schema.SocksOutbound() | schema.HTTPOutbound():
            return ProxyOutboundConfig(
                tag=options.tag,
                type=options.type,
                server=options.server,
                server_port=options.server_port,
                username=options.username or None,
                password=options.password,
                tls=isinstance(options, schema.HTTPOutbound) and options.tls,
            )


def _service(
    options: schema.ServiceOptions,
    path: Path,
    secrets: Secrets,
    surroundings: _Surroundings,
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
    credentials = tuple(_credentials(options, path, secrets, surroundings, outbounds))
    first = options.credentials[0].tag if options.credentials else credentials[0].tag
    users = tuple(
        UserConfig(
            user.name,
            _required(secrets, (*path, "users", index, "token")),
            user.credential or first,
            user.allow_external_usage,
            user.external_credential or None,
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
            )
            for pool in options.credentials
            if isinstance(pool, schema.BalancerCredential)
        ),
        listen=listen,
        listen_port=port,
        users=users,
        allow_anonymous=options.allow_anonymous,
        headers=MappingProxyType({name: tuple(values) for name, values in options.headers.items()}),
        upstream=_upstream(options.upstream, surroundings),
        limits=_limits(options),
        trusted_proxies=tuple(ipaddress.ip_network(each, strict=False) for each in options.trusted_proxies),
    )


def _credentials(
    service: schema.ServiceOptions,
    path: Path,
    secrets: Secrets,
    surroundings: _Surroundings,
    outbounds: Mapping[str, OutboundConfig],
) -> Iterator[CredentialConfig]:
    if not service.credentials:
        single = schema.DefaultCredential(
            tag="default", credential_path=service.credential_path, detour=service.detour
        )
        yield _credential(single, service.type, None, surroundings, outbounds)
    for index, credential in enumerate(service.credentials):
        if isinstance(credential, schema.DefaultCredential):
            key = secrets.get((*path, "credentials", index, "api_key"))
            yield _credential(credential, service.type, key, surroundings, outbounds)


def _externals(
    service: schema.ServiceOptions, path: Path, secrets: Secrets, outbounds: Mapping[str, OutboundConfig]
) -> Iterator[ExternalConfig]:
    for index, options in enumerate(service.credentials):
        if isinstance(options, schema.ExternalCredential):
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
    options: schema.DefaultCredential,
    kind: str,
    api_key: SecretStr | None,
    surroundings: _Surroundings,
    outbounds: Mapping[str, OutboundConfig],
) -> CredentialConfig:
    path: str | None = None
    is_default_path = False
    if api_key is None:
        if options.claude_directory:
            path = os.path.join(surroundings.absolute(options.claude_directory), ".credentials.json")
        elif options.credential_path:
            path = surroundings.absolute(options.credential_path)
        else:
            path = os.path.abspath(
                DIALECTS[kind].account.default_path(surroundings.environ, surroundings.home)
            )
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
    """Percent at which to pause; 0 = not given, and then a reserve of 1 (spec 1)."""
    return float(limit or 100 - (reserve or 1))


def _upstream(options: schema.UpstreamOptions, surroundings: _Surroundings) -> UpstreamConfig:
    return UpstreamConfig(
        api_url=options.api_url,
        token_url=options.token_url,
        usage_url=options.usage_url,
        profile_url=options.profile_url,
        ca_path=surroundings.absolute(options.ca_path) if options.ca_path else None,
        user_agent=options.user_agent,
        connect_timeout=options.connect_timeout,
        first_byte_timeout=options.first_byte_timeout,
        idle_timeout=options.idle_timeout,
    )


def _limits(options: schema.ServiceOptions) -> ServiceLimits:
    return ServiceLimits(
        max_request_body=options.max_request_body,
        max_request_head=options.max_request_head,
        max_connections_per_user=options.max_connections_per_user,
        head_timeout=options.head_timeout,
        body_timeout=options.body_timeout,
        keepalive_timeout=options.keepalive_timeout,
        client_stall_timeout=options.client_stall_timeout,
        ping_interval=options.ping_interval or None,
    )


def _required(secrets: Secrets, path: Path) -> SecretStr:
    secret = secrets.get(path)
    assert secret is not None, "a user or remote without a token is a problem"
    return secret
